"""The tables of user and item vectors, which Feast serves to whoever wants to search among them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import moment_column
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, point_in_time_blocks
from recsys_plugin.pipeline.feature_tables import write_table
from recsys_plugin.training.artefacts import read_two_tower
from recsys_plugin.training.packing import pack_frame
from recsys_plugin.training.run import TrainingRun

__all__ = ["write_vector_table", "write_vectors"]


def write_vectors(run: TrainingRun) -> Mapping[str, Any]:
    """Write the tables of user and item vectors as of now."""
    frames = run.frames()
    towers, contract, _, _ = read_two_tower(
        run.folder / "two_tower", frames.snapshots[-1], run.modalities(), frames.neighbours[-1]
    )
    as_of = pd.Timestamp(run.dataset.as_of)
    users = run.dataset.frame("users", ["user_id"])
    asked = pd.DataFrame({"user_id": users["user_id"].to_numpy(object), "event_timestamp": as_of.as_unit("us")})
    blocks = point_in_time_blocks(
        run.store,
        asked,
        RANKING_SERVICE,
        progress=lambda done, total: run.progress("user vectors", done, total),
    )
    user_vectors = np.empty((len(asked), towers.item_vectors()[1].shape[1]), np.float32)
    for rows, frame in blocks:
        user_vectors[rows] = towers.user_vectors(pack_frame(contract, frame, run.item_ids))
    write_vector_table(
        run.feature_data / "user_embedding.parquet", "user_id", asked["user_id"], as_of, {"vector": user_vectors}
    )
    write_vector_table(
        run.feature_data / "item_embedding.parquet",
        "item_id",
        pd.Series(run.item_ids),
        as_of,
        {"vector": towers.item_vectors()[1], "text_vector": run.text_vectors()},
    )
    return {"users": len(users), "items": len(run.item_ids)}


def write_vector_table(
    path: Path,
    key: str,
    ids: pd.Series[str],
    as_of: datetime,
    vectors: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]],
) -> None:
    """Write one of the tables: ids and vectors float32 [n, width] by column, all stamped ``as_of``."""
    columns = {
        key: pa.array(ids, pa.string()),
        "event_timestamp": moment_column(np.full(len(ids), pd.Timestamp(as_of).value // 1000)),
    }
    for name, matrix in vectors.items():
        offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1])
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))
    write_table(pa.table(columns), path)
