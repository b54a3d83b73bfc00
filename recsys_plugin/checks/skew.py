"""Features as served against the join that training uses, for the same users and moments: ``recsys check skew``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.aggregation.live import LIVE_USER_VIEWS
from recsys_plugin.checks.distributions import Bins, Sample, least_share, population_stability_index, psi_noise
from recsys_plugin.checks.features import PackedUsers, columns_of, missing_lines, sample_of
from recsys_plugin.errors import CheckFailed
from recsys_plugin.features.codec import decode_timestamp
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, TensorName
from recsys_plugin.features.plan import ReadFeatures, ReadPlan, Reply
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, point_in_time_blocks
from recsys_plugin.training.packing import UserTensors, pack_frame
from recsys_plugin.user_names import named_user

__all__ = [
    "FeatureSkew",
    "SkewComparison",
    "SkewLimits",
    "covered_lines",
    "live_users",
    "offline_users",
    "require_no_skew",
    "row_times",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_READ = 500
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class SkewLimits:
    """What skew is allowed.

    Attributes:
        different: share of compared requests that may differ in a feature. views: the same for the features of single
            views, such as those that a nightly build leaves a day behind.
        psi: a PSI from here on is too much, if it is more than the noise of so few requests.
    """

    different: float = 0.01
    views: Mapping[str, float] = field(default_factory=dict)
    psi: float = 0.25

    def broken_by(self, skew: FeatureSkew) -> str | None:
        """In words what is over a limit, if something is."""
        view = skew.feature.partition(":")[0]
        allowed = self.views.get(view, self.different)
        if skew.compared and skew.different / skew.compared > allowed:
            return f"{skew.different} of {skew.compared} requests differ (allowed {allowed:.2%})"
        if skew.psi is not None and skew.psi >= self.psi and skew.psi > skew.psi_noise:
            return f"PSI {skew.psi:.3g} (allowed below {self.psi:g})"
        return None


@dataclass(frozen=True, slots=True)
class FeatureSkew:
    """One feature over all compared requests.

    Attributes:
        compared: requests. equal: those whose values are the same to the last bit. different: the others.
        only_online_missing, only_offline_missing, both_missing: requests whose every value is the contract's default
            on the one side, or on both.
        largest_difference: of numbers (times in seconds); None for texts and catalogue rows.
        psi: of the values served against those joined, in quantile bins of the latter; None if nothing was compared.
        psi_noise: what it may be by chance. bins, served, offline: the shares that it compares.
        example: the first difference in words.
    """

    feature: str
    compared: int
    equal: int
    different: int
    only_online_missing: int
    only_offline_missing: int
    both_missing: int
    largest_difference: float | None
    psi: float | None
    psi_noise: float
    bins: list[str]
    served: list[float]
    offline: list[float]
    example: str | None


class SkewComparison:
    """Collects requests, and then tells each feature's skew."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[FeatureSpec, _Array, _Array, pd.DataFrame]]] = {}
        self.requests = 0
        self.skipped: dict[str, int] = {}
        """Why something was not compared → pages, or values of one view at one request."""

    def skip(self, reason: str, count: int) -> None:
        """Remember what was not compared."""
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def add(
        self,
        contract: FeatureContract,
        served: PackedUsers,
        offline: PackedUsers,
        entities: pd.DataFrame,
        covered: Mapping[str, _Array],
    ) -> None:
        """Compare n requests.

        Args:
            contract: of all of them. served, offline: what the model saw, and what the join gives; n lines each.
            entities: ``user_id`` and ``event_timestamp``. covered: view → bool [n], where it may be compared.
        """
        self.requests += len(entities)
        for spec in contract.stored_features:
            lines = np.flatnonzero(covered[spec.view])
            one, other = (columns_of(contract, spec, users)[lines] for users in (served, offline))
            self._parts.setdefault(spec.reference, []).append((spec, one, other, entities.iloc[lines]))

    def features(self) -> list[FeatureSkew]:
        """Every feature, in the contract's order."""
        return [_skew(parts) for parts in self._parts.values()]

    def document(self, limits: SkewLimits, **more: Any) -> dict[str, Any]:
        """Everything found, as plain JSON values; ``failed``: feature → what is over its limit."""
        features = self.features()
        broken = {skew.feature: said for skew in features if (said := limits.broken_by(skew)) is not None}
        return {
            **more,
            "requests": self.requests,
            "compared": max((skew.compared for skew in features), default=0),
            "skipped": dict(self.skipped),
            "limits": {**asdict(limits), "views": dict(limits.views)},
            "failed": broken,
            "features": [asdict(skew) for skew in features],
        }


