"""The Feast repository: applied with the stock command, read through its SDK, materialised view by view."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from recsys_plugin.errors import StepFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.settings import Settings

__all__ = [
    "RANKING_SERVICE",
    "SNAPSHOT_SERVICE",
    "apply_repository",
    "contract_of",
    "feast_environment",
    "feature_schema",
    "materialize_view",
    "open_store",
    "point_in_time",
]

#: The feature service that the ranking models' contract is derived from.
RANKING_SERVICE = "ranking_v1"
#: The feature service that export builds into the models.
SNAPSHOT_SERVICE = "item_snapshot_v1"


def feast_environment(redis_url: str) -> dict[str, str]:
    """The variables that ``feature_store.yaml`` expects, for the given Redis."""
    address = RedisAddress.parse(redis_url)
    return {
        "RECSYS_FEAST_REDIS": address.feast_connection_string(),
        "RECSYS_FEAST_REDIS_TYPE": address.feast_redis_type(),
    }


def apply_repository(settings: Settings, redis_url: str) -> str:
    """Run the stock ``feast apply`` on the repository and return what it printed.

    Raises:
        StepFailed: if Feast refuses the definitions; the message holds the end of Feast's own.
    """
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(settings.feature_repo), "apply"]
    environment = {**os.environ, **feast_environment(redis_url), "FEAST_USAGE": "False"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"feast apply failed on {settings.feature_repo}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def open_store(settings: Settings, redis_url: str) -> Any:
    """Open ``feast.FeatureStore`` on the repository, its online store being the given Redis."""
    os.environ.update(feast_environment(redis_url))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own deprecations are not ours to show
        from feast import FeatureStore

        return FeatureStore(repo_path=str(settings.feature_repo))


def point_in_time(
    store: Any,
    entities: pd.DataFrame,
    service: str,
    *,
    block: int = 8192,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Join the features of ``service`` as they were at each row's ``event_timestamp``.

    Args:
        store: Feast's store.
        entities: a join key column and ``event_timestamp`` (UTC); the index must be 0, 1, 2 ….
        service: name of a feature service.
        block: rows per join. Before it drops all but one, the join holds every earlier row of every entity asked
            for, so this bounds the memory.
        progress: told rows done and rows in all.

    Returns:
        One row per row of ``entities``, in the same order, with columns ``view__feature`` besides those of
        ``entities``. A feature that did not exist then, or was older than its view's ttl, is null.

    Raises:
        StepFailed: if Feast returned other rows than it was asked for.
    """
    features = store.get_feature_service(service)
    frames: list[pd.DataFrame] = []
    for start in range(0, max(len(entities), 1), block):
        asked = entities.iloc[start : start + block].reset_index(drop=True)
        asked["entity_row"] = range(len(asked))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            job = store.get_historical_features(asked, features, full_feature_names=True)
            frame: pd.DataFrame = job.to_df()
        frame = frame.sort_values("entity_row", ignore_index=True)
        if not frame["entity_row"].equals(asked["entity_row"].astype(frame["entity_row"].dtype)):
            raise StepFailed(f"feast returned {len(frame)} rows of {service} for {len(asked)} moments asked")
        frames.append(frame.drop(columns="entity_row"))
        progress(start + len(asked), len(entities))
    return pd.concat(frames, ignore_index=True)


def contract_of(store: Any, service: str = RANKING_SERVICE) -> FeatureContract:
    """Derive the feature contract of a feature service; the tags of each field add default, length and encoding."""
    features: list[FeatureSpec] = []
    for projection in store.get_feature_service(service).feature_view_projections:
        ttl: timedelta | None = store.get_feature_view(projection.name).ttl
        for field in projection.features:
            tags: Mapping[str, str] = field.tags
            dtype: str = field.dtype.to_value_type().name
            encoding = Encoding(tags.get("encoding", "value"))
            features.append(
                FeatureSpec(
                    reference=f"{projection.name}:{field.name}",
                    dtype=dtype,
                    encoding=encoding,
                    length=int(tags["length"]) if "length" in tags else None,
                    default=-1 if encoding is Encoding.ROW else _default(dtype, tags["default"]),
                    max_age_seconds=ttl.total_seconds() if ttl else None,
                )
            )
    features.append(FeatureSpec(reference=REQUEST_TIMESTAMP, dtype="UNIX_TIMESTAMP", default=0))
    return FeatureContract(features=tuple(features), project=store.project)


def _default(dtype: str, text: str) -> float | int | str:
    element = dtype.removesuffix("_LIST")
    if element in ("STRING", "BYTES"):
        return text
    return float(text) if element in ("FLOAT", "DOUBLE") else int(text)


def feature_schema(store: Any) -> dict[str, str]:
    """``view:feature`` → Feast value type name, for all views."""
    return {
        f"{view.name}:{field.name}": field.dtype.to_value_type().name
        for view in store.list_feature_views()
        for field in view.features
    }


def materialize_view(store: Any, view: str, *, as_of: datetime) -> None:
    """Materialise one view as of a moment: the newest row of each entity that is not yet past the view's ttl."""
    ttl: timedelta | None = store.get_feature_view(view).ttl
    start = as_of - (ttl or timedelta(days=36500))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_bar():
        warnings.simplefilter("ignore")
        store.materialize(start_date=start, end_date=as_of, feature_views=[view], disable_event_timestamp=False)


@contextlib.contextmanager
def _quiet_bar() -> Any:
    """Feast draws its own progress bars on standard error unless told not to."""
    before = os.environ.get("FEAST_NO_PROGRESS")
    os.environ["FEAST_NO_PROGRESS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEAST_NO_PROGRESS"]
        else:
            os.environ["FEAST_NO_PROGRESS"] = before
