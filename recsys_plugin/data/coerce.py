"""One column at a time, from whatever its file holds to the canonical Arrow type; whole columns, never row by row."""

from __future__ import annotations

from datetime import datetime
from difflib import get_close_matches

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.check import Check, first_true, show
from recsys_plugin.data.schema import EARLIEST, LATEST, Column
from recsys_plugin.data.vectors import coerce_vectors, is_list, is_number

__all__ = ["coerce_column"]

_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?( ?(Z|[+-][0-9]{2}(:?[0-9]{2})?))?)?$"
)
_UNCLEAN_IDENTIFIER = r"^[\s\p{Z}]|[\s\p{Z}]$|\p{Cc}"
_FLOAT_ARTEFACT = r"^[0-9]+\.0$"
_FLOAT_ADVICE = (
    "pandas turns whole-number ids into floats when one is missing; convert with .astype('Int64').astype('string') "
    "before writing"
)


def coerce_column(
    values: pa.ChunkedArray, column: Column, *, file: str, now: datetime, first_row: int = 1, whole: bool = True
) -> pa.ChunkedArray:
    """Convert one column to its canonical type and check each of its own rules (not uniqueness or references).

    Args:
        values: the column as read; any Arrow type.
        column: what it must be.
        file: named in errors.
        now: aware moment after which a ``past`` timestamp is refused.
        first_row: the file's row that ``values`` begin with.
        whole: whether ``values`` are all that the file has; errors say "at least" so many rows if not.

    Returns:
        A chunked array of ``column.arrow_type``, defaults filled in.

    Raises:
        DataError: naming file, column, the first row at fault (1-based) and what to do.
    """
    check = Check(column, file, first_row, whole)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type):
        values = values.cast(column.arrow_type)
    _check_type(values.type, check)
    if _is_text(values.type):
        values = _text_or_null(values, check)
    if column.required:
        check.refuse(pc.is_null(values), values, lambda _: "is empty; every row needs a value")
    if column.kind == "number":
        return _number(values, check)
    if column.kind == "timestamp":
        return _timestamp(values, check, now)
    if column.kind == "vector":
        return coerce_vectors(values, check)
    return _text(values, check)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_type(kind: pa.DataType, check: Check) -> None:
    """Refuse Arrow types that would have to be guessed at; text is always accepted, its content is judged later."""
    wanted = check.column.kind
    whole = pa.types.is_integer(kind)
    if wanted == "number":
        fits = is_number(kind)
        advice = "expected a number; convert it before writing"
    elif wanted == "vector":
        fits = is_list(kind) and is_number(kind.value_type)
        advice = "expected lists of numbers; store Parquet lists of float32 or JSON text"
    elif wanted == "timestamp":
        fits = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        advice = "whose unit and zone are anyone's guess; store a Parquet timestamp or ISO 8601 text"
    else:
        fits = whole
        advice = "expected text; convert it before writing"
        if wanted == "identifier" and pa.types.is_floating(kind):
            advice = f"expected text; {_FLOAT_ADVICE}"
    if not (fits or _is_text(kind)):
        raise check.error(f"is stored as {kind}, {advice}")


