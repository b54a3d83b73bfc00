"""Today's features, scores and calibration against those of training: ``recsys check drift``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.checks.distributions import (
    Bins,
    Sample,
    jensen_shannon,
    least_share,
    population_stability_index,
    psi_noise,
)
from recsys_plugin.checks.features import PackedUsers, feature_samples
from recsys_plugin.checks.reference import POSITIONS, calibration_of, score_shares
from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.features.contract import FeatureContract

__all__ = [
    "DriftLimits",
    "calibration_drift",
    "drift_document",
    "feature_drift",
    "growth",
    "read_outcomes",
    "require_no_drift",
    "score_drift",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_MODEL = "recommend"
#: Fewer items with an outcome tell nothing of calibration.
_LEAST_POSITIVE = 20
_NAMED = 10


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """From where on something counts as moved.

    Attributes:
        warn, fail: of a PSI that is more than its noise, and of the share of today's catalogue that the model does not
            know. ece: expected calibration error that fails. ratio: fails where outcomes are so many times as frequent
            as predicted, or so many times less. ignored: features that are told and not judged.
    """

    warn: float = 0.1
    fail: float = 0.25
    ece: float = 0.05
    ratio: float = 2.0
    ignored: Collection[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not 0.0 < self.warn <= self.fail:
            raise InvalidInput(
                f"drift: a warning at {self.warn} must be above 0 and at most the failure at {self.fail}"
            )
        if not self.ratio > 1.0:
            raise InvalidInput(f"drift: a calibration ratio of {self.ratio} is not above 1")


def feature_drift(
    reference: Mapping[str, Any], contract: FeatureContract, users: PackedUsers, moments: _Array
) -> list[dict[str, Any]]:
    """How far each feature has moved since training.

    Args:
        reference: of the version. contract: of the same version. users: packed, n lines. moments: float64 [n], unix
            seconds of the requests.

    Returns:
        For each feature, in the contract's order: ``psi``, ``psi_noise`` (what it stays below by chance),
        ``jensen_shannon`` in bits, ``missing_then`` and ``missing_now`` (shares of requests), ``new_categories`` (their
        share of requests, None where it is not known what is new), ``new`` (some of them), ``bins``, ``training`` and
        ``today`` (shares).
    """
    found = []
    for spec, sample in feature_samples(contract, users, moments):
        known = reference["features"][spec.reference]
        bins = Bins.from_dict(known["bins"])
        new = bins.new(sample)
        share = None
        if not bins.numeric and bins.complete:
            lines = sample.line[np.isin(sample.values.astype(str), new)]
            share = len(np.unique(lines)) / sample.lines if sample.lines else None
        told = _moved(bins, np.array(known["shares"]), bins.shares(sample), reference["requests"], sample.lines)
        found.append({"feature": spec.reference, **told, "new_categories": share, "new": new[:_NAMED]})
    return found


def _moved(bins: Bins, then: _Array, now: _Array, lines_then: int, lines_now: int) -> dict[str, Any]:
    used = int(((then > 0) | (now > 0)).sum())
    noise = psi_noise(used, lines_then, lines_now)
    return {
        "psi": _number(population_stability_index(then, now, least=least_share(lines_then, lines_now))),
        "psi_noise": _number(noise),
        "jensen_shannon": _number(jensen_shannon(then, now)),
        "missing_then": _number(then[-1]),
        "missing_now": _number(now[-1]),
        "bins": bins.names,
        "training": [] if np.isnan(then).any() else then.tolist(),
        "today": [] if np.isnan(now).any() else now.tolist(),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def score_drift(reference: Mapping[str, Any], pages: pa.Table | None) -> dict[str, Any]:
    """Scores as served against those of the validation, position by position; as for a feature, or why it is not told.

    Args:
        reference: of the version. pages: those of the version, if any are logged.
    """
    if reference["scores"] is None:
        return {"note": "Not told: the validation had no user."}
    if pages is None:
        return {"note": "Not told: there is no log of impressions for that time."}
    served = pages.filter(pc.equal(pages["model"], _MODEL))
    lists = served["scores"].combine_chunks()
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not lengths.sum():
        return {"note": f"Not told: no page of {_MODEL!r} is logged for that time."}
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    page = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = position < POSITIONS
    bins = Bins.from_dict(reference["scores"]["bins"])
    # Each score counts once, so a page of few items counts less.
    values = flat[first]
    now = bins.shares(Sample(values, np.arange(len(values)), len(values)))
    then = score_shares(reference["scores"], np.bincount(position[first], minlength=POSITIONS))
    told = _moved(bins, then, now, reference["scores"]["users"], len(np.unique(page[first])))
    del told["missing_then"], told["missing_now"]
    return {
        **told,
        "scores": len(values),
        "note": f"Pages of {_MODEL!r} against the validation, as many scores of each position.",
    }


def read_outcomes(folder: Path, *, version: int, since: datetime, until: datetime) -> pa.Table | None:
    """What came of items shown, from ``window=…s/day=…/*.parquet``; None if nothing was joined.

    Of several attribution windows the longest is read. Items whose window was not over at ``until`` are left out.

    Args:
        folder: of the outcomes. version: of the model. since, until: pages served from then on, and before then.
    """
    windows = {int(path.name.removeprefix("window=").removesuffix("s")): path for path in folder.glob("window=*s")}
    if not windows:
        return None
    window = max(windows)
    columns = ["score", "served_at", "model", "model_version", "clicked", "carted", "purchased"]
    pieces = [pq.ParquetFile(path).read(columns=columns) for path in sorted(windows[window].glob("day=*/*.parquet"))]
    if not pieces:
        return None
    table = pa.concat_tables(pieces)
    moment = pa.timestamp("us", tz="UTC")
    over = until - timedelta(seconds=window)
    chosen = pc.and_(
        pc.and_(pc.equal(table["model"], _MODEL), pc.equal(table["model_version"], version)),
        pc.and_(
            pc.greater_equal(table["served_at"], pa.scalar(since, moment)),
            pc.less(table["served_at"], pa.scalar(over, moment)),
        ),
    )
    return table.filter(chosen)


