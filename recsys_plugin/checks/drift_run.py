"""Where a drift check takes today from: the archived impressions, or the newest acts in the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.checks.drift import (
    DriftLimits,
    calibration_drift,
    drift_document,
    feature_drift,
    growth,
    read_outcomes,
    score_drift,
)
from recsys_plugin.checks.features import PackedUsers
from recsys_plugin.checks.reference import read_reference
from recsys_plugin.checks.served import ServedModel, exported_model, read_pages, served_users
from recsys_plugin.checks.skew import offline_users
from recsys_plugin.data.store import Dataset, load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.export.install import exported_versions, promotion_path
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.pipeline.steps import require_feature_tables
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.training.contexts import drawn_contexts

__all__ = ["drift_of_history", "drift_of_impressions", "serving_version"]

Tell = Callable[[str, int, int], None]
_ACTS = ("click", "cart", "purchase")


def serving_version(settings: Settings) -> int:
    """The version that is promoted, else the newest that is exported.

    Raises:
        ConfigurationError: if nothing is exported.
    """
    versions = exported_versions(settings.model_repository)
    path = promotion_path(settings.state)
    if path.exists() and (promoted := json.loads(path.read_text(encoding="utf-8"))["version"]) in versions:
        return int(promoted)
    if not versions:
        raise ConfigurationError("no model version is exported; run `recsys export`")
    return versions[-1]


@dataclass(frozen=True, slots=True)
class _Today:
    """Requests of today, with the version that they are held against."""

    version: int
    model: ServedModel
    users: Sequence[tuple[pd.DataFrame, PackedUsers]]
    pages: pa.Table | None
    outcomes: pa.Table | None
    skipped: dict[str, int]
    source: str


def drift_of_impressions(
    settings: Settings,
    limits: DriftLimits,
    *,
    version: int,
    since: datetime,
    until: datetime,
    most: int,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """Compare the impressions of a version with its training.

    Args:
        settings: of the home. limits: what counts as moved. version: of the model.
        since, until: pages served from then to then. most: pages whose features are compared, drawn with ``seed``
            beyond that. tell: told what is under way, how much is done, of how much.

    Returns:
        The document, see :func:`~recsys_plugin.checks.drift.drift_document`.

    Raises:
        ConfigurationError: if there is no archive, or no reference of the version.
    """
    model = _model(settings, version)
    tell("impressions", 0, 0)
    end = until + timedelta(microseconds=1)
    pages = read_pages(settings.state / "impressions", since=since, until=end)
    own = pages.filter(pc.equal(pages["version"], version))
    groups, skipped = served_users(own, {version: model}, most=most, seed=seed)
    skipped = {f"pages: {reason}": count for reason, count in skipped.items()}
    if others := len(pages) - len(own):
        skipped["pages: another version served them"] = others
    outcomes = read_outcomes(settings.state / "outcomes", version=version, since=since, until=end)
    source = f"{len(own):,} impressions of version {version} from {since.isoformat()} to {until.isoformat()}"
    users = [(group.entities, group.users) for group in groups]
    return _document(settings, limits, _Today(version, model, users, own, outcomes, skipped, source))


def drift_of_history(
    settings: Settings, limits: DriftLimits, *, version: int, days: float, most: int, seed: int, tell: Tell
) -> dict[str, Any]:
    """Compare the moments of the newest acts in the tables with the training of a version; there are no scores then.

    Args:
        days: how long before the end of the tables. most: moments compared, drawn with ``seed`` beyond that.
        settings, limits, version, tell: see :func:`drift_of_impressions`.

    Raises:
        ConfigurationError: if the feature tables are not current, or there is no reference of the version.
    """
    model = _model(settings, version)
    dataset = load_dataset(settings)
    require_feature_tables(settings, dataset)
    since = pd.Timestamp(dataset.as_of) - pd.Timedelta(days=days)

    def events() -> Iterator[pd.DataFrame]:
        for piece in dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"]):
            yield piece[piece["timestamp"] > since]

    types = [kind for kind in _ACTS if kind in dataset.event_types]
    end = pd.Timestamp(dataset.as_of) + pd.Timedelta(microseconds=1)
    contexts, total = drawn_contexts(events, model.item_ids, types=types, end=end, most=most, seed=seed)
    tell("opening Feast", 0, 0)
    store = open_store(settings, Services(settings).redis_url)
    joined = offline_users(
        store,
        model.contract,
        contexts.entities,
        model.item_ids,
        progress=lambda done, rows: tell("joining", done, rows),
    )
    skipped = {"moments of acts: beyond the sample": total - len(contexts)} if total > len(contexts) else {}
    source = f"{total:,} moments of acts from {since.isoformat()} to {dataset.as_of.isoformat()}, version {version}"
    return _document(
        settings, limits, _Today(version, model, [(contexts.entities, joined)], None, None, skipped, source)
    )


def _model(settings: Settings, version: int) -> ServedModel:
    model = exported_model(settings.state, settings.model_repository, version)
    if model is None:
        raise ConfigurationError(f"model version {version} is not on disk; run `recsys models`")
    return model


def _document(settings: Settings, limits: DriftLimits, today: _Today) -> dict[str, Any]:
    reference = read_reference(settings.state, today.version)
    contract = today.model.contract
    features: list[dict[str, Any]] = []
    requests = 0
    # One version has one group at most; without a request nothing is told of features.
    for entities, users in today.users:
        requests += len(entities)
        if len(entities):
            moments = microseconds(entities["event_timestamp"]) / 1e6
            features = feature_drift(reference, contract, users, moments)
    dataset: Dataset = load_dataset(settings)
    items = dataset.frame("items", ["item_id"])["item_id"].to_numpy(object)
    return drift_document(
        limits,
        features=features,
        scores=score_drift(reference, today.pages),
        calibration=calibration_drift(reference, today.outcomes),
        grown=growth(
            reference, today.model.item_ids, np.sort(items).tolist(), len(dataset.table("users", ["user_id"]))
        ),
        version=today.version,
        requests=requests,
        training_requests=reference["requests"],
        skipped=today.skipped,
        source=today.source,
    )