def _text_or_null(values: pa.ChunkedArray, check: Check) -> pa.ChunkedArray:
    """Empty text becomes null, as an empty CSV field does; what is not UTF-8 (Parquet does not check) is refused."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise check.error("not UTF-8", row=_first_undecodable(values)) from error
    return pc.if_else(pc.equal(pc.binary_length(values), 0), pa.scalar(None, values.type), values)


def _first_undecodable(values: pa.ChunkedArray) -> int | None:
    binary = pa.large_binary() if pa.types.is_large_string(values.type) else pa.binary()
    for position, value in enumerate(values.cast(binary).to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return position
    return None


def _text(values: pa.ChunkedArray, check: Check) -> pa.ChunkedArray:
    column = check.column
    values = values.cast(pa.string())
    check.refuse(
        pc.greater(pc.binary_length(values), column.max_bytes),
        values,
        lambda value: f"{show(value)} is {len(value.encode()):,} bytes long, at most {column.max_bytes:,} are allowed",
    )
    check.refuse(
        pc.match_substring(values, "\0"),
        values,
        lambda value: f"{show(value)} contains a NUL character; remove it",
    )
    if column.kind == "identifier":
        _check_identifier(values, check)
    elif column.required:
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(values)), 0)
        check.refuse(blank, values, lambda value: f"{show(value)} is blank; every row needs a value")
    if column.allowed:
        unknown = pc.and_kleene(pc.is_valid(values), pc.invert(pc.is_in(values, pa.array(column.allowed))))
        check.refuse(unknown, values, lambda value: _not_allowed(value, column))
    return values


def _not_allowed(value: str, column: Column) -> str:
    near = get_close_matches(value.strip().lower(), column.allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{show(value)} is none of {', '.join(column.allowed)}{hint}"


def _check_identifier(values: pa.ChunkedArray, check: Check) -> None:
    check.refuse(
        pc.match_substring_regex(values, _UNCLEAN_IDENTIFIER),
        values,
        lambda value: f"{show(value)} has spaces around it or a control character in it; trim it",
    )
    # Only when every id looks so: one shop's "12.0" among other codes is a code.
    artefacts = pc.match_substring_regex(values, _FLOAT_ARTEFACT)
    if pc.all(artefacts, min_count=1).as_py():
        check.refuse(
            artefacts,
            values,
            lambda value: f"{show(value)} is a float where an id is expected; {_FLOAT_ADVICE}",
        )


def _number(values: pa.ChunkedArray, check: Check) -> pa.ChunkedArray:
    column = check.column
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
        check.refuse(
            pc.match_substring_regex(values, _NOT_FINITE),
            values,
            lambda value: f"{show(value)} is not a finite number; leave the field empty if it is unknown",
        )
        wrong = pc.invert(pc.match_substring_regex(values, _NUMBER))
        check.refuse(wrong, values, lambda value: f"{show(value)} is not a number; write digits such as 12.50")
    numbers = values.cast(pa.float64(), safe=False)
    check.refuse(
        pc.invert(pc.is_finite(numbers)),
        numbers,
        lambda value: f"{value} is not a finite number; store null if it is unknown",
    )
    if column.minimum is not None:
        outside = pc.less_equal if column.above_minimum else pc.less
        sign = "greater than" if column.above_minimum else "at least"
        check.refuse(
            outside(numbers, column.minimum),
            numbers,
            lambda value: f"{value:g} is out of bounds, it must be {sign} {column.minimum:g}",
        )
    return numbers if column.default is None else pc.fill_null(numbers, column.default)


def _timestamp(values: pa.ChunkedArray, check: Check, now: datetime) -> pa.ChunkedArray:
    column = check.column
    if _is_text(values.type):
        values = _parse_moments(values, check)
    elif pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    _check_range(values, check)
    # Arrow reads a naive timestamp as UTC when a zone is put on it.
    moments = values.cast(column.arrow_type, safe=False)
    if column.past:
        check.refuse(
            pc.greater(moments, pa.scalar(now, column.arrow_type)),
            moments,
            lambda value: f"{value.isoformat()} lies in the future (now is {now.isoformat(timespec='seconds')})",
        )
    return moments


def _parse_moments(values: pa.ChunkedArray, check: Check) -> pa.ChunkedArray:
    advice = "is not an ISO 8601 time such as 2026-01-31T12:00:00Z"
    trimmed = pc.utf8_trim_whitespace(values)
    wrong = pc.invert(pc.match_substring_regex(trimmed, _MOMENT))
    check.refuse(wrong, values, lambda value: f"{show(value)} {advice}")
    parsed = pd.to_datetime(trimmed.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    moments = pa.chunked_array([pa.Array.from_pandas(parsed, type=pa.timestamp("ns", tz="UTC"))])
    # The right shape and yet no moment: a 30th of February, or a year that pandas cannot hold.
    impossible = pc.and_(pc.is_null(moments), pc.is_valid(trimmed))
    check.refuse(impossible, values, lambda value: f"{show(value)} {advice} within {EARLIEST:%Y} to {LATEST:%Y}")
    return moments


def _check_range(values: pa.ChunkedArray, check: Check) -> None:
    """Compare in the column's own unit: a cast first could overflow into a plausible date."""
    zone = values.type.tz
    first, last = (pa.scalar(edge if zone else edge.replace(tzinfo=None), values.type) for edge in (EARLIEST, LATEST))
    outside = pc.or_(pc.less_equal(values, first), pc.greater_equal(values, last))
    row = first_true(outside)
    if row is not None:
        # Far dates overflow datetime, so the text comes from Arrow.
        value = values[row].cast(pa.string()).as_py()
        raise check.error(f"{value} lies outside {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}; mend or empty it", row=row)
