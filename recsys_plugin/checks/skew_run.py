"""Where a skew check takes its requests from: the archived impressions, or the store as it is now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from recsys_plugin.checks.served import models_of, read_pages, served_users
from recsys_plugin.checks.skew import SkewComparison, covered_lines, live_users, offline_users
from recsys_plugin.data.store import load_dataset
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline.feast_repository import contract_of, open_store
from recsys_plugin.pipeline.steps import require_feature_tables
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["live_skew", "logged_skew"]

Tell = Callable[[str, int, int], None]


def logged_skew(
    settings: Settings, *, since: datetime, until: datetime, most: int, seed: int, settle: float, tell: Tell
) -> tuple[SkewComparison, str]:
    """Compare the features that were logged with impressions.

    Args:
        settings: of a home whose feature tables are current. since, until: pages served from then to then.
        most: pages compared, drawn with ``seed`` beyond that. settle: see
            :func:`~recsys_plugin.checks.skew.covered_lines`. tell: told what is under way, how much is done, of how
            much.

    Returns:
        The comparison, and in words what was compared.

    Raises:
        ConfigurationError: if there is no archive, or the feature tables are not current.
    """
    dataset = load_dataset(settings)
    tables = require_feature_tables(settings, dataset)
    # A clock that stands still, as for historical data, serves at the end of the time itself.
    pages = read_pages(settings.state / "impressions", since=since, until=until + timedelta(microseconds=1))
    models = models_of(settings.state, settings.model_repository, pages)
    groups, skipped = served_users(pages, models, most=most, seed=seed)
    found = SkewComparison()
    for reason, count in skipped.items():
        found.skip(f"pages: {reason}", count)
    tell("opening Feast", 0, 0)
    store = open_store(settings, Services(settings).redis_url)
    for group in groups:
        model = models[group.version]

        def told(done: int, total: int, what: str = f"joining, version {group.version}") -> None:
            tell(what, done, total)

        joined = offline_users(store, model.contract, group.entities, model.item_ids, progress=told)
        covered = covered_lines(
            tables, model.contract, group.entities, until=dataset.as_of, settle=settle, skip=found.skip
        )
        found.add(model.contract, group.users, joined, group.entities, covered)
    return found, f"{len(pages):,} impressions from {since.isoformat()} to {until.isoformat()}"


def live_skew(settings: Settings, *, moment: datetime, users: int, seed: int, tell: Tell) -> tuple[SkewComparison, str]:
    """Compare what Redis holds of some users with history as of a moment.

    Args:
        settings: of a home whose feature tables are current. moment: the time of the request that is imitated.
        users: how many, drawn with ``seed`` from the users table. tell: see :func:`logged_skew`.

    Returns:
        The comparison, and in words what was compared.

    Raises:
        ConfigurationError: if the feature tables are not current.
        StoreUnavailable: if Redis fails.
    """
    dataset = load_dataset(settings)
    require_feature_tables(settings, dataset)
    everyone = np.sort(dataset.frame("users", ["user_id"])["user_id"].to_numpy(object))
    drawn = np.random.default_rng(seed).permutation(everyone)[:users]
    item_ids: pd.Index[str] = pd.Index(np.sort(dataset.frame("items", ["item_id"])["item_id"].to_numpy(object)))
    entities = pd.DataFrame({"user_id": drawn, "event_timestamp": pd.Timestamp(moment).as_unit("us")})
    found = SkewComparison()
    with Services(settings).ensure_redis() as url:
        tell("opening Feast", 0, 0)
        store = open_store(settings, url)
        contract = contract_of(store)
        served, covered = live_users(
            RedisAddress.parse(url),
            contract,
            drawn.tolist(),
            item_ids,
            moment=moment,
            until=dataset.as_of,
            skip=found.skip,
        )
        joined = offline_users(
            store, contract, entities, item_ids, progress=lambda done, total: tell("joining", done, total)
        )
    found.add(contract, served, joined, entities, covered)
    return found, f"{len(drawn):,} users' features in Redis at {moment.isoformat()}"
