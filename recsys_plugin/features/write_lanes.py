"""Rows under way to Redis: many commands written to the socket in one piece, a bounded amount awaiting answers.

A row may be written only if the store holds no later event time, and whatever another process pushes meanwhile must
not be lost. HGET of the stored times and then HSET of the rows that are not older is a race between the two. So there
are two kinds of commands, each of which looks and writes in one step:

- ``HSETEX key FNX`` writes a row if the store has nothing of it yet. It is the quickest, and refuses all others.
- A script on the server compares event times. Rows that were refused go this way, and all rows where most are there
  already, where keys expire, or where the server has no HSETEX (it came with Redis 8.0 and Valkey 9.0).

Measured with rows of 17 fields, microseconds of the server's processor per row: HSET without a look 10 to 13, HSETEX 9
to 13, the script with 16 rows a call 17 to 24, with 1 row 30 and more.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.connection import RedisAddress

__all__ = ["ClusterLanes", "Lanes", "Piece", "SingleLane", "bulk", "open_lanes"]

#: KEYS: one for each row. ARGV: seconds until the keys expire or 0; how many arguments a row has; then the rows, each
#: field and value in turn, the event time's first. Returns how many rows were written; the others are older than what
#: is stored.
_SCRIPT = b"""
local function moment(stamp)
  local seconds, nanoseconds, position = 0, 0, 1
  while position <= #stamp do
    local tag, first = string.byte(stamp, position), position + 1
    position = first
    while (string.byte(stamp, position) or 0) > 127 do position = position + 1 end
    if position > #stamp then return nil end
    local number = 0
    if position - first == 9 then  -- ten bytes: a negative number in two's complement
      for at = first + 8, first, -1 do number = number * 128 + 255 - string.byte(stamp, at) end
      number = -number - 1
    else
      for at = position, first, -1 do number = number * 128 + string.byte(stamp, at) % 128 end
    end
    if tag == 8 then seconds = number elseif tag == 16 then nanoseconds = number else return nil end
    position = position + 1
  end
  return seconds, nanoseconds
end
local function is_later(stored, new)
  local seconds, nanoseconds = moment(stored)
  if not seconds then return false end  -- no event time: the row is mended
  local new_seconds, new_nanoseconds = moment(new)
  return seconds > new_seconds or seconds == new_seconds and nanoseconds > new_nanoseconds
end
local call, expiry, width, start, written = redis.call, tonumber(ARGV[1]), tonumber(ARGV[2]), 3, 0
for number = 1, #KEYS do
  local key, new = KEYS[number], ARGV[start + 1]
  local stored, next_start = call('HGET', key, ARGV[start]), start + width
  if not stored or stored == new or not is_later(stored, new) then
    for first = start, next_start - 1, 2000 do  -- Lua's stack is small
      call('HSET', key, unpack(ARGV, first, math.min(first + 1999, next_start - 1)))
    end
    if expiry > 0 then call('EXPIRE', key, expiry) end
    written = written + 1
  end
  start = next_start
