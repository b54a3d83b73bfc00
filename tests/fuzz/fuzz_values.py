"""Values that nobody would pass on purpose, and a secret that must never come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from recsys_plugin.errors import RecsysError

__all__ = ["ANYTHING", "JSON", "KEY", "MOMENTS", "PASSWORD", "check_secret", "mutated_json", "only", "urls"]

PASSWORD = "hunter2Zq7w"
KEY = "pseudonym-Key-Xk93-never-shown"

_WHOLE = st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 10**400])
_SCALARS = (
    st.none()
    | st.booleans()
    | _WHOLE
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.sampled_from(["\ud800", "\x00", "a" * 300, "é" * 200, b"\xff" * 400, "mug", "mug-lover", "ＮＡＮ", "1e400"])
    | st.complex_numbers()
    | st.datetimes()
    | st.builds(object)
    | st.builds(lambda: np.float32("nan"))
    | st.integers(-9, 9).map(np.int64)
    | st.lists(st.integers(-9, 9), max_size=3).map(np.array)
    | st.just(int)
)
#: Any object at all, nested a little.
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(st.text(max_size=5), max_size=3).map(frozenset)
        | st.lists(inner, max_size=3).map(iter)
    ),
    max_leaves=6,
)

#: Any JSON value.
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _WHOLE | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)

_SPOILT_TEXT = st.text(max_size=60) | st.binary(max_size=60) | st.just("[" * 5_000) | st.just('{"a":' * 5_000)


def mutated_json(valid: Any) -> st.SearchStrategy[str | bytes]:
    """Documents in JSON, most of them like a valid one in all places but one, or two."""

    def mutated(paths: list[int], values: list[Any], kinds: list[str]) -> str:
        document = json.loads(json.dumps(valid))
        for path, value, kind in zip(paths, values, kinds, strict=True):
            places = list(_places(document))
            if not places:
                return json.dumps(value)
            holder, key = places[path % len(places)]
            if kind == "drop" and isinstance(holder, dict):
                del holder[key]
            elif kind == "add" and isinstance(holder, dict):
                holder[f"{key}_"] = value
            else:
                holder[key] = value
        return json.dumps(document)

    changes = st.integers(1, 2).flatmap(
        lambda count: st.tuples(
            st.lists(st.integers(0, 500), min_size=count, max_size=count),
            st.lists(JSON, min_size=count, max_size=count),
            st.lists(st.sampled_from(["set", "set", "drop", "add"]), min_size=count, max_size=count),
        )
    )
    return changes.map(lambda change: mutated(*change)) | JSON.map(json.dumps) | _SPOILT_TEXT


def _places(document: Any) -> Iterable[tuple[Any, Any]]:
    """Every holder and key (or index) of a document, in order."""
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(pairs):
        yield document, key
        yield from _places(value)


def urls(*schemes: str) -> st.SearchStrategy[str]:
    """URLs with a password, whole and spoilt."""
    parts = st.text(alphabet="ab.:[]@/?#%&=,℀＃％ \t\n\x00é0169-_~", max_size=12)
    scheme = st.sampled_from([*(f"{each}://" for each in schemes), "://", "", ":", "redis:/", "http://"])
    login = st.sampled_from([f":{PASSWORD}@", f"user:{PASSWORD}@", "user@", "", f"u:{PASSWORD}%40@"])
    hosts = st.sampled_from(["localhost:6379", "localhost", "h:1,h:2", "[::1]:1", "h:99999", "h:x", ""]) | parts
    rest = st.sampled_from(["/0", "/x", "?db=1", "?db=x", "/main/2", "?ssl_ca_certs=/nowhere", "#f", ""]) | parts
    whole = st.tuples(scheme, login, hosts, rest).map("".join)
    return whole | st.tuples(whole, parts).map("".join) | st.tuples(parts, whole).map("".join)


#: Moments far and near, with and without a zone.
MOMENTS = st.datetimes() | st.datetimes(timezones=st.just(UTC)) | st.just(datetime.now(UTC) + timedelta(days=1))


def check_secret(text: str) -> None:
    """Fail if a text shows a secret."""
    assert PASSWORD not in text, f"the password shows: {text!r}"
    assert KEY not in text, f"the key shows: {text!r}"


def only(call: Callable[[], Any], *documented: type[Exception]) -> Any:
    """What a call returns; ``None`` if it raises what is documented. Neither may show a secret."""
    raised: BaseException | None = None
    try:
        result = call()
    except documented as error:
        raised = error
    if raised is None:
        check_secret(repr(result))
        return result
    assert str(raised) or not isinstance(raised, RecsysError), f"{type(raised).__name__} without a message"
    while raised is not None:
        check_secret(f"{raised} {raised!r}")
        raised = raised.__cause__ or (None if raised.__suppress_context__ else raised.__context__)
    return None
