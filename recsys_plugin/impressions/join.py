"""What came of each item shown: impressions joined with clicks, carts and purchases, a file for each day.

An event that names the request belongs to the item on that request's page. An event that does not belongs to the last
page on which the same user saw the same item, if that was within the attribution window (last touch). Every item of
every page is one row, and an event counts for one row at most. Pages that were made while a server failed have no rows,
since what came of them says nothing of the models; events still belong to them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet

from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.event import MOST_AHEAD
from recsys_plugin.impressions.parquet import day_folder, days_in, write_whole

__all__ = [
    "GRACE",
    "MOST_WINDOW",
    "Joined",
    "Progress",
    "join_outcomes",
    "outcome_files",
    "outcomes_digest",
    "outcomes_folder",
]

#: So long after its window a day is still written again: events arrive late, and the archive runs now and then.
GRACE = timedelta(hours=1)
MOST_WINDOW = timedelta(days=30)
#: What DuckDB may take; what is more goes to disk.
_MEMORY = "1GB"
_BATCH_ROWS = 100_000
_DAY = timedelta(days=1)
_NOTE = b"recsys.join"

Progress = Callable[[str, int, int], None]

_SQL = """
WITH archived AS (
    SELECT * FROM read_parquet($pages, union_by_name = true)
    UNION ALL BY NAME SELECT NULL::VARCHAR AS fallback WHERE false
), pages AS (
    SELECT * FROM archived
    QUALIFY row_number() OVER (PARTITION BY request_id, user_id, model ORDER BY entry) = 1
), shown AS (
    SELECT request_id, user_id, model, version AS model_version, contract, policy, propensity_kind, served_at,
        unnest(items) AS item_id, unnest(range(1, len(items) + 1)) AS position, unnest(scores) AS score,
        unnest(propensities) AS propensity, coalesce(fallback, 'full') AS fallback
    FROM pages
), acts AS (
    SELECT event_id, user_id, item_id, event_type, timestamp, request_id FROM read_parquet($events)
    WHERE event_type IN ('click', 'cart', 'purchase')
    QUALIFY row_number() OVER (PARTITION BY user_id, event_id ORDER BY recorded_at, entry) = 1
), matches AS (
    SELECT a.user_id AS actor, a.event_id, a.event_type, a.timestamp,
        s.request_id, s.user_id, s.model, s.position, s.served_at
    FROM acts a JOIN shown s ON s.request_id = a.request_id AND s.item_id = a.item_id
    WHERE (s.user_id IS NULL OR s.user_id = a.user_id) AND s.served_at <= a.timestamp + to_microseconds($ahead)
    UNION ALL
    SELECT a.user_id AS actor, a.event_id, a.event_type, a.timestamp,
        s.request_id, s.user_id, s.model, s.position, s.served_at
    FROM acts a JOIN shown s ON s.user_id = a.user_id AND s.item_id = a.item_id
    WHERE a.request_id IS NULL AND s.served_at <= a.timestamp
), touches AS (
    SELECT * FROM matches WHERE timestamp <= served_at + to_microseconds($window)
    QUALIFY row_number() OVER (
        PARTITION BY actor, event_id
        ORDER BY served_at DESC, request_id, model, user_id NULLS LAST, position
    ) = 1
), outcomes AS (
    SELECT request_id, user_id, model, position,
        min(timestamp) FILTER (event_type = 'click') AS clicked_at,
        min(timestamp) FILTER (event_type = 'cart') AS carted_at,
        min(timestamp) FILTER (event_type = 'purchase') AS purchased_at
    FROM touches GROUP BY ALL
)
SELECT s.request_id, s.user_id, s.item_id, s.position, s.propensity, s.propensity_kind, s.score, s.served_at, s.policy,
    s.model, s.model_version, s.contract,
    clicked_at IS NOT NULL AS clicked, carted_at IS NOT NULL AS carted, purchased_at IS NOT NULL AS purchased,
    clicked_at, carted_at, purchased_at
FROM shown s LEFT JOIN outcomes o ON s.request_id = o.request_id AND s.user_id IS NOT DISTINCT FROM o.user_id
    AND s.model = o.model AND s.position = o.position
