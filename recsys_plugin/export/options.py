"""What may be chosen about an export; no onnx here, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_plugin.errors import InvalidInput

__all__ = ["PRECISIONS", "PrecisionOptions"]

#: The choices of ``recsys export --precision``.
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """How the weights of ranker and text encoder are stored, and how much that may cost.

    Attributes:
        precision: one of :data:`PRECISIONS`.
        most_loss: largest allowed fall of NDCG@20, of AUC and of the texts' cosine, each as an absolute difference.

    Raises:
        InvalidInput: if there is no such precision or the bound is negative.
    """

    precision: str = "fp32"
    most_loss: float = 0.01

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidInput(f"there is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if not self.most_loss >= 0.0:
            raise InvalidInput(f"the largest allowed loss is {self.most_loss}; it must be 0 or more")
