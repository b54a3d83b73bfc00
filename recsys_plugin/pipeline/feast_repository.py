"""The Feast repository: applied with the stock command, read through its SDK, materialised view by view."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from recsys_plugin.aggregation.arrays import microseconds, sorted_codes
from recsys_plugin.errors import StepFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.settings import Settings

__all__ = [
    "BLOCK",
    "JOIN_BYTES",
    "JOIN_MEMORY",
    "RANKING_SERVICE",
    "SNAPSHOT_SERVICE",
    "apply_repository",
    "contract_of",
    "feast_environment",
    "feature_schema",
    "open_store",
    "point_in_time",
    "point_in_time_blocks",
]

#: The feature service that the ranking models' contract is derived from.
RANKING_SERVICE = "ranking_v1"
#: The feature service that export builds into the models.
SNAPSHOT_SERVICE = "item_snapshot_v1"
#: Rows that are joined at a time.
BLOCK = 8192
#: What DuckDB may use for a join before it writes to disk.
JOIN_MEMORY = "3GB"
#: What the rows that a join compares may take, as estimated; fewer rows are joined at a time where keys have more.
JOIN_BYTES = 1e9
#: What DuckDB needs for one value, an id in a list for instance.
_VALUE_BYTES = 16


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
    block: int = BLOCK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Join the features of ``service`` as they were at each row's ``event_timestamp``.

    Args:
        store: Feast's store.
        entities: a join key column and ``event_timestamp`` (UTC); the index must be 0, 1, 2 ….
        service: name of a feature service.
        block: rows per join, which bounds the memory.
        progress: told rows done and rows in all.

    Returns:
        One row per row of ``entities``, in the same order, with columns ``view__feature`` besides those of
        ``entities``. A feature that did not exist then, or was older than its view's ttl, is null.

    Raises:
        StepFailed: if Feast returned other rows than it was asked for.
    """
    parts = list(point_in_time_blocks(store, entities, service, block=block, progress=progress))
    positions = np.concatenate([rows for rows, _ in parts])
    frame = pd.concat([part for _, part in parts], ignore_index=True)
    back = np.empty(len(positions), np.int64)
    back[positions] = np.arange(len(positions))
    return frame.take(back).reset_index(drop=True)


def point_in_time_blocks(
    store: Any,
    entities: pd.DataFrame,
    service: str,
    *,
    block: int = BLOCK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.int64]], pd.DataFrame]]:
    """:func:`point_in_time` block by block, for more rows than fit in memory.

    Rows of neighbouring keys are joined together: the feature tables are sorted by key, and so each join reads only
    the part that it needs. Before it drops all but one, a join holds every earlier row of every entity asked for, so
    busy entities are joined in smaller blocks.

    Yields:
        Positions of the block's rows in ``entities``, int64 [rows], and their features, row by row. At least one
        block, which is empty if there are no rows.
    """
    features = store.get_feature_service(service)
    (key,) = (name for name in entities.columns if name != "event_timestamp")
    order = np.lexsort((microseconds(entities["event_timestamp"]), sorted_codes(entities[key])[0]))
    _bound_memory()
    sizes = _join_bytes(store, service, entities[key])[order]
    start = 0
    while start < max(len(entities), 1):
        rows = order[start : start + max(1, _first_above(sizes[start : start + block], JOIN_BYTES))]
        asked = entities.take(rows).reset_index(drop=True)
        asked["entity_row"] = range(len(asked))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            job = store.get_historical_features(asked, features, full_feature_names=True)
            frame: pd.DataFrame = job.to_df()
        frame = frame.sort_values("entity_row", ignore_index=True)
        if not frame["entity_row"].equals(asked["entity_row"].astype(frame["entity_row"].dtype)):
            raise StepFailed(f"feast returned {len(frame)} rows of {service} for {len(asked)} moments asked")
        yield rows, frame.drop(columns="entity_row")
        progress(start + len(asked), len(entities))
        start += max(1, len(asked))


def _first_above(sizes: np.ndarray[Any, np.dtype[np.float64]], most: float) -> int:
    """How many from the beginning have a sum of at most ``most``."""
    return int(np.searchsorted(np.cumsum(sizes), most, side="right"))


def _join_bytes(store: Any, service: str, keys: pd.Series[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """About how many bytes the join of each row holds at a time, float64 [rows]: all rows of its key in every view.

    Views that are not behind a local Parquet file count nothing.
    """
    connection = _connection()
    total = np.zeros(len(keys))
    for projection in store.get_feature_service(service).feature_view_projections:
        path = getattr(store.get_feature_view(projection.name).batch_source, "path", "")
        if not Path(path).is_file():
            continue
        metadata = parquet.read_metadata(path)
        values = sum(
            metadata.row_group(group).column(column).num_values
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        )
        counted = connection.execute(
            f'SELECT "{keys.name}", count(*) FROM read_parquet($path) GROUP BY 1', {"path": path}
        ).fetchnumpy()
        found, rows = counted.values()
        position = pd.Index(found).get_indexer(pd.Index(keys))
        of_key = np.where(position >= 0, np.append(rows, 0)[position], 0)
        total += of_key * (values * _VALUE_BYTES / max(metadata.num_rows, 1))
    return total


def _connection() -> Any:
    """The DuckDB behind Feast's offline store, which Feast reaches through ibis."""
    import ibis  # type: ignore[import-untyped]

    return ibis.get_backend().con


@functools.cache
def _bound_memory() -> None:
    """Let the DuckDB behind Feast's offline store write to a temporary folder what is beyond :data:`JOIN_MEMORY`.

    Once for the process: DuckDB cannot change to another folder after it has used one.
    """
    folder = tempfile.mkdtemp(prefix="recsys-join-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    connection = _connection()
    connection.execute(f"SET memory_limit = '{JOIN_MEMORY}'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET temp_directory = $folder", {"folder": folder})


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
