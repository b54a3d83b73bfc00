"""``recsys bench materialize``: rows into Redis, ours against stock Feast's, in turn into the same server."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys_plugin.bench.machine import describe_machine, load_average, package_versions, redis_version
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.bench.typed_table import AS_OF, VIEW, typed_view, write_typed_table
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import CheckFailed, InvalidInput, StepFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.pipeline.materialize import Cursor, materialize_view, view_source
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["measure_materialize", "require_same_rows"]

#: Entities that one call of ``get_online_features`` asks for.
_ASKED = 500
#: The online store of ours that stock Feast can name.
_BULK_STORE = "recsys_plugin.feast_store.BulkRedisOnlineStore"
_MIB = 1 << 20
_WARM_UP = 2
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class _Load:
    """Views that are materialised together, and the moment that they are materialised as of."""

    name: str
    views: tuple[str, ...]
    as_of: datetime


def measure_materialize(
    settings: Settings, *, rows: int, rounds: int, sample: int, pushes: int, seed: int, tell: Tell
) -> Report:
    """Materialise the same tables with stock Feast and with ours, in turn; then check that both stores say the same.

    Both write into one Redis of their own, empty each time, under two projects. The tables are a generated one with
    a column of every type, and the shop's own if the home has applied them.

    Args:
        settings: names the home.
        rows: entities of the generated table.
        rounds: how often each way materialises everything.
        sample: entities of each view whose features are compared afterwards.
        pushes: how many single rows each way writes; stock Feast's, which is slow, a tenth.
        seed: fixes tables, sample and order.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        CheckFailed: if ``get_online_features`` does not return the same from both projects.
        StoreUnavailable: if the server fails.
    """
    if min(rows, rounds, sample, pushes) < 1:
        raise InvalidInput("bench materialize: rows, rounds, sample and pushes must be 1 or more")
    machine = {**describe_machine(), "load_average_before": load_average()}
    versions = package_versions("feast", "duckdb", "pyarrow")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        redis_url = stack.enter_context(Services(Settings(home=folder)).ensure_redis())
        address = RedisAddress.parse(redis_url)
        report = Report("Materialising", machine, {**versions, "redis-server": redis_version(redis_url)})
        table = folder / f"{VIEW}.parquet"
        write_typed_table(table, rows, seed=seed, progress=lambda done, total: tell("generating rows", done, total))
        tell("opening Feast", 0, 0)
        loads, definitions = _loads(settings, redis_url, table)
        stock, ours = (_store(folder, name, address, definitions) for name in ("stock", "ours"))
        bulk = _store(folder, "bulk_store", address, definitions, kind=_BULK_STORE)
        client = stack.enter_context(contextlib.closing(address.connect(_TIMEOUT)))
        ways: dict[str, Callable[[_Load], int]] = {
            "ours": lambda load: _ours(ours, address, load),
            "stock": lambda load: _stock(stock, load),
            "bulk_store": lambda load: _stock(bulk, load),
        }
        for load in loads:
            _measure_load(report, load, ways, client, rounds=rounds, seed=seed, tell=tell)
            client.flushall()
            for way in ways.values():
                way(load)
            compared = 0
            for view in load.views:
                told = partial(tell, f"{view}: comparing rows")
                compared += require_same_rows(stock, ours, view, sample=sample, seed=seed, progress=told)
                require_same_rows(stock, bulk, view, sample=sample, seed=seed, progress=told)
            report.add(f"{load.name}.rows_compared", compared)
        _measure_pushes(report, stock, ours, address, table, pushes=pushes, seed=seed, tell=tell)
    report.finish(
        f"seed {seed}; {rounds} rounds, each into an empty Redis; a ratio above 1 says how many times faster ours is",
        "afterwards get_online_features returned the same values, statuses and event times from all projects, for "
        "every row compared",
        "peak_growth_mib: resident memory at most, beyond what the process had before its first run; Feast was loaded",
        "bulk_store: stock FeatureStore.materialize with our class as its online store; its rows were compared, too",
        "stock: FeatureStore.materialize over the same interval as ours, its registry's record included in both",
        frozen=False,
    )
    return report


def require_same_rows(
    stock: Any,
    ours: Any,
    view: str,
    *,
    sample: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Ask both stores for the same entities and compare all that ``get_online_features`` answers.

    Args:
        stock, ours: two Feast stores; the second is not stock Feast's doing.
        view: all its features are compared.
        sample: how many of the entities in the view's table; all, if there are fewer.
        seed: fixes which.
        progress: told entities compared and entities in all.

    Returns:
        How many entities were compared.

    Raises:
        CheckFailed: naming the first feature and entity that differ.
    """
    source = view_source(ours, view)
    (join_key,) = source.layout.join_keys
    known = pq.read_table(source.path, columns=[join_key])[join_key].unique()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(known))[:sample])
    ids = known.take(chosen).to_pylist()
    features = [f"{view}:{name}" for name in source.layout.features]
    for first in range(0, len(ids), _ASKED):
        asked = ids[first : first + _ASKED]
        entities = [{join_key: value} for value in asked]
        answers = [store.get_online_features(features, entities).proto for store in (stock, ours)]
        for name, theirs, mine in zip(
            answers[0].metadata.feature_names.val, answers[0].results, answers[1].results, strict=True
        ):
            if theirs.SerializeToString(deterministic=True) == mine.SerializeToString(deterministic=True):
                continue
            for position, value in enumerate(asked):
                usual, found = (_answer(each, position) for each in (theirs, mine))
                if usual != found:
                    raise CheckFailed(
                        f"{view}:{name} of {join_key} {value!r}: get_online_features returns {usual} after stock "
                        f"Feast's materialisation and {found} from {ours.project}"
                    )
        progress(first + len(asked), len(ids))
    return len(ids)


