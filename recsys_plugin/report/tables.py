"""The report's tables, from the plain figures of a run to cells with text, a bar and a mark for the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Cell",
    "Row",
    "Table",
    "comparison_table",
    "ctr_table",
    "flat",
    "number",
    "record_table",
    "segment_table",
    "systems_of",
]

#: The two parts of a split's figures, in the order of the tables.
_KINDS = ("baselines", "models")
#: What the ranking metrics are called in a heading.
_METRICS = {"recall@20": "Recall@20", "ndcg@20": "NDCG@20"}
#: Of a CTR model: by head, then of the ranking as a whole.
_HEAD_METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "Log loss", "ece": "ECE"}
_WHOLE_METRICS = {
    "recall@20": "Recall@20",
    "ndcg@20": "NDCG@20",
    "ndcg@20 standard error": "NDCG, standard error",
    "milliseconds_per_user": "ms per user",
}
_COST = {"parameters": "Parameters", "training_seconds": "Seconds"}
_LESS_IS_BETTER = ("Log loss", "ECE", "ms per user")
_PLAIN = ("NDCG, standard error", *_COST.values())


@dataclass(slots=True)
class Cell:
    """One figure: its text, its length as a bar in 0 … 1 if it has one, and whether it is the best of its column."""

    text: str
    share: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; ``group`` is its kind, ``strong`` lines stand out."""

    name: str
    cells: list[Cell]
    group: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns (heading and what stands above it) and rows; the first column holds the rows' names."""

    corner: str
    columns: list[tuple[str, str]]
    rows: list[Row] = field(default_factory=list)

    @property
    def spans(self) -> list[tuple[str, int]]:
        """What stands above neighbouring columns, and above how many; empty if nothing stands above any."""
        spans: list[tuple[str, int]] = []
        for above, _ in self.columns:
            if spans and spans[-1][0] == above:
                spans[-1] = (above, spans[-1][1] + 1)
            else:
                spans.append((above, 1))
        return spans if any(above for above, _ in spans) else []


def number(value: Any, digits: int = 4) -> str:
    """A figure for people: four decimals, thousands in groups; a dash for what is missing or not finite."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value.is_integer() and abs(value) >= 1000:
            return f"{value:,.0f}"
        if value and abs(value) < 10**-digits:
            return f"{value:.2g}"
        # As many digits for large figures as for small ones.
        return f"{value:,.{max(1, digits - len(str(int(abs(value)))) + 1)}f}"
    if isinstance(value, Sequence):
        return ", ".join(number(each, digits) for each in value) or "–"
    return str(value)


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of mappings inside mappings, their names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def systems_of(split: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Kind, name and figures of every system of a split; figures that belong to no system are left out."""
    for kind in _KINDS:
        for name, figures in split.get(kind, {}).items():
            if isinstance(figures, Mapping):
                yield kind, name, figures


def comparison_table(report: Mapping[str, Any], strong: str) -> Table | None:
    """Recall and NDCG of every system, on all items and on those new to the user, on test and validation.

    None if the report compares nothing. ``strong`` is the system whose line stands out.
    """
    places: list[tuple[str, str, str]] = []  # heading above, split, scope within a system's figures
    for split, said in (("test", "Test"), ("validation", "Validation")):
        systems = list(systems_of(report.get(split, {})))
        if any("recall@20" in figures for _, _, figures in systems):
            places.append((f"{said}, all items", split, ""))
        if any(figures.get("new_items") for _, _, figures in systems):
            places.append((f"{said}, items new to the user", split, "new_items"))
    named = {(kind, name) for split in ("test", "validation") for kind, name, _ in systems_of(report.get(split, {}))}
    if not places or not named:
        return None
    order = [
        key for split in ("test", "validation") for key in [(k, n) for k, n, _ in systems_of(report.get(split, {}))]
    ]
    rows = []
    for kind, name in sorted(dict.fromkeys(order), key=lambda key: _KINDS.index(key[0])):
        cells = []
        for _, split, scope in places:
            figures = report.get(split, {}).get(kind, {}).get(name, {})
            figures = figures.get(scope, {}) if scope else figures
            cells += [figures.get(metric) for metric in _METRICS]
        rows.append((name, kind, cells))
    columns = [(above, heading) for above, _, _ in places for heading in _METRICS.values()]
    return _table("System", columns, rows, strong=strong)


