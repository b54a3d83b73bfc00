"""What may be chosen about an export; no onnx here, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_plugin.errors import InvalidInput

__all__ = ["GRAPHS", "PRECISIONS", "TARGETS", "ExportOptions"]

#: The choices of ``recsys export --precision``.
PRECISIONS = ("fp32", "fp16", "int8")
#: The choices of ``recsys export --graphs``.
GRAPHS = ("merged", "ensembles")
#: The choices of ``recsys export --target``.
TARGETS = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How the models are laid out, and how their weights are stored.

    Attributes:
        precision: of the weights of ranker and text encoder, one of :data:`PRECISIONS`.
        most_loss: largest allowed fall of NDCG@20, of AUC and of the texts' cosine, each as an absolute difference.
        graphs: ``merged`` makes one graph of each request, the quickest; ``ensembles`` ties step models together, which
            share one copy of the catalogue between requests.
        target: what the configurations ask Triton to run the models on, one of :data:`TARGETS`.
        least_group: the fewest users that a community has, and that whatever is told of one is true of.

        epsilon: of differential privacy for what is told of communities; ``None`` for exact counts.
        contributions: items, and categories, that a user then counts for at most.
        budget: epsilon that all exports of a home may spend together; as before, if ``None``.

    Raises:
        InvalidInput: if there is no such choice, the bound is negative, or the group is of one user.
    """

    precision: str = "fp32"
    most_loss: float = 0.01
    graphs: str = "merged"
    target: str = "cpu"
    least_group: int = 20
    epsilon: float | None = None
    contributions: int = 20
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidInput(f"there is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if not self.most_loss >= 0.0:
            raise InvalidInput(f"the largest allowed loss is {self.most_loss}; it must be 0 or more")
        if self.graphs not in GRAPHS:
            raise InvalidInput(f"there are no {self.graphs!r} graphs; choose one of {', '.join(GRAPHS)}")
        if self.target not in TARGETS:
            raise InvalidInput(f"there is no target {self.target!r}; choose one of {', '.join(TARGETS)}")
        if self.least_group < 2:
            raise InvalidInput(f"a group of {self.least_group} would tell of a single user; the least is 2")
        if self.epsilon is not None and not 0.0 < self.epsilon < float("inf"):
            raise InvalidInput(f"epsilon {self.epsilon} is no number above 0")
        if self.contributions < 1:
            raise InvalidInput(f"a user counts for {self.contributions} items; the least is 1")
