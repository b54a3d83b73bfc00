"""What is sent to Redis and what is made of its answers, whoever sends it: the same for threads and for tasks."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from recsys_plugin.digits import whole_number
from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.plan import ReadFeatures
from recsys_plugin.limits import MOST_DOCUMENT_BYTES

__all__ = [
    "in_clients_form",
    "packed_reads",
    "parsed_promotion",
    "parsed_schema",
    "promotion_key",
    "schema_key",
]


def schema_key(project: str) -> str:
    """The Redis key under which ``recsys apply`` writes the feature types of a Feast project, as JSON."""
    return f"recsys:schema:{project}"


def promotion_key(project: str) -> str:
    """The Redis key that holds the promoted model version; without it the newest version serves."""
    return f"recsys:promoted:{project}"


def in_clients_form(client: Any, command: Any, reply: Any) -> Any:
    """A reply as redis-py gives it for a command: that of HGETALL as a dict, say."""
    convert = client.response_callbacks.get(command)
    return reply if convert is None else convert(reply)


@lru_cache(maxsize=64)
def _around_the_key(fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """What comes before and after the key in the wire form of an HMGET: the same for every key of a plan."""
    before = b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(fields))
    return before, b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in fields)


def packed_reads(read: ReadFeatures) -> bytes:
    """All commands as Redis's protocol has them (RESP); redis-py's own packing handles every field of every key."""
    before, after = _around_the_key(tuple(read.fields))
    return b"".join([b"%b%d\r\n%b%b" % (before, len(key), key, after) for key in read.keys])


def parsed_promotion(text: bytes | None, project: str) -> int | None:
    """The promoted version, if one is.

    Raises:
        StoreUnavailable: if the text is no version.
    """
    if text is None:
        return None
    version = whole_number(text)
    if version is None:
        raise StoreUnavailable(
            f"Redis key {promotion_key(project)} is {text!r:.60}, not a version. Run `recsys models promote` again."
        )
    return version


def parsed_schema(text: bytes | None, project: str) -> dict[str, str] | None:
    """The feature types, reference → type name, if they were recorded.

    Raises:
        StoreUnavailable: if the text is no such record.
    """
    if text is None:
        return None
    try:
        schema = json.loads(text) if len(text) <= MOST_DOCUMENT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise StoreUnavailable(
            f"Redis key {schema_key(project)} is not JSON: {error}. Run `recsys apply` again."
        ) from error
    if not isinstance(schema, dict) or not all(isinstance(name, str) for name in schema.values()):
        raise StoreUnavailable(
            f"Redis key {schema_key(project)} is not a JSON object of type names. Run `recsys apply` again."
        )
    return schema