def require_no_skew(document: Mapping[str, Any]) -> None:
    """Raise if a feature is over its limit, or nothing was compared.

    Raises:
        CheckFailed: naming the features.
    """
    if not document["compared"]:
        why = "; ".join(f"{count}: {reason}" for reason, count in document["skipped"].items()) or "there is no request"
        raise CheckFailed(f"no feature could be compared ({why})")
    failed = document["failed"]
    if failed:
        said = "; ".join(f"{feature}: {reason}" for feature, reason in list(failed.items())[:5])
        raise CheckFailed(f"{len(failed)} of {len(document['features'])} features are skewed. {said}")


def _skew(parts: Sequence[tuple[FeatureSpec, _Array, _Array, pd.DataFrame]]) -> FeatureSkew:
    spec = parts[0][0]
    one, other = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
    entities = pd.concat([part[3] for part in parts], ignore_index=True)
    same = one == other
    if one.dtype.kind == "f":
        same |= np.isnan(one) & np.isnan(other)
    equal = same.all(axis=1)
    absent = [missing_lines(spec, columns) for columns in (one, other)]
    moments = microseconds(entities["event_timestamp"]) / _SECOND
    samples: list[Sample] = [sample_of(spec, columns, moments) for columns in (one, other)]
    bins = Bins.of(samples[1])
    shares = [bins.shares(sample) for sample in samples]
    psi = population_stability_index(*shares, least=least_share(len(one), len(other)))
    used = int(((shares[0] > 0) | (shares[1] > 0)).sum())
    return FeatureSkew(
        feature=spec.reference,
        compared=len(one),
        equal=int(equal.sum()),
        different=int((~equal).sum()),
        only_online_missing=int((absent[0] & ~absent[1]).sum()),
        only_offline_missing=int((absent[1] & ~absent[0]).sum()),
        both_missing=int((absent[0] & absent[1]).sum()),
        largest_difference=_largest_difference(spec, one, other),
        psi=None if math.isnan(psi) else psi,
        psi_noise=psi_noise(used, len(one), len(other)) if len(one) else 0.0,
        bins=bins.names,
        served=_known(shares[0]),
        offline=_known(shares[1]),
        example=_example(spec, one, other, entities, equal),
    )


def _known(shares: _Array) -> list[float]:
    return [] if np.isnan(shares).any() else shares.tolist()


def _largest_difference(spec: FeatureSpec, one: _Array, other: _Array) -> float | None:
    if spec.tensor is TensorName.STRING or spec.encoding is Encoding.ROW or not one.size:
        return None
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(np.nanmax(difference)) if not np.isnan(difference).all() else None


def _example(spec: FeatureSpec, one: _Array, other: _Array, entities: pd.DataFrame, equal: _Array) -> str | None:
    different = np.flatnonzero(~equal)
    if not len(different):
        return None
    line = int(different[0])
    values = []
    for columns in (one, other):
        told = columns[line].tolist()
        values.append(f"{told if spec.is_list else told[0]!r:.200}")
    user, moment = entities["user_id"].iloc[line], entities["event_timestamp"].iloc[line]
    return f"{named_user(str(user))} at {moment.isoformat()}: served {values[0]}, history has {values[1]}"


