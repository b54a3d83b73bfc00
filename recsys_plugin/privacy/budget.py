"""What was spent of a home's privacy budget: every publication of counts about the same users adds up.

Publications are composed as they come (basic composition: epsilons and deltas add up), whether the data changed in
between or not: most users are in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recsys_plugin.errors import CheckFailed, ConfigurationError
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.settings import Settings

__all__ = ["Spent", "budget_path", "read_budget", "spend"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was published so far.

    Attributes:
        publications: each with ``at``, ``what``, ``epsilon``, ``delta``.
        most: epsilon that all may spend together; ``None`` for no bound.
    """

    publications: tuple[Mapping[str, Any], ...] = ()
    most: float | None = None

    @property
    def epsilon(self) -> float:
        """Of all publications."""
        return float(sum(one["epsilon"] for one in self.publications))

    @property
    def delta(self) -> float:
        """Of all publications."""
        return float(sum(one["delta"] for one in self.publications))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "most": self.most,
            "publications": [dict(one) for one in self.publications],
        }


def budget_path(settings: Settings) -> Path:
    """Where a home keeps the account."""
    return settings.state / "privacy" / "budget.json"


def read_budget(settings: Settings) -> Spent:
    """What a home has spent.

    Raises:
        ConfigurationError: if the account is damaged: nothing is published without one.
    """
    path = budget_path(settings)
    if not path.is_file():
        return Spent()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        spent = Spent(tuple(document["publications"]), document["most"])
        spent.to_dict()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged ({error!r}); restore it from a backup") from error
    return spent


def spend(
    settings: Settings, what: str, *, epsilon: float, now: datetime, delta: float = 0.0, most: float | None = None
) -> Spent:
    """Enter a publication into the account; before it is made, so that none is ever forgotten.

    Args:
        most: what all publications may spend from now on; as before, if ``None``.

    Raises:
        CheckFailed: if too little is left; nothing is entered then.
    """
    before = read_budget(settings)
    bound = before.most if most is None else most
    if bound is not None and before.epsilon + epsilon > bound:
        raise CheckFailed(
            f"{what} would spend epsilon {epsilon:g}; {before.epsilon:g} of {bound:g} are spent. Publish with a "
            "smaller epsilon, or allow more with --privacy-budget"
        )
    entry = {"at": now.isoformat(), "what": what, "epsilon": epsilon, "delta": delta}
    spent = Spent((*before.publications, entry), bound)
    atomic_text(budget_path(settings), json.dumps(spent.to_dict(), indent=1) + "\n")
    return spent
