"""What users did with the pages of a trial, from the table of impressions joined with their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.trial_report.difference import Pages
from recsys_plugin.trials.assignment import place_of
from recsys_plugin.trials.trial import Trial

__all__ = ["OUTCOMES", "TrialPages", "outcomes_folder", "read_pages"]

#: What can come of a page: column → what its rate is called.
OUTCOMES = {"clicked": "CTR", "carted": "add-to-cart rate", "purchased": "conversion"}

_SQL = """
SELECT user_id, model, epoch_us(min(served_at)) / 1e6 AS served_at,
    bool_or(clicked) AS clicked, bool_or(carted) AS carted, bool_or(purchased) AS purchased
FROM read_parquet($files)
WHERE user_id IS NOT NULL AND model_version IN ($control, $candidate)
    AND epoch_us(served_at) >= $first AND epoch_us(served_at) <= $last
GROUP BY request_id, user_id, model ORDER BY served_at, user_id, model
"""


@dataclass(frozen=True, slots=True)
class TrialPages:
    """The pages of a trial, in the order in which they were served; arrays ``[n]``."""

    served_at: NDArray[np.float64]
    user: NDArray[np.int64]
    candidate: NDArray[np.bool_]
    phase: NDArray[np.int64]
    outcomes: dict[str, NDArray[np.bool_]]
    """Column of :data:`OUTCOMES` → whether it came of the page."""

    def with_outcome(self, name: str) -> Pages:
        """With one of the outcomes."""
        return Pages(self.served_at, self.user, self.candidate, self.phase, self.outcomes[name])


def outcomes_folder(state: Path) -> Path | None:
    """Where ``recsys events join`` wrote; ``None`` if it did not yet.

    Raises:
        InvalidInput: if it did with several attribution windows, of which one must be chosen.
    """
    found = sorted(path for path in (state / "outcomes").glob("window=*") if path.is_dir())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidInput(f"{state / 'outcomes'} has several attribution windows, {names}; name one with --outcomes")
    return found[0] if found else None


def read_pages(folder: Path, trial: Trial, *, until: float) -> TrialPages:
    """The pages of the trial's users, each counted for the arm that the user belonged to when it was served.

    A page that the control served in the candidate's place counts for the candidate: what is compared is the choice
    to send users there.

    Args:
        folder: of the joined table, ``day=YYYY-MM-DD/outcomes.parquet``.
        until: unix seconds: the last moment that counts, if the trial did not end before.

    Raises:
        InvalidInput: if there is no such table.
    """
    import duckdb

    files = sorted(str(path) for path in folder.glob("day=*/*.parquet"))
    if not files:
        raise InvalidInput(f"{folder} has no day=…/outcomes.parquet; run `recsys events join` first")
    last = until if trial.ended_at is None else min(until, trial.ended_at)
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        found = database.execute(
            _SQL,
            {
                "files": files,
                "control": trial.control,
                "candidate": trial.candidate,
                "first": int(trial.started_at * 1e6),
                "last": int(last * 1e6),
            },
        ).fetchnumpy()
    served_at = np.asarray(found["served_at"], dtype=np.float64)
    ids, user = np.unique(np.asarray(found["user_id"], dtype=object).astype(str), return_inverse=True)
    places = np.array([place_of(user_id, trial.salt) for user_id in ids.tolist()])
    since, shares = (np.array([getattr(phase, name) for phase in trial.phases]) for name in ("since", "share"))
    phase = np.searchsorted(since, served_at, side="right") - 1
    return TrialPages(
        served_at,
        user.astype(np.int64),
        places[user] < shares[phase] if len(user) else np.zeros(0, dtype=bool),
        phase.astype(np.int64),
        {name: np.asarray(found[name], dtype=bool) for name in OUTCOMES},
    )