def offline_users(
    store: Any,
    contract: FeatureContract,
    entities: pd.DataFrame,
    item_ids: pd.Index[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UserTensors:
    """What Feast's point-in-time join gives for some users and moments, packed as for training.

    Args:
        store: Feast's store. contract, item_ids: what the model that served them takes.
        entities: ``user_id`` and ``event_timestamp`` (UTC), index 0 … n-1. progress: told rows done and in all.
    """
    users = UserTensors.empty(contract, len(entities))
    for rows, frame in point_in_time_blocks(store, entities, RANKING_SERVICE, progress=progress):
        users.put(rows, pack_frame(contract, frame, item_ids))
    return users


def row_times(tables: Path, view: str, entities: pd.DataFrame) -> _Array:
    """When the row that the join takes was stamped, int64 [n] microseconds; -1 where there is none.

    Args:
        tables: folder of the feature tables. entities: ``user_id`` and ``event_timestamp``.
    """
    asked = pd.DataFrame({"user_id": entities["user_id"].to_numpy(object)})
    asked["moment"] = microseconds(entities["event_timestamp"])
    asked["place"] = np.arange(len(asked))
    table = pq.read_table(
        tables / f"{view}.parquet",
        columns=["user_id", "event_timestamp"],
        filters=[("user_id", "in", sorted(set(asked["user_id"])))],
    )
    rows = pd.DataFrame({"user_id": table["user_id"].to_pandas().to_numpy(object)})
    rows["moment"] = microseconds(table["event_timestamp"].to_pandas())
    rows["stamp"] = rows["moment"]
    joined = pd.merge_asof(asked.sort_values("moment"), rows.sort_values("moment"), on="moment", by="user_id")
    found = np.full(len(asked), -1, np.int64)
    known = joined["stamp"].notna().to_numpy()
    found[joined["place"].to_numpy()[known]] = joined["stamp"].to_numpy()[known].astype(np.int64)
    return found


def covered_lines(
    tables: Path,
    contract: FeatureContract,
    entities: pd.DataFrame,
    *,
    until: datetime,
    settle: float,
    skip: Callable[[str, int], None],
) -> dict[str, _Array]:
    """Where history tells what a request should have seen, by view, bool [n].

    A view that the stream keeps up to date goes on after the tables end, so later requests tell nothing of it. An
    event takes some time from the shop to the store: a request that came sooner than ``settle`` seconds after it is
    not held to it. The other views change with the tables only.

    Args:
        tables: folder of the feature tables, which know events up to ``until``.
        entities: the requests. skip: told what is left out, and how often.
    """
    moments = microseconds(entities["event_timestamp"])
    covered = {}
    for view in dict.fromkeys(spec.view for spec in contract.stored_features):
        lines = np.ones(len(entities), bool)
        if view in LIVE_USER_VIEWS:
            lines = moments <= round(until.timestamp() * _SECOND)
            skip(f"{view}: served after the feature tables end, at {until.isoformat()}", int((~lines).sum()))
            stamps = row_times(tables, view, entities)
            fresh = lines & (stamps >= 0) & (moments - stamps < settle * _SECOND)
            skip(f"{view}: served less than {settle:g} s after an event of this user", int(fresh.sum()))
            lines = lines & ~fresh
        covered[view] = lines
    return covered


def live_users(
    address: RedisAddress,
    contract: FeatureContract,
    users: Sequence[str],
    item_ids: pd.Index[str],
    *,
    moment: datetime,
    until: datetime,
    skip: Callable[[str, int], None],
    timeout: float = 5.0,
) -> tuple[PackedUsers, dict[str, _Array]]:
    """Read the features of some users as a request at ``moment`` would.

    Args:
        address: where Redis is. contract, item_ids: what to read, and the catalogue in row order.
        users: whose. until: what the feature tables know; rows in Redis that are newer are left out.
        skip: told what is left out, and how often.

    Returns:
        The packed tensors, n lines, and view → bool [n], where it may be compared.

    Raises:
        StoreUnavailable, DeadlineExceeded: if Redis fails.
        FeatureContractError: if it holds values of another type.
    """
    plan = ReadPlan(contract)
    reader = FeatureReader(address, timeout=timeout)
    replies: list[Reply] = []
    try:
        for start in range(0, len(users), _READ):
            keys = [plan.key(user) for user in users[start : start + _READ]]
            replies += reader.read(ReadFeatures(keys, plan.fields), timeout=timeout)
    finally:
        reader.close()
    rows = {item: row for row, item in enumerate(item_ids)}
    served, _ = plan.decode(users, replies, now=moment.timestamp(), rows=rows)
    views = list(dict.fromkeys(spec.view for spec in contract.stored_features))
    covered = {}
    for position, view in enumerate(views, start=len(contract.stored_features)):
        stamps = [reply[position] for reply in replies]
        newer = np.array([stamp is not None and decode_timestamp(stamp) > until.timestamp() for stamp in stamps], bool)
        skip(f"{view}: written since the feature tables were built, {until.isoformat()}", int(newer.sum()))
        covered[view] = ~newer
    return served, covered
