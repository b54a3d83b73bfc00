"""Taking entries out of Redis Streams for good.

``XDEL`` only marks an entry as deleted: its bytes stay in the stream's node, and in every dump of it, until all entries
of the node are gone. So a stream of which something must not remain is written anew, with its groups, what they were
handed and what they acknowledged, and takes the former's place in one transaction.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from recsys_plugin.errors import StepFailed

__all__ = ["Meant", "rewrite_stream"]

#: Whether an entry, given its fields, is meant.
Meant = Callable[[Mapping[bytes, bytes]], bool]

_BATCH = 500
#: A stream that is written to all the time may change while its last entries are copied; then they are copied again.
_ATTEMPTS = 500


def rewrite_stream(
    client: Any, stream: str | bytes, meant: Meant, told: Callable[[int], None] = lambda done: None
) -> int:
    """Write a stream anew without the entries that are meant; nothing happens if there are none.

    Readers and writers may go on meanwhile. Killed in between, it leaves the stream as it was.

    Args:
        client: redis-py's, of one server. told: is told how many entries were looked at.

    Returns:
        How many entries were taken out.

    Raises:
        StepFailed: if the stream changed faster than its end could be copied.
    """
    from redis import WatchError

    if not _any(client, stream, meant, told):
        return 0
    name = stream.decode() if isinstance(stream, bytes) else stream
    copy = f"{_beside(name)}:rewriting:{uuid.uuid4().hex}"
    try:
        removed, last = _copy(client, stream, copy, meant, "-")
        for _ in range(_ATTEMPTS):
            with client.pipeline(transaction=True) as pipeline:
                pipeline.watch(stream)
                more, last = _copy(client, stream, copy, meant, f"({last}" if last else "-", last)
                removed += more
                if client.xlen(stream) - client.xlen(copy) != removed:
                    # Entries were trimmed or deleted meanwhile: from the beginning.
                    client.delete(copy)
                    removed, last = 0, ""
                    continue
                commands = _state(client, stream, copy)
                pipeline.multi()
                for command in commands:
                    # redis-py must be told that only ids come back.
                    pipeline.execute_command(*command, **({"parse_justid": True} if command[0] == "XCLAIM" else {}))
                pipeline.rename(copy, stream)
                try:
                    pipeline.execute()
                except WatchError:
                    client.execute_command("XGROUP", "HELP")  # a round trip: let writers finish
                    continue
                return removed
    finally:
        client.delete(copy)
    raise StepFailed(f"stream {name} changes too fast to be written anew; run again when fewer events come")


def _beside(name: str) -> str:
    """The beginning of a key that is in the same slot of a cluster, where a name's part in braces tells the slot."""
    start = name.find("{")
    tagged = start >= 0 and name.find("}", start) > start + 1
    return name if tagged else f"{{{name}}}"


def _any(client: Any, stream: str | bytes, meant: Meant, told: Callable[[int], None]) -> bool:
    start, seen = "-", 0
    while found := client.xrange(stream, min=start, count=_BATCH):
        seen += len(found)
        told(seen)
        if any(meant(fields) for _, fields in found):
            return True
        start = f"({found[-1][0].decode()}"
    # One that was deleted or trimmed may still lie in a node: only where none ever was, nothing can be left.
    information = client.xinfo_stream(stream) if client.exists(stream) else {"length": 0}
    return bool(information["length"]) and information["entries-added"] > information["length"]


def _copy(client: Any, stream: str | bytes, copy: str, meant: Meant, start: str, last: str = "") -> tuple[int, str]:
    """Copy entries from a place on; how many were left out, and the last one's id."""
    removed = 0
    while found := client.xrange(stream, min=start, count=_BATCH):
        pipeline = client.pipeline(transaction=False)
        for entry, fields in found:
            if meant(fields):
                removed += 1
            else:
                pipeline.xadd(copy, fields, id=entry)
        pipeline.execute()
        last = found[-1][0].decode()
        start = f"({last}"
    return removed, last


def _state(client: Any, stream: str | bytes, copy: str) -> list[tuple[Any, ...]]:
    """What makes groups and counters of the copy those of the stream."""
    information = client.xinfo_stream(stream)
    last = information["last-generated-id"]
    commands: list[tuple[Any, ...]] = []
    if not client.exists(copy):
        # Nothing is left; a stream there must be, for its last id.
        commands += [("XADD", copy, last, "nothing", "left"), ("XDEL", copy, last)]
    now = int(time.time() * 1000)
    for group in client.xinfo_groups(stream):
        read = group.get("entries-read")
        counted = () if read is None else ("ENTRIESREAD", read)
        commands.append(("XGROUP", "CREATE", copy, group["name"], group["last-delivered-id"], *counted))
        start = "-"
        while pending := client.xpending_range(stream, group["name"], start, "+", _BATCH):
            looked = client.pipeline(transaction=False)
            for one in pending:
                looked.xrange(copy, min=one["message_id"], max=one["message_id"])
            for one, kept in zip(pending, looked.execute(), strict=True):
                if kept:
                    handed = now - one["time_since_delivered"]
                    claim = ("TIME", handed, "RETRYCOUNT", one["times_delivered"], "FORCE", "JUSTID")
                    commands.append(("XCLAIM", copy, group["name"], one["consumer"], 0, one["message_id"], *claim))
            start = f"({pending[-1]['message_id'].decode()}"
    # Without the id of the last one deleted, there is nothing in the copy that was marked only.
    commands.append(("XSETID", copy, last, "ENTRIESADDED", information["entries-added"], "MAXDELETEDID", "0-0"))
    return commands
