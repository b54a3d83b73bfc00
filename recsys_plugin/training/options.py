"""What may be chosen about a training run; no torch here, so that a command that finds all current stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "CTR_MODELS",
    "FINE_TUNING_MODES",
    "FineTuningOptions",
    "RankerOptions",
    "TrackingOptions",
    "TrainingOptions",
    "TwoTowerOptions",
]

#: The CTR models that `recsys train --model` knows; split_mlp is always trained.
CTR_MODELS = ("split_mlp", "logistic", "lightgbm", "dcn", "din", "mmoe", "ple")


@dataclass(frozen=True, slots=True)
class TwoTowerOptions:
    """How the two-tower is trained."""

    steps: int = 900
    batch: int = 768
    learning_rate: float = 2e-3
    id_dropout: float = 0.2
    history_dropout: float = 0.05
    seed: int = 0


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
class TrainingOptions:
    """What may be chosen about a training run."""

    encoder: str = "minilm"
    candidates: int = 500
    most_contexts: int = 30_000
    most_evaluated: int = 10_000
    ranker_contexts: int = 8_000
    weeks: int = 26
    seed: int = 0
    leave_out: tuple[str, ...] = ()
    ctr_models: tuple[str, ...] = ("split_mlp",)
    fine_tuning: FineTuningOptions = field(default_factory=FineTuningOptions)
    two_tower: TwoTowerOptions = field(default_factory=TwoTowerOptions)
    ranker: RankerOptions = field(default_factory=RankerOptions)