def calibration_drift(reference: Mapping[str, Any], outcomes: pa.Table | None) -> dict[str, Any]:
    """Whether scores still mean what they say; see :func:`~recsys_plugin.checks.reference.calibration_of`.

    A score is the sum of the heads' probabilities by their weights, so over the sum of weights it is the expected value
    of the outcomes weighted alike.

    Args:
        reference: of the version. outcomes: see :func:`read_outcomes`.
    """
    weights = reference["score_weights"]
    columns = {"click": "clicked", "cart": "carted", "purchase": "purchased"}
    if outcomes is None or not len(outcomes):
        return {"judged": False, "note": "Not told: no outcome is joined to impressions of that time."}
    total = sum(weights.values())
    came = sum(weights[head] * outcomes[columns[head]].to_numpy().astype(np.float64) for head in weights)
    told = calibration_of(outcomes["score"].to_numpy() / total, np.asarray(came) / total)
    then = reference["calibration"] or {}
    enough = told["positive"] >= _LEAST_POSITIVE
    note = f"Scores over the sum of their weights against outcomes weighted alike ({', '.join(weights)})."
    if not enough:
        note += f" Not judged: {told['positive']} items with an outcome are fewer than {_LEAST_POSITIVE}."
    return {**told, "ece_then": then.get("ece"), "ratio_then": then.get("ratio"), "judged": enough, "note": note}


def growth(
    reference: Mapping[str, Any], known_items: Iterable[str], items: Sequence[str], users: int
) -> dict[str, dict[str, Any]]:
    """How catalogue and users have grown since training.

    Args:
        reference: of the version. known_items: its catalogue. items: today's. users: how many there are today.
    """
    unknown = len(set(items) - set(known_items))
    return {
        "items": {
            "training": reference["items"],
            "today": len(items),
            "unknown to the model": unknown / len(items) if items else 0.0,
        },
        "users": {"training": reference["users"], "today": users},
    }


def drift_document(
    limits: DriftLimits,
    *,
    features: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Any],
    calibration: Mapping[str, Any],
    grown: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Everything found, as plain JSON values; ``failed`` and ``warned``: what → why."""
    failed: dict[str, str] = {}
    warned: dict[str, str] = {}

    def judge(what: str, said: str, value: float) -> None:
        if value >= limits.fail:
            failed[what] = f"{said} (fails from {limits.fail:g})"
        elif value >= limits.warn:
            warned[what] = f"{said} (warns from {limits.warn:g})"

    for what, told in (*((found["feature"], found) for found in features), ("scores", scores)):
        psi = told.get("psi")
        if what in limits.ignored or psi is None:
            continue
        if psi > told["psi_noise"]:
            judge(what, f"PSI {psi:.3g}", psi)
        if told.get("new_categories"):
            values = ", ".join(map(repr, told["new"]))
            judge(
                what, f"{told['new_categories']:.1%} of requests hold new categories ({values})", told["new_categories"]
            )
    unknown = grown["items"]["unknown to the model"]
    judge("catalogue", f"{unknown:.1%} of the items are unknown to the model", unknown)
    if calibration["judged"]:
        ratio, ece = calibration["ratio"], calibration["ece"]
        if not 1.0 / limits.ratio <= ratio <= limits.ratio:
            failed["calibration"] = (
                f"outcomes are {ratio:.3g} times as frequent as predicted (allowed {limits.ratio:g})"
            )
        elif ece > limits.ece:
            failed["calibration"] = f"expected calibration error {ece:.3g} (allowed {limits.ece:g})"
    return {
        **more,
        "limits": {**asdict(limits), "ignored": sorted(limits.ignored)},
        "failed": failed,
        "warned": {what: said for what, said in warned.items() if what not in failed},
        "features": list(features),
        "scores": dict(scores),
        "calibration": dict(calibration),
        "growth": dict(grown),
    }


def require_no_drift(document: Mapping[str, Any]) -> None:
    """Raise if something moved too far, or there was no request to compare.

    Raises:
        CheckFailed: naming what moved.
    """
    if not document["requests"]:
        why = "; ".join(f"{count}: {reason}" for reason, count in document["skipped"].items())
        raise CheckFailed(f"there is no request to compare with training ({why or document['source']})")
    failed = document["failed"]
    if failed:
        said = "; ".join(f"{what}: {reason}" for what, reason in list(failed.items())[:5])
        raise CheckFailed(f"{len(failed)} of what training learned from moved too far. {said}")