end
return written
"""
_BY_SHA = b"\r\n$7\r\nEVALSHA\r\n$40\r\n" + hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_BY_TEXT = b"\r\n$4\r\nEVAL\r\n$%d\r\n" % len(_SCRIPT) + _SCRIPT
_ASKING = b"*1\r\n$6\r\nASKING\r\n"
#: Rows that one call of the script writes: the quickest as measured, and they take the server, which answers nobody
#: else meanwhile, a third of a millisecond.
_SCRIPT_ROWS = 16
#: Rows that are sent at a time by HSETEX.
_SET_ROWS = 256
#: How often a row follows a slot that has moved to another node.
_MOVES = 5


def bulk(*parts: bytes) -> bytes:
    """RESP bulk strings, a line end before each part and none at the end."""
    return b"".join([b"\r\n$%d\r\n%b" % (len(part), part) for part in parts])


@dataclass(frozen=True, slots=True)
class Piece:
    """Encoded rows of one view.

    Args:
        keys: the Redis key of each row, as :func:`bulk` frames it, one after the other; ``key_ends`` says where each
            begins, with the end.
        rows: likewise the fields and values of each row, the event time's first.
        arguments: how many bulk strings a row has: fields and values.
        expiry: seconds until a key expires after its last write; 0 for never.
    """

    keys: bytes | memoryview
    key_ends: Sequence[int]
    rows: bytes | memoryview
    row_ends: Sequence[int]
    arguments: int
    expiry: int

    def key(self, row: int) -> bytes:
        """A row's Redis key."""
        return bytes(self.keys[self.key_ends[row] : self.key_ends[row + 1]]).split(b"\r\n", 2)[2]

    def script_call(self, script: bytes, rows: Sequence[int]) -> bytes:
        """One call of the script for these rows."""
        count = 4 + len(rows) * (1 + self.arguments) + 1
        head = b"*%d%b%b" % (count, script, bulk(b"%d" % len(rows)))
        shared = bulk(b"%d" % self.expiry, b"%d" % self.arguments)
        keys, cells = self._of(self.keys, self.key_ends, rows), self._of(self.rows, self.row_ends, rows)
        return b"".join((head, *keys, shared, *cells, b"\r\n"))

    def sets(self, rows: Sequence[int]) -> bytes:
        """An HSETEX for each of these rows."""
        head = b"*%d\r\n$6\r\nHSETEX" % (5 + self.arguments)
        middle = bulk(b"FNX", b"FIELDS", b"%d" % (self.arguments // 2))
        parts: list[bytes | memoryview] = []
        for row in rows:
            key = self.keys[self.key_ends[row] : self.key_ends[row + 1]]
            parts += (head, key, middle, self.rows[self.row_ends[row] : self.row_ends[row + 1]], b"\r\n")
        return b"".join(parts)

    @staticmethod
    def _of(
        data: bytes | memoryview, ends: Sequence[int], rows: Sequence[int]
    ) -> tuple[bytes | memoryview, ...] | list[bytes | memoryview]:
        if isinstance(rows, range):
            return (data[ends[rows.start] : ends[rows.stop]],)
        return [data[ends[row] : ends[row + 1]] for row in rows]


@dataclass(frozen=True, slots=True)
class _Sent:
    """Rows of a piece that await their answers on a lane."""

    piece: Piece
    rows: Sequence[int]
    by_script: bool
    ticket: int
    """The number of the first row that was sent together with these."""
    size: int = 0
    asking: bool = False
    again: bool = False
    """Whether they were sent before."""
    moves: int = 0


class _Lane:
    """What is under way on one connection, in order."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection = pool.get_connection()
        self.waiting: deque[_Sent] = deque()
        self.bytes = 0

    def send(self, sent: _Sent, payload: bytes) -> None:
        sent = replace(sent, size=len(payload))
        self.waiting.append(sent)
        self.bytes += sent.size
        self._connection.send_packed_command([_ASKING + payload if sent.asking else payload])

    def receive(self) -> tuple[_Sent, list[Any]]:
        """The oldest, and the answers to it: numbers, or the server's errors."""
        sent = self.waiting[0]
        if sent.asking:
            self._connection.read_response()
        answers = [self._answer() for _ in range(1 if sent.by_script else len(sent.rows))]
        self.waiting.popleft()
        self.bytes -= sent.size
        return sent, answers

    def close(self) -> None:
        # Answers may still be under way; whoever came next would take them for theirs.
        if self.waiting:
            self._connection.disconnect()
        self._pool.release(self._connection)

    def _answer(self) -> Any:
        import redis

        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error


@dataclass(slots=True)
class _Tries:
    """How often HSETEX was tried of late, and how often it found something there already."""

    made: int = 0
    refused: int = 0
    possible: bool = True
    """Whether the server has the command and lets us call it."""

    def worth_while(self) -> bool:
        """Whether to try it; what is long ago counts less and less, so that it is tried again some time."""
        self.made, self.refused = self.made // 2, self.refused // 2
        return self.possible and self.refused * 4 <= self.made


@dataclass(slots=True)
class Lanes(ABC):
    """What is under way to one server or to the nodes of a cluster.

    Args:
        client: a redis-py client.
        limit: bytes that may be under way.
        counted: told how many rows were written, and how many were older than what is stored.
    """

    client: Any
    limit: int
    counted: Callable[[int, int], None]
    _lanes: dict[Any, _Lane] = field(default_factory=dict)
    _tries: _Tries = field(default_factory=_Tries)
    _sent: int = 0
    _outstanding: dict[int, int] = field(default_factory=dict)
    """Ticket → rows not answered yet, oldest first."""

    @property
    def under_way(self) -> int:
        """How many bytes await answers."""
        return sum(lane.bytes for lane in self._lanes.values())

    @property
    def acknowledged(self) -> int:
        """How many rows from the first one on the server has answered for, without a gap."""
        return next(iter(self._outstanding), self._sent)

    def write(self, piece: Piece, *, pushed: bool = False) -> None:
        """Send all rows of a piece, after as many answers as it takes to stay within the limit.

        Args:
            piece: the rows.
            pushed: that they probably are there already, in an older state.
        """
        by_script = pushed or piece.expiry > 0 or not self._tries.worth_while()
        if by_script and any(not sent.by_script for lane in self._lanes.values() for sent in lane.waiting):
            self.drain()  # refused rows of before are not to overtake these
        count = len(piece.key_ends) - 1
        of_a_row = (len(piece.rows) + len(piece.keys)) // max(1, count) + 1
        most = max(1, min(_SCRIPT_ROWS if by_script else _SET_ROWS, self.limit // 4 // of_a_row))
        for rows in self._grouped(piece, range(count), by_script, most):
            ticket = self._sent
            self._sent += len(rows)
            self._outstanding[ticket] = len(rows)
            self._send(_Sent(piece, rows, by_script, ticket))

    def drain(self) -> None:
        """Wait until every row is answered for."""
        while self._receive():
            pass

    def close(self) -> None:
        """Give the connections back; rows that await an answer may or may not be written."""
        for lane in self._lanes.values():
            lane.close()
        self._sent = self.acknowledged
        self._outstanding.clear()
        self._lanes.clear()

    def _grouped(self, piece: Piece, rows: Sequence[int], by_script: bool, most: int) -> list[Sequence[int]]:
        """Rows that can be sent together."""
        return [rows[first : first + most] for first in range(0, len(rows), most)]

    @abstractmethod
    def _lane_of(self, sent: _Sent) -> _Lane:
        """The connection that rows go by."""

    def _send(self, sent: _Sent, *, lane: _Lane | None = None, script: bytes = _BY_SHA) -> None:
        payload = sent.piece.script_call(script, sent.rows) if sent.by_script else sent.piece.sets(sent.rows)
        # Rows that are sent again take the place of themselves, and must not wait: others would overtake them.
        while not (sent.again or self.under_way + len(payload) <= self.limit) and self._receive():
            pass
        (lane or self._lane_of(sent)).send(sent, payload)

    def _receive(self) -> bool:
        """Take one answer from the fullest lane and act on it; False if nothing is under way."""
        lane = max(self._lanes.values(), key=lambda each: each.bytes, default=None)
        if lane is None or not lane.waiting:
            return False
        sent, answers = lane.receive()
        if sent.by_script:
            if isinstance(answers[0], Exception):
                self._again(sent, answers[0])
            else:
                self._answered(sent, len(sent.rows), answers[0])
            return True
        refused = [row for row, answer in zip(sent.rows, answers, strict=True) if answer == 0]
        written = sum(1 for answer in answers if answer == 1)
        self._tries.made += len(answers)
        self._tries.refused += len(refused)
        if written:
            self._answered(sent, written, written)
        for rows in self._grouped(sent.piece, refused, True, _SCRIPT_ROWS):
            self._send(replace(sent, rows=rows, by_script=True, again=True))
        for row, answer in zip(sent.rows, answers, strict=True):
            if isinstance(answer, Exception):
                self._again(replace(sent, rows=[row]), answer)
        return True

    def _answered(self, sent: _Sent, rows: int, written: int) -> None:
        self.counted(written, rows - written)
        left = self._outstanding[sent.ticket] - rows
        if left:
            self._outstanding[sent.ticket] = left
        else:
            del self._outstanding[sent.ticket]

    def _again(self, sent: _Sent, error: Exception) -> None:
        """Send rows again if the error says how; raise it if not."""
        import redis

        if isinstance(error, redis.exceptions.NoScriptError):
            self._send(replace(sent, again=True), script=_BY_TEXT)
        elif not sent.by_script and (
            isinstance(error, redis.exceptions.NoPermissionError) or str(error).startswith("unknown command")
        ):
            self._tries.possible = False
            self._send(replace(sent, by_script=True, again=True))
        else:
            raise error


class SingleLane(Lanes):
    """One server, or the master that sentinels name."""

    __slots__ = ()

    def _lane_of(self, sent: _Sent) -> _Lane:
        if not self._lanes:
            self._lanes["only"] = _Lane(self.client.connection_pool)
        return self._lanes["only"]


class ClusterLanes(Lanes):
    """The nodes of a cluster. A script's call has one row: the keys of several would be in several slots."""

    __slots__ = ()

    def _grouped(self, piece: Piece, rows: Sequence[int], by_script: bool, most: int) -> list[Sequence[int]]:
        if by_script:
            return [[row] for row in rows]
        of_node: dict[Any, list[int]] = {}
        for row in rows:
            of_node.setdefault(self._node(piece, row).name, []).append(row)
        return [group for each in of_node.values() for group in Lanes._grouped(self, piece, each, by_script, most)]

    def _node(self, piece: Piece, row: int) -> Any:
        return self.client.get_node_from_key(piece.key(row))

    def _lane_of(self, sent: _Sent) -> _Lane:
        return self._lane(self._node(sent.piece, sent.rows[0]))

    def _lane(self, node: Any) -> _Lane:
        if node is None:
            raise StoreUnavailable("the cluster has a slot without a node; see CLUSTER INFO")
        lane = self._lanes.get(node.name)
        if lane is None:
            lane = self._lanes[node.name] = _Lane(self.client.get_redis_connection(node).connection_pool)
        return lane

    def _again(self, sent: _Sent, error: Exception) -> None:
        import redis

        moved = replace(sent, by_script=True, again=True, moves=sent.moves + 1, asking=False)
        if moved.moves > _MOVES:
            raise error
        if isinstance(error, redis.exceptions.AskError):
            node = self.client.get_node(host=error.host, port=error.port)
            self._send(replace(moved, asking=True), lane=self._lane(node), script=_BY_TEXT)
        elif isinstance(error, redis.exceptions.MovedError):
            self.client.nodes_manager.initialize()
            self._send(moved, script=_BY_TEXT)
        else:
            super()._again(sent, error)


def open_lanes(
    address: RedisAddress, client: Any, *, limit: int, counted: Callable[[int, int], None]
) -> SingleLane | ClusterLanes:
    """The lanes that a client of this address needs; see :class:`Lanes`."""
    kind = ClusterLanes if address.kind == "redis_cluster" else SingleLane
    return kind(client, limit, counted)