def segment_table(split: Mapping[str, Any], metric: str, strong: str) -> Table | None:
    """One metric of every system in every segment; None if no system has segments."""
    systems = [
        (kind, name, figures["segments"]) for kind, name, figures in systems_of(split) if figures.get("segments")
    ]
    names = list(dict.fromkeys(segment for _, _, segments in systems for segment in segments))
    if not names:
        return None
    rows = [
        (name, kind, [segments.get(segment, {}).get(metric) for segment in names]) for kind, name, segments in systems
    ]
    users = {segment: figures.get("users") for _, _, segments in systems for segment, figures in segments.items()}
    columns = [(f"{number(users[segment])} users", segment) for segment in names]
    return _table("System", columns, rows, strong=strong)


def ctr_table(models: Mapping[str, Any], split: str) -> Table | None:
    """AUC and its kin of every CTR model and head on a split, and how the model ranks; None if no model tells."""
    found: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = []
    for name, model in models.items():
        judged = model.get(split, {})
        heads = judged.get("heads", {})
        found += [(f"{name} · {head}" if len(heads) > 1 else name, head, heads[head], judged, model) for head in heads]
    if not found:
        return None
    above = "by head" if len({head for _, head, _, _, _ in found}) > 1 else found[0][1]
    columns = [(above, heading) for heading in _HEAD_METRICS.values()]
    columns += [("ranking", heading) for heading in _WHOLE_METRICS.values()]
    columns += [("training", heading) for heading in _COST.values()]
    rows = [
        (
            name,
            "",
            [
                source.get(key)
                for source, keys in zip(sources, (_HEAD_METRICS, _WHOLE_METRICS, _COST), strict=True)
                for key in keys
            ],
        )
        for name, _, *sources in found
    ]
    headings = [heading for _, heading in columns]
    return _table(
        "Model",
        columns,
        rows,
        less={column for column, heading in enumerate(headings) if heading in _LESS_IS_BETTER},
        plain={column for column, heading in enumerate(headings) if heading in _PLAIN},
    )


def record_table(records: Mapping[str, Any], corner: str) -> Table | None:
    """A line for each mapping in ``records``, a column for each of their keys; None if there is no mapping."""
    lines = {name: dict(flat(record)) for name, record in records.items() if isinstance(record, Mapping)}
    keys = list(dict.fromkeys(key for line in lines.values() for key in line))
    if not keys:
        return None
    rows = [(name, "", [line.get(key) for key in keys]) for name, line in lines.items()]
    return _table(corner, [("", key.replace("_", " ")) for key in keys], rows, plain=set(range(len(keys))))


def _table(
    corner: str,
    columns: list[tuple[str, str]],
    rows: Sequence[tuple[str, str, Sequence[Any]]],
    *,
    strong: str = "",
    less: set[int] | None = None,
    plain: set[int] | None = None,
) -> Table:
    """Cells with bars relative to the column's largest and a mark for its best; not in ``plain`` columns."""
    cells = [[Cell(number(value)) for value in values] for _, _, values in rows]
    for column in range(len(columns)):
        if plain and column in plain:
            continue
        values = [_finite(line[2][column]) for line in rows]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = min(known) if less and column in less else max(known)
        for line, value in zip(cells, values, strict=True):
            if value is not None:
                line[column].best = value == best and min(known) < max(known)
                line[column].share = None if less and column in less else max(value, 0.0) / max(*known, 1e-12)
    return Table(
        corner,
        columns,
        [Row(name, line, kind, name == strong) for (name, kind, _), line in zip(rows, cells, strict=True)],
    )


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