WHERE s.served_at >= $first AND s.served_at < $next AND s.fallback = 'full'
ORDER BY s.served_at, s.request_id, s.user_id NULLS LAST, s.model, s.position
"""

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("request_id", "user_id", "item_id")]
    + [("position", pa.int64()), ("propensity", pa.float64()), ("propensity_kind", pa.string())]
    + [("score", pa.float64()), ("served_at", pa.timestamp("us", tz="UTC")), ("policy", pa.string())]
    + [("model", pa.string()), ("model_version", pa.int64()), ("contract", pa.string())]
    + [(name, pa.bool_()) for name in ("clicked", "carted", "purchased")]
    + [(name, pa.timestamp("us", tz="UTC")) for name in ("clicked_at", "carted_at", "purchased_at")]
)


@dataclass(slots=True)
class Joined:
    """What a run did."""

    written: int = 0
    """Days written."""
    unchanged: int = 0
    """Days that were right already."""
    final: int = 0
    """Days that no event can change any more."""
    rows: int = 0
    """Items shown, in the days written."""
    clicked: int = 0
    carted: int = 0
    purchased: int = 0


def join_outcomes(
    archive: Path,
    output: Path,
    *,
    window: timedelta,
    now: datetime,
    progress: Progress = lambda what, done, total: None,
) -> Joined:
    """Write the training table: ``output/day=YYYY-MM-DD/outcomes.parquet``, by the day of the impression in UTC.

    A day whose inputs did not change since is left alone; one whose window passed more than :data:`GRACE` ago is final.

    Args:
        archive: where :class:`~recsys_plugin.impressions.archive.Archiver` writes.
        window: an event this long after the impression still counts.
        now: aware.

    Raises:
        InvalidInput: if the window is not above 0 and at most 30 days, or the output was made with another window.
    """
    if not timedelta(0) < window <= MOST_WINDOW:
        raise InvalidInput(f"window: {window} is not above 0 and at most {MOST_WINDOW}")
    done = Joined()
    days = days_in(archive / "impressions")
    for number, day in enumerate(days):
        progress("days", number, len(days))
        path = day_folder(output, day) / "outcomes.parquet"
        first = datetime.combine(day, time(), UTC)
        # Later pages count too: they may be the last touch of an event that follows this day.
        reach = [day + _DAY * ahead for ahead in range(-(-window // _DAY) + 1)]
        pages = _files(archive / "impressions", reach)
        # Events of the evening before, by clocks that are behind.
        events = _files(archive / "live_events", [day - _DAY, *reach])
        final = now >= first + _DAY + window + GRACE
        note = {
            "window": window.total_seconds(),
            "inputs": sha256("\n".join(str(file) for file in (*pages, *events)).encode()).hexdigest(),
            "final": final,
        }
        before = _note(path)
        if before is not None and before["window"] != note["window"]:
            raise InvalidInput(
                f"{path} was made with a window of {before['window']:g} s, not {note['window']:g}; "
                "give that window, or another folder"
            )
        done.final += final
        if before is not None and (before["final"] or before == note):
            done.unchanged += 1
            continue
        schema = _SCHEMA.with_metadata({_NOTE: json.dumps(note)})
        write_whole(path, schema, _counted(_joined(pages, events, window, first), done))
        done.written += 1
    progress("days", len(days), len(days))
    return done


def outcomes_folder(state: Path, window: timedelta) -> Path:
    """Where items shown lie with what came of them within the window, below the state folder."""
    return state / "outcomes" / f"window={window // timedelta(seconds=1)}s"


def outcome_files(folder: Path, *, before: datetime) -> list[Path]:
    """The files that hold pages served before a moment, in order of time."""
    days = (day for day in days_in(folder) if datetime.combine(day, time(), UTC) < before)
    return [path for day in days if (path := day_folder(folder, day) / "outcomes.parquet").exists()]


def outcomes_digest(files: Sequence[Path]) -> str:
    """SHA-256 of what the files were made of."""
    made = ((path.parent.name, note["window"], note["inputs"]) for path in files if (note := _note(path)) is not None)
    return sha256(repr(list(made)).encode()).hexdigest()


def _joined(
    pages: Sequence[Path], events: Sequence[Path], window: timedelta, first: datetime
) -> Iterator[pa.RecordBatch]:
    """The rows of the day that begins with ``first``, in order, so many at a time."""
    with tempfile.TemporaryDirectory() as overflow, duckdb.connect() as database:
        database.execute(f"SET memory_limit = '{_MEMORY}'; SET threads = 2; SET TimeZone = 'UTC'")
        database.execute("SET temp_directory = $folder", {"folder": overflow})
        query = _SQL if events else _SQL.replace("read_parquet($events)", _NO_EVENTS)
        values: dict[str, Any] = {
            "pages": [str(path) for path in pages],
            "window": window // timedelta(microseconds=1),
            "ahead": MOST_AHEAD // timedelta(microseconds=1),
            "first": first,
            "next": first + _DAY,
        }
        if events:
            values["events"] = [str(path) for path in events]
        for batch in database.execute(query, values).fetch_record_batch(_BATCH_ROWS):
            yield batch.cast(_SCHEMA)


def _counted(batches: Iterable[pa.RecordBatch], done: Joined) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        done.rows += batch.num_rows
        for name in ("clicked", "carted", "purchased"):
            setattr(done, name, getattr(done, name) + batch[name].true_count)
        yield batch


_NO_EVENTS = """(SELECT NULL::VARCHAR event_id, NULL::VARCHAR user_id, NULL::VARCHAR item_id, NULL::VARCHAR event_type,
    NULL::TIMESTAMPTZ AS timestamp, NULL::VARCHAR request_id, NULL::TIMESTAMPTZ recorded_at, NULL::VARCHAR entry
    WHERE false)"""


def _files(root: Path, days: Sequence[date]) -> list[Path]:
    return sorted(path for day in days for path in day_folder(root, day).glob("*.parquet"))


def _note(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    metadata = parquet.read_schema(path).metadata or {}
    note: dict[str, Any] = json.loads(metadata[_NOTE])
    return note
