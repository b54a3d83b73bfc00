"""The one interface of all CTR models, and the calibration that they share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.zoo.frame import CtrFrame

__all__ = [
    "NO_STATISTICS",
    "Calibration",
    "CtrModel",
    "CtrOptions",
    "Fitted",
    "Progress",
    "check_layout",
    "options_document",
    "options_of",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


#: A smoothing that no number of examples can outweigh.
NO_STATISTICS = 1e12


@dataclass(frozen=True, slots=True)
class CtrOptions:
    """How a CTR model is trained; each model reads what concerns it.

    Attributes:
        epochs: passes over the data, or boosting rounds for trees, at most.
        batch: lines of a step.
        learning_rate: of Adam, or of boosting.
        weight_decay: L2 penalty of embeddings (networks) or of leaves (trees).
        patience: passes (or rounds) without a better validation loss before training stops.
        unknown: share of the codes and histories that training blanks, so that new users and items are learned.
        width: of embeddings. hidden: of the layers above. dropout: of the hidden layers.
        copies: networks trained from different seeds whose logits are averaged (a deep ensemble).
        leaves: of a tree. least: examples of a leaf, at least.
        smoothing: weight of the mean of all in the target statistic of a code, in examples; :data:`NO_STATISTICS` makes
            all codes alike.
    """

    epochs: int = 30
    batch: int = 2048
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 3
    unknown: float = 0.03
    width: int = 16
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.1
    copies: int = 1
    leaves: int = 31
    least: int = 100
    smoothing: float = 10.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of a training run.

    Attributes:
        heads: the heads that were trained; the others answer NaN.
        epochs: passes or rounds kept, for each copy or head.
        validation: validation log loss after each pass, or every tenth boosting round, of the first copy or head.
        calibrated: whether there were validation examples of both classes to calibrate on, for each head.
    """

    heads: tuple[str, ...]
    epochs: tuple[int, ...]
    validation: tuple[float, ...]
    calibrated: tuple[bool, ...]


@dataclass(slots=True)
class Calibration:
    """Platt scaling (Platt 1999): probability = sigmoid(scale · logit + offset), for each head.

    It keeps the order of the scores, has two numbers to learn, so a small validation part is enough, and is one
    multiplication and one addition in an exported graph.

    Attributes:
        scale: float32 [H], positive. offset: float32 [H]. calibrated: whether each was learned.
    """

    scale: _Array
    offset: _Array
    calibrated: tuple[bool, ...] = field(default=())

    @classmethod
    def none(cls, heads: int) -> Calibration:
        """Leaves every logit as it is."""
        return cls(np.ones(heads, np.float32), np.zeros(heads, np.float32), (False,) * heads)

    @classmethod
    def fit(cls, logits: _Array, labels: _Array, weights: _Array) -> Calibration:
        """Learn by Newton's method on the log loss; a head without both classes is left as it is.

        Platt's smoothed targets, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), keep separable data finite.

        Args:
            logits: float [n, H]. labels: float [n, H], NaN where not known. weights: float [n].
        """
        result = cls.none(logits.shape[1])
        learned = []
        for head in range(logits.shape[1]):
            known = ~np.isnan(labels[:, head]) & (weights > 0) & np.isfinite(logits[:, head])
            truth, mass = labels[known, head].astype(np.float64), weights[known].astype(np.float64)
            positive, negative = float((mass * truth).sum()), float((mass * (1.0 - truth)).sum())
            done = positive > 0 and negative > 0
            if done:
                target = np.where(truth == 1.0, (positive + 1) / (positive + 2), 1 / (negative + 2))
                found = _newton(logits[known, head].astype(np.float64), target, mass)
                done = found is not None
                if found is not None:
                    result.scale[head], result.offset[head] = found
            learned.append(done)
        result.calibrated = tuple(learned)
        return result

    def apply(self, logits: _Array) -> _Array:
        """Probabilities float32 of logits float32 [..., H]."""
        scaled = (logits * self.scale + self.offset).astype(np.float64)
        probability: _Array = (1.0 / (1.0 + np.exp(-np.clip(scaled, -80.0, 80.0)))).astype(np.float32)
        return probability

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"scale": self.scale.tolist(), "offset": self.offset.tolist(), "calibrated": list(self.calibrated)}

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Calibration:
        """Read what :meth:`document` gave."""
        return cls(
            np.array(document["scale"], np.float32),
            np.array(document["offset"], np.float32),
            tuple(document["calibrated"]),
        )