def _answer(vector: Any, position: int) -> tuple[bytes, int, bytes]:
    """What the SDK says of one feature of one entity: value, status and event time."""
    return (
        vector.values[position].SerializeToString(),
        vector.statuses[position],
        vector.event_timestamps[position].SerializeToString(),
    )


def _loads(settings: Settings, redis_url: str, table: Path) -> tuple[list[_Load], list[Any]]:
    """What is materialised, and the Feast objects that define it."""
    definitions = [*typed_view(table)]
    loads = [_Load(VIEW, (VIEW,), AS_OF)]
    if (settings.feature_repo / "data" / "registry.db").is_file():
        from recsys_plugin.pipeline.feast_repository import open_store

        home = open_store(settings, redis_url)
        views = [view for view in home.list_feature_views() if Path(view.batch_source.path).is_file()]
        if views:
            definitions += [*home.list_entities(), *views]
            loads.append(_Load("shop", tuple(view.name for view in views), load_dataset(settings).as_of))
    return loads, definitions


def _store(folder: Path, name: str, address: RedisAddress, definitions: list[Any], *, kind: str = "redis") -> Any:
    """A Feast store with a registry of its own in the folder; the name is its project."""
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project=name,
        provider="local",
        registry=str(folder / f"{name}.db"),
        online_store={
            "type": kind,
            "redis_type": address.feast_redis_type(),
            "connection_string": address.feast_connection_string(timeout=_TIMEOUT),
        },
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply(definitions)
    return store


