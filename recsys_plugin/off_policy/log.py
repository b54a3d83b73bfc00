"""The impression log as off-policy evaluation reads it: a table of candidates, and the pages they were offered for.

One row for each candidate of each page, shown or not; other columns are left alone.

===================== ======== =============================================================================
request_id            string   the page; required
item_id               string   required; once on a page
position              integer  1 is the first place; null for a candidate that was not shown; required
propensity            float    in (0, 1]: P(item at this position | the items before it); null if not shown;
                               required
score                 float    the served score, from 0 to 1.4; required unless there is ``logit``
logit                 float    what the policy was given, if it was not the log-odds of ``score``
position_propensity   float    P(item at this position), whatever stands before; null if not shown; else it is
                               computed from ``policy`` and the candidates
policy                string   what chose, as settings name it: ``gumbel:0.3``; the same for a whole page
click, cart, purchase bool or  what came of showing it within the attribution window; null if not shown; the
                      number   one that is evaluated is required
===================== ======== =============================================================================

``user_id``, ``timestamp``, ``model_version`` and the like may be there and are not needed. Candidates that were not
shown are: what a policy would have shown instead cannot be told from the shown ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_plugin.errors import DataError, InvalidInput
from recsys_plugin.policy.exploration import APPROXIMATE, SCORE_CEILING, calibrated_logits

__all__ = ["REWARDS", "ImpressionLog", "read_log"]

_log = logging.getLogger("recsys_plugin")

_Array = NDArray[np.float64]
#: Columns that may be evaluated.
REWARDS = ("click", "cart", "purchase")


@dataclass(frozen=True, slots=True)
class ImpressionLog:
    """m pages of n candidates, columns sorted by page and, within one, by position, those not shown last.

    Attributes:
        starts: int64 ``[m + 1]``: page i has the rows ``starts[i]`` … ``starts[i + 1]`` - 1.
        shown: int64 ``[m]``: how many of those, the first ones, were shown.
        request_ids: ``[m]``. policies: ``[m]``, as settings name them, or ``None``.
        logits: float64 ``[n]``. propensities, position_propensities, rewards: float64 ``[n]``, NaN if not shown;
            position_propensities are ``None`` if the log has none.
        table: the rows themselves, in this order, for features.
        file: where it came from, for errors. reward: the column evaluated.
    """

    starts: NDArray[np.int64]
    shown: NDArray[np.int64]
    request_ids: tuple[str, ...]
    policies: tuple[str, ...] | None
    logits: _Array
    propensities: _Array
    position_propensities: _Array | None
    rewards: _Array
    table: pd.DataFrame
    file: str
    reward: str

    def __len__(self) -> int:
        """How many pages there are."""
        return len(self.shown)

    @property
    def shown_rows(self) -> NDArray[np.int64]:
        """Rows that were shown, page after page, first position first."""
        return np.concatenate(
            [np.arange(start, start + count) for start, count in zip(self.starts[:-1], self.shown, strict=True)]
            or [np.empty(0, np.int64)]
        )

    @classmethod
    def of_table(cls, table: pd.DataFrame, reward: str, *, file: str = "log") -> ImpressionLog:
        """Check a table and sort it into pages.

        Raises:
            DataError: naming ``file``, column and row, if a column is missing, a propensity of something shown is
                null, 0, NaN or above 1, positions of a page are not 1 … k, an item comes twice on a page, or a score,
                logit or reward is not finite.
        """
        if reward not in REWARDS:
            raise InvalidInput(f"reward {reward!r}: there are {', '.join(REWARDS)}")
        for column in ("request_id", "item_id", "position", "propensity", reward):
            if column not in table.columns:
                raise DataError("the column is missing", file=file, column=column)
        if not len(table):
            raise DataError("the log is empty", file=file)
        given = table.reset_index(drop=True)
        position = _numbers(given, "position", file)
        unseen = np.isnan(position)
        _refuse(given, file, "position", ~unseen & ((position < 1) | (position % 1 != 0)), "is no position from 1 on")
        propensity = _numbers(given, "propensity", file)
        _refuse(
            given, file, "propensity", ~unseen & ~((propensity > 0) & (propensity <= 1 + 1e-6)),
            "is no propensity in (0, 1] of something shown",
        )  # fmt: skip
        rewards = _numbers(given, reward, file)
        _refuse(given, file, reward, ~unseen & ~np.isfinite(rewards), "is no reward")
        logits = _logits(given, file)
        _refuse(given, file, "item_id", given.duplicated(["request_id", "item_id"]).to_numpy(), "is on the page twice")

        codes, requests = pd.factorize(given["request_id"])
        _refuse(given, file, "request_id", codes < 0, "is null")
        order = np.lexsort((np.where(unseen, np.inf, position), codes))
        starts = np.searchsorted(codes[order], np.arange(len(requests) + 1))
        shown = np.bincount(codes, ~unseen, minlength=len(requests)).astype(np.int64)
        expected = np.arange(len(order)) - starts[codes[order]] + 1
        gap = np.zeros(len(order), dtype=np.bool_)
        gap[order] = ~unseen[order] & (position[order] != expected)
        _refuse(given, file, "position", gap, "leaves a gap or is taken: positions of a page are 1, 2, … k")
        sorted_table = given.iloc[order].reset_index(drop=True)
        marginal = None
        if "position_propensity" in given.columns:
            marginal = _numbers(given, "position_propensity", file)
            wrong = ~unseen & ~((marginal > 0) & (marginal <= 1 + 1e-6))
            _refuse(given, file, "position_propensity", wrong, "is no propensity in (0, 1] of something shown")
            marginal = marginal[order]
        return cls(
            starts=starts.astype(np.int64),
            shown=shown,
            request_ids=tuple(requests),
            policies=_policies(given, codes, file),
            logits=logits[order],
            propensities=np.where(unseen, np.nan, propensity)[order],
            position_propensities=marginal,
            rewards=np.where(unseen, np.nan, rewards)[order],
            table=sorted_table,
            file=file,
            reward=reward,
        )


def read_log(path: Path, reward: str) -> ImpressionLog:
    """Read a Parquet file, or a folder of them; pages without exact or estimated propensities are left out.

    Raises:
        DataError: if it cannot be read, rules rearranged every page, or as :meth:`ImpressionLog.of_table` says.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path).to_pandas()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"no Parquet table can be read: {error}", file=str(path)) from error
    if "propensity_kind" in table.columns:
        rearranged = (table["propensity_kind"] == APPROXIMATE).to_numpy()
        if len(table) and rearranged.all():
            raise DataError(
                "rules rearranged every page after exploration, so no propensity says how likely a page was",
                file=str(path), column="propensity_kind",
            )  # fmt: skip
        if rearranged.any():
            pages = table["request_id"][rearranged].nunique()
            _log.warning("%s: %d pages are left out, which rules rearranged after exploration", path, pages)
            table = table[~rearranged]
    return ImpressionLog.of_table(table, reward, file=str(path))


