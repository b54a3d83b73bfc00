"""What may be chosen about a training run; no torch here, so that a command that finds all current stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recsys_plugin.errors import InvalidInput

__all__ = [
    "CTR_MODELS",
    "FINE_TUNING_MODES",
    "LEAVE_OUT",
    "SOFTMAXES",
    "FineTuningOptions",
    "RankerOptions",
    "TrackingOptions",
    "TrainingOptions",
    "TwoTowerOptions",
    "WarmStart",
    "training_options_of",
]

#: What a training run may be made to do without, to measure what it is worth.
LEAVE_OUT = ("text", "behaviour")
#: What the two-tower may be trained with.
SOFTMAXES = ("sampled", "full")
#: The CTR models that `recsys train --model` knows; split_mlp is always trained.
CTR_MODELS = ("split_mlp", "logistic", "lightgbm", "dcn", "din", "mmoe", "ple")


@dataclass(frozen=True, slots=True)
class TwoTowerOptions:
    """How the two-tower is trained.

    Attributes:
        steps: of the optimiser. batch: contexts of a step. learning_rate: at the start; it falls to 0 along a cosine.
        id_dropout: share of the items that a step knows by their content alone. history_dropout: share of the contexts
            whose history a step forgets.
        softmax: ``"sampled"``, over the batch with logQ correction, or ``"full"``, over the catalogue.
        seed: of every random choice.

    Raises:
        InvalidInput: if there is no such softmax.
    """

    steps: int = 900
    batch: int = 768
    learning_rate: float = 2e-3
    id_dropout: float = 0.2
    history_dropout: float = 0.05
    softmax: str = "sampled"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.softmax not in SOFTMAXES:
            raise InvalidInput(f"there is no softmax {self.softmax!r}; there are {', '.join(SOFTMAXES)}")


@dataclass(frozen=True, slots=True)
class RankerOptions:
    """How the ranker is trained."""

    epochs: int = 4
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


#: What may be trained of the text encoder; see :class:`FineTuningOptions`.
FINE_TUNING_MODES = ("frozen", "lora", "full")


@dataclass(frozen=True, slots=True)
class FineTuningOptions:
    """How the text encoder is fine-tuned.

    Attributes:
        mode: ``"frozen"`` leaves it as it is; ``"lora"`` trains low-rank changes of its linear layers; ``"full"``
            trains all but the token embeddings.
        epochs: at most so many passes over the examples. batch: examples a step.
        learning_rate: the peak, None for the mode's own. rank: of LoRA's changes. dropout: in the language model.
        max_tokens: training texts are cut to so many tokens.
        patience: epochs without a better validation loss before training stops.
        checkpoint_every: steps between checkpoints.
        mixed_precision: bfloat16 where it is safe; on a GPU only.
        most_pairs: at most so many pairs of a shop's events.
        seed: of every random choice.
    """

    mode: str = "frozen"
    epochs: int = 2
    batch: int = 64
    learning_rate: float | None = None
    rank: int = 8
    dropout: float = 0.0
    max_tokens: int = 40
    patience: int = 1
    checkpoint_every: int = 50
    mixed_precision: bool = True
    most_pairs: int = 20_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrackingOptions:
    """Where the curves of a run are shown; nothing that is trained depends on it.

    Attributes:
        tracker: one of :data:`~recsys_plugin.training.tracking.TRACKERS`.
        run: the run's name there.
    """

    tracker: str = "none"
    run: str = "run"


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Training that goes on from the weights of an exported version.

    Attributes:
        version: which. digest: SHA-256 of what was kept of it.
        share: of the steps and passes of a training from nothing. rate: of its learning rate.
    """

    version: int
    digest: str
    share: float = 0.4
    rate: float = 0.5


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What may be chosen about a training run.

    Attributes:
        encoder: name or folder of the text encoder. candidates: how many are retrieved for ranking.
        most_contexts: acts that the two-tower learns from, drawn at random beyond that.
        most_evaluated: users of validation and of test, likewise.
        ranker_contexts: pages that rankers learn from, likewise: moments at which the shop might have shown one.
        shown_pages: logged pages that they learn from as well, likewise; 0 for none. shown_window: hours after a page
            within which a click, cart or purchase counts as its outcome: which of the joined tables is read.
        weeks: of item snapshots before the validation. seed: of the draws.
        leave_out: of :data:`LEAVE_OUT`. ctr_models: of :data:`CTR_MODELS`.
        fine_tuning: of the encoder. two_tower, ranker: how these are trained.
        warm_start: what to go on from; None to begin with random weights.

    Raises:
        InvalidInput: if something is left out that there is not.
    """

    encoder: str = "minilm"
    candidates: int = 500
    most_contexts: int = 30_000
    most_evaluated: int = 10_000
    ranker_contexts: int = 8_000
    shown_pages: int = 8_000
    shown_window: int = 24
    weeks: int = 26
    seed: int = 0
    leave_out: tuple[str, ...] = ()
    ctr_models: tuple[str, ...] = ("split_mlp",)
    fine_tuning: FineTuningOptions = field(default_factory=FineTuningOptions)
    two_tower: TwoTowerOptions = field(default_factory=TwoTowerOptions)
    ranker: RankerOptions = field(default_factory=RankerOptions)
    warm_start: WarmStart | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.leave_out) - set(LEAVE_OUT):
            raise InvalidInput(f"cannot leave out {', '.join(sorted(unknown))}; only {', '.join(LEAVE_OUT)}")


def training_options_of(document: Mapping[str, Any]) -> TrainingOptions:
    """Options as JSON holds them."""
    warm = document["warm_start"]
    return TrainingOptions(
        **{
            **document,
            "leave_out": tuple(document["leave_out"]),
            "ctr_models": tuple(document["ctr_models"]),
            "fine_tuning": FineTuningOptions(**document["fine_tuning"]),
            "two_tower": TwoTowerOptions(**document["two_tower"]),
            "ranker": RankerOptions(**document["ranker"]),
            "warm_start": None if warm is None else WarmStart(**warm),
        }
    )
