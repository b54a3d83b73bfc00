"""Requests as they were served, read from the archive of impressions: whose, when, and with which features.

The archive's columns that are read here:

==============  ================================================================================================
``request_id``  string; with ``user_id`` and ``model`` it names a page, which the archive may hold twice
``user_id``     string, null for a request without a user
``served_at``   timestamp[us, UTC], the time of the request, against which ages of features were measured
``model``       string. ``version``: int64, the model version that answered
``contract``    string, fingerprint of that version's feature contract
``scores``      list<double>, one for each position of the page
``features``    string, null where it was not sampled: JSON of the packed tensors of the user, ``user_float``,
                ``user_int`` and ``user_string``, in the contract's order; NaN is null
==============  ================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.errors import ConfigurationError, StepFailed
from recsys_plugin.features.contract import FeatureContract, TensorName
from recsys_plugin.impressions.document import FULL_LEVEL
from recsys_plugin.training.packing import UserTensors

__all__ = ["PAGE_COLUMNS", "ServedModel", "ServedUsers", "exported_model", "models_of", "read_pages", "served_users"]

_LEVEL = "fallback"
#: What is read of a page.
PAGE_COLUMNS = ("request_id", "user_id", "served_at", "model", "version", "contract", "scores", "features")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What gives meaning to the tensors of a version: its feature contract, and the catalogue in row order."""

    contract: FeatureContract
    item_ids: pd.Index[str]


@dataclass(frozen=True, slots=True)
class ServedUsers:
    """Users as one model version saw them.

    Attributes:
        version: of the model.
        entities: ``user_id`` and ``event_timestamp`` (UTC, microseconds), index 0 … n-1.
        users: the packed tensors, n lines.
    """

    version: int
    entities: pd.DataFrame
    users: UserTensors


def read_pages(archive: Path, *, since: datetime | None = None, until: datetime | None = None) -> pa.Table:
    """The pages of an archive, each once, in order of time; without those that were made while a server failed.

    Args:
        archive: the folder with ``day=YYYY-MM-DD/*.parquet``.
        since, until: pages served from then on, and before then.

    Raises:
        ConfigurationError: if there is no page.
    """
    pieces = []
    for folder in sorted(archive.glob("day=*")):
        day = pd.Timestamp(folder.name.removeprefix("day="), tz="UTC")
        if (since is not None and day + pd.Timedelta(days=1) <= since) or (until is not None and day >= until):
            continue
        pieces += [_full_pages(path) for path in sorted(folder.glob("*.parquet"))]
    if not pieces or not sum(map(len, pieces)):
        raise ConfigurationError(
            f"no page is archived in {archive} for that time; serve with RECSYS_IMPRESSIONS=1 and run "
            "`recsys events archive`"
        )
    table = pa.concat_tables(pieces)
    keys = table.select(["request_id", "user_id", "model", "served_at"]).to_pandas()
    kept = ~keys.duplicated(["request_id", "user_id", "model"]).to_numpy()
    for moment, after in ((since, True), (until, False)):
        if moment is not None:
            kept &= (keys["served_at"] >= moment if after else keys["served_at"] < moment).to_numpy()
    chosen = np.flatnonzero(kept)
    order = np.argsort(keys["served_at"].to_numpy()[chosen], kind="stable")
    return table.take(pa.array(chosen[order]))


def _full_pages(path: Path) -> pa.Table:
    """What a file holds of pages that were made on the full level; one from before there were others has no column."""
    file = pq.ParquetFile(path)
    if _LEVEL not in file.schema_arrow.names:
        return file.read(columns=list(PAGE_COLUMNS))
    table = file.read(columns=[*PAGE_COLUMNS, _LEVEL])
    return table.filter(pc.equal(table[_LEVEL], FULL_LEVEL)).drop_columns([_LEVEL])


def served_users(
    pages: pa.Table, models: Mapping[int, ServedModel], *, most: int, seed: int
) -> tuple[list[ServedUsers], dict[str, int]]:
    """The features that were logged with pages, version by version.

    Args:
        pages: columns as above. models: version → what it means. most: pages kept, drawn with ``seed`` beyond that.

    Returns:
        The users, and why pages were left out: reason → pages.

    Raises:
        StepFailed: if logged features do not fit their contract.
    """
    frame = pages.select(["user_id", "served_at", "version", "contract", "features"]).to_pandas()
    skipped: dict[str, int] = {}

    def leave_out(reason: str, which: Any) -> None:
        nonlocal frame
        if count := int(which.sum()):
            skipped[reason] = skipped.get(reason, 0) + count
            frame = frame[~which]

    leave_out("their features were not sampled", frame["features"].isna() | frame["user_id"].isna())
    leave_out("their model version is not on disk any more", ~frame["version"].isin(list(models)))
    fingerprints = {version: model.contract.fingerprint for version, model in models.items()}
    leave_out("they were served with another contract", frame["contract"] != frame["version"].map(fingerprints))
    if len(frame) > most:
        drawn = np.zeros(len(frame), bool)
        drawn[np.random.default_rng(seed).choice(len(frame), most, replace=False)] = True
        leave_out("beyond the sample", pd.Series(~drawn, frame.index))
    found = []
    for _, lines in frame.groupby("version", sort=True):
        entities = pd.DataFrame(
            {
                "user_id": lines["user_id"].to_numpy(object),
                "event_timestamp": pd.DatetimeIndex(lines["served_at"]).as_unit("us"),
            }
        )
        number = int(lines["version"].iloc[0])  # a column with nulls holds fractions
        found.append(ServedUsers(number, entities, _unpacked(models[number].contract, lines["features"].tolist())))
    return found, skipped


def _unpacked(contract: FeatureContract, documents: Sequence[str]) -> UserTensors:
    users = UserTensors.empty(contract, len(documents))
    for line, document in enumerate(documents):
        values = json.loads(document)
        for name in TensorName:
            told = values.get(str(name)) if isinstance(values, dict) else None
            if not isinstance(told, list) or len(told) != contract.widths[name]:
                raise StepFailed(
                    f"logged features of contract {contract.fingerprint[:12]} lack {contract.widths[name]} values of "
                    f"{name}; the impression log is of another version of this project"
                )
            getattr(users, str(name))[line] = [np.nan if value is None else value for value in told]
    return users


def exported_model(state: Path, repository: Path, version: int) -> ServedModel | None:
    """Contract and catalogue of an exported version; ``None`` if it is not on disk any more.

    Args:
        state: the state folder. repository: the model repository.

    Raises:
        FeatureContractError: if the contract was changed since.
    """
    import onnx
    from onnx import numpy_helper

    record, graph = state / "export" / "versions" / f"{version}.json", repository / "catalogue" / str(version)
    if not record.is_file() or not (graph / "model.onnx").is_file():
        return None
    contract = FeatureContract.from_json(json.loads(record.read_text(encoding="utf-8"))["contract"])
    for constant in onnx.load(graph / "model.onnx").graph.initializer:
        if constant.name.endswith("all_item_ids"):
            ids = [str(item) for item in numpy_helper.to_array(constant).reshape(-1)]
            return ServedModel(contract, pd.Index(ids, dtype=object))
    raise StepFailed(f"{graph} does not say which items it holds; run `recsys export` again")


def models_of(state: Path, repository: Path, pages: pa.Table) -> dict[int, ServedModel]:
    """Version → contract and catalogue, for the versions of some pages that are on disk."""
    found = {}
    for version in pages["version"].unique().drop_null().to_pylist():
        model = exported_model(state, repository, version)
        if model is not None:
            found[version] = model
    return found