def _numbers(table: pd.DataFrame, column: str, file: str) -> _Array:
    """A column as float64, null as NaN."""
    try:
        return pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"numbers are wanted: {error}", file=file, column=column) from error


def _logits(table: pd.DataFrame, file: str) -> _Array:
    if "logit" in table.columns:
        logits = _numbers(table, "logit", file)
        _refuse(table, file, "logit", ~np.isfinite(logits), "is no logit")
        return logits
    if "score" not in table.columns:
        raise DataError("the column is missing, and so is logit", file=file, column="score")
    scores = _numbers(table, "score", file)
    wrong = ~((scores >= 0.0) & (scores <= SCORE_CEILING + 1e-6))
    _refuse(table, file, "score", wrong, f"is no served score from 0 to {SCORE_CEILING}; logits go into a column logit")
    return calibrated_logits(scores)


def _policies(table: pd.DataFrame, codes: NDArray[np.int64], file: str) -> tuple[str, ...] | None:
    """The policy of each page; ``codes`` say which page a row is of, in the order of the pages' first rows."""
    if "policy" not in table.columns:
        return None
    policy, _ = pd.factorize(table["policy"])
    _, first = np.unique(codes, return_index=True)
    differs = policy != policy[first][codes]
    _refuse(table, file, "policy", differs | (policy < 0), "is null or not that of the page's other rows")
    return tuple(table["policy"].to_numpy()[first].tolist())


def _refuse(table: pd.DataFrame, file: str, column: str, wrong: NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{table[column].iloc[row]!r} {reason}", file=file, column=column, row=row + 1)
