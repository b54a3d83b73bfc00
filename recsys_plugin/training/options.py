"""What may be chosen about a training run; no torch here, so that a command that finds all current stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RankerOptions", "TrainingOptions", "TwoTowerOptions"]


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


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What may be chosen about a training run."""

    encoder: str = "minilm"
    candidates: int = 500
    most_contexts: int = 30_000
    ranker_contexts: int = 8_000
    weeks: int = 26
    seed: int = 0
    two_tower: TwoTowerOptions = field(default_factory=TwoTowerOptions)
    ranker: RankerOptions = field(default_factory=RankerOptions)