def _measure_load(
    report: Report,
    load: _Load,
    ways: Mapping[str, Callable[[_Load], int]],
    client: Any,
    *,
    rounds: int,
    seed: int,
    tell: Tell,
) -> None:
    """Both ways in turn, each into an empty Redis; the first round begins with ours, whose memory is of interest."""
    order = np.random.default_rng(seed)
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, int] = {}
    keys: dict[str, int] = {}
    for number in range(rounds):
        for position in order.permutation(len(names)) if number else range(len(names)):
            name = names[position]
            tell(f"{load.name}: materialising in turn", len(names) * number, len(names) * rounds)
            client.flushall()
            before = _resident("VmRSS", reset=True)
            began = time.perf_counter()
            rows[name] = ways[name](load)
            taken[name].append((time.perf_counter() - began) * 1000)
            keys[name] = client.dbsize()
            if not number:
                report.add(f"{load.name}.{name}.peak_growth_mib", (_resident("VmHWM") - before) / _MIB)
    for name, made in keys.items():
        if made != keys["stock"]:
            raise CheckFailed(f"{load.name}: {name} made {made} keys in Redis, stock Feast {keys['stock']}")
    report.add(f"{load.name}.rows", rows["ours"])
    samples = {name: Samples(np.array(values)) for name, values in taken.items()}
    for name, measured in samples.items():
        report.add_samples(f"{load.name}.{name}", measured)
        report.add(f"{load.name}.{name}.rows_per_second", rows["ours"] / float(np.median(measured.total)) * 1000)
    for name in names:
        if name != "stock":
            report.add_ratio(f"{load.name}.stock_to_{name}", p50_ratio(samples["stock"], samples[name], seed=seed))


def _measure_pushes(
    report: Report, stock: Any, ours: Any, address: RedisAddress, table: Path, *, pushes: int, seed: int, tell: Tell
) -> None:
    """One row at a time: ours, Feast's ``write_to_online_store`` and its ``push``, each later than the one before."""
    layout = view_source(ours, VIEW).layout
    row = next(pq.ParquetFile(table).iter_batches(1))
    values = {name: column[0] for name, column in row.to_pydict().items()}
    entity = {name: values[name] for name in layout.join_keys}
    features = {name: values[name] for name in layout.features}
    seldom = max(1, pushes // 10)
    frames = []
    for second in range(2 * (seldom + _WARM_UP)):
        frame = row.to_pandas()
        frame["event_timestamp"] = AS_OF + timedelta(seconds=second + 1)
        frames.append(frame)
    following = iter(frames)
    moments = (AS_OF + timedelta(seconds=second) for second in count(1))
    with BulkWriter(address, timeout=_TIMEOUT) as writer:
        samples = interleave(
            {
                "ours": Subject(lambda number: writer.write_row(layout, entity, features, next(moments)), pushes),
                "write_to_online_store": Subject(
                    lambda number: stock.write_to_online_store(VIEW, next(following)), seldom
                ),
                "push": Subject(lambda number: stock.push(f"{VIEW}_push", next(following)), seldom),
            },
            warm_up=_WARM_UP,
            seed=seed,
            progress=partial(tell, "single rows in turn"),
        )
    for name, measured in samples.items():
        report.add_samples(f"row.{name}", measured)
    for name in ("write_to_online_store", "push"):
        report.add_ratio(f"row.{name}_to_ours", p50_ratio(samples[name], samples["ours"], seed=seed))


def _ours(store: Any, address: RedisAddress, load: _Load) -> int:
    with BulkWriter(address, timeout=_TIMEOUT) as writer, contextlib.closing(address.connect(_TIMEOUT)) as client:
        rows = 0
        for view in load.views:
            cursor = Cursor(client, "recsys:materializing:bench", view, "bench")
            rows += materialize_view(store, view, writer, cursor, as_of=load.as_of)
            cursor.remove()
        return rows


def _stock(store: Any, load: _Load) -> int:
    for view in load.views:
        start, end = view_source(store, view).interval(load.as_of)
        store.materialize(start_date=start, end_date=end, feature_views=[view])
    return 0


def _resident(name: str, *, reset: bool = False) -> int:
    """Bytes of this process that the kernel counts under a name of ``/proc/self/status``; ``reset`` the peak first."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise StepFailed(f"/proc/self/status states no {name}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Feast prints what it does, draws bars and warns of its own deprecations; none of that is what is measured."""
    before = os.environ.get("FEAST_NO_PROGRESS")
    os.environ["FEAST_NO_PROGRESS"] = "1"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["FEAST_NO_PROGRESS"]
        else:
            os.environ["FEAST_NO_PROGRESS"] = before