def _newton(logits: _Array, target: _Array, mass: _Array) -> tuple[float, float] | None:
    """Scale and offset, or None where the scores say nothing (a scale that is not positive would turn the order)."""
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    found = np.array([1.0, 0.0])

    def loss(values: _Array) -> float:
        scores = design @ values
        return float((mass * (np.logaddexp(0.0, scores) - target * scores)).sum())

    now = loss(found)
    for _ in range(100):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -80.0, 80.0)))
        gradient = design.T @ (mass * (chance - target))
        curvature = (design * (mass * chance * (1.0 - chance) + 1e-12)[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > now:
            size /= 2.0
        found, before = found - size * step, now
        now = loss(found)
        if before - now < 1e-10 * max(1.0, abs(before)):
            break
    return (float(found[0]), float(found[1])) if found[0] > 1e-3 and np.isfinite(found).all() else None


class CtrModel(ABC):
    """A model of P(event | user, item) for each head of a :class:`CtrFrame`."""

    #: What the command line calls it.
    name: ClassVar[str]

    def __init__(self) -> None:
        self.layout: dict[str, Any] = {}
        self.heads: tuple[str, ...] = ()
        self.calibration = Calibration.none(0)

    @abstractmethod
    def fit(
        self,
        train: CtrFrame,
        validation: CtrFrame,
        options: CtrOptions,
        seed: int,
        tell: Progress,
        *,
        start: CtrModel | None = None,
    ) -> Fitted:
        """Learn from ``train``, stop early and calibrate on ``validation``; the same seed gives the same model.

        A head with one class in ``train`` is not trained and answers NaN. An empty ``validation`` means a fixed
        number of passes and no calibration. ``start``, a model of the same kind and layout, is where learning begins.

        Raises:
            InvalidInput: if no head can be learned, or the frames have different columns.
        """

    @abstractmethod
    def logits(self, frame: CtrFrame) -> _Array:
        """Uncalibrated logits float32 [n, H]; NaN for heads that were not trained."""

    @abstractmethod
    def onto(self, layout: dict[str, Any], rows: Sequence[_Array]) -> CtrModel:
        """The same model for frames of another layout, whose codes mean other values.

        Args:
            layout: of those frames. rows: for each code column int64 [its new size], the old code of each new one.

        Raises:
            WeightsMisfit: if it differs in more than the codes.
        """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many numbers were learned; leaves, for trees."""

    @abstractmethod
    def _save(self, folder: Path) -> dict[str, Any]:
        """Write weights and return what else is needed to read them, as JSON."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, layout: dict[str, Any], document: dict[str, Any]) -> CtrModel:
        """Read what :meth:`_save` wrote."""

    def predict(self, frame: CtrFrame) -> _Array:
        """Calibrated probabilities float32 [n, H]; NaN for heads that were not trained.

        Raises:
            InvalidInput: if the frame has other columns than the training frame.
        """
        return self.calibration.apply(self.logits(frame))

    def save(self, folder: Path) -> None:
        """Write the model to an existing folder: JSON, and weights in an open format."""
        document = {
            "name": self.name,
            "layout": self.layout,
            "heads": list(self.heads),
            "calibration": self.calibration.document(),
            "model": self._save(folder),
        }
        (folder / "model.json").write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> CtrModel:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: if the folder holds another kind of model.
        """
        document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if document["name"] != cls.name:
            raise InvalidInput(f"{folder} holds the model {document['name']!r}, not {cls.name!r}")
        model = cls._load(folder, document["layout"], document["model"])
        model.layout, model.heads = document["layout"], tuple(document["heads"])
        model.calibration = Calibration.of_document(document["calibration"])
        return model

    def _begin(self, train: CtrFrame, validation: CtrFrame) -> None:
        self.layout, self.heads = train.layout(), train.told_heads()
        if not self.heads:
            raise InvalidInput(
                f"{self.name}: none of the heads {', '.join(train.heads)} has both a positive and a negative example; "
                "there is nothing to tell apart"
            )
        check_layout(self.layout, validation, "the validation frame")

    def _calibrate(self, validation: CtrFrame) -> None:
        """Calibrate on ``validation``, all at once."""
        if len(validation):
            self.calibration = Calibration.fit(self.logits(validation), validation.labels, validation.weights)
        else:
            self.calibration = Calibration.none(len(validation.heads))


def check_layout(layout: dict[str, Any], frame: CtrFrame, what: str = "the frame") -> None:
    """Refuse a frame whose columns are not those that a model was trained on."""
    got = frame.layout()
    different = [name for name in layout.keys() | got.keys() if layout.get(name) != got.get(name)]
    if different:
        raise InvalidInput(f"{what} differs from the training frame in {', '.join(sorted(different))}")


def options_document(options: CtrOptions) -> dict[str, Any]:
    """Options as JSON holds them."""
    return {**asdict(options), "hidden": list(options.hidden)}


def options_of(document: dict[str, Any]) -> CtrOptions:
    """Read what :func:`options_document` gave."""
    hidden: Sequence[int] = document["hidden"]
    return CtrOptions(**{**document, "hidden": tuple(hidden)})
