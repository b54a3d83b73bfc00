"""An embedded Redis with a user of each role of :mod:`recsys_plugin.security.acl`, which tells what was asked of it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.security.acl import ROLES, role

__all__ = ["PASSWORD", "Asked", "WatchedRedis", "make_role_users", "url_of_role"]

PASSWORD = "what only the tests know"
#: MONITOR's lines: time, then database and address in brackets (``lua`` for a script's own commands), then words.
_LINE = re.compile(rb'^\+\d+\.\d+ \[\d+ (?P<from>[^\]]+)\] (?P<words>".*")$')
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
#: Commands of two words, as ACL rules name them.
_WITH_SUBCOMMAND = ("client", "xgroup", "xinfo", "script", "config", "acl", "memory", "object")


def make_role_users(admin_url: str) -> None:
    """Make a user for each role, named like it."""
    with RedisAddress.parse(admin_url).connect(5) as admin:
        for name in ROLES:
            admin.execute_command(*role(name).set_user(name, PASSWORD))


def url_of_role(admin_url: str, name: str) -> str:
    """The server's URL for the user of a role."""
    parts = urlsplit(admin_url)
    return f"{parts.scheme}://{name}:{PASSWORD.replace(' ', '%20')}@{parts.netloc}{parts.path}"


@dataclass
class Asked:
    """What was asked of a server, scripts' own commands included."""

    commands: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    """Everything else in the commands, each byte a character."""

    def touches(self, pattern: str) -> bool:
        """Whether a key of this pattern was named."""
        return any(fnmatchcase(word, pattern) for word in self.words)


class WatchedRedis:
    """The server; :meth:`watched` collects what is asked of it."""

    def __init__(self, state: Path) -> None:
        self._server = EmbeddedRedis(state)

    def __enter__(self) -> WatchedRedis:
        with self._server.process.lock():
            self._server.start()
        make_role_users(self.admin_url)
        return self

    def __exit__(self, *_error: object) -> None:
        with self._server.process.lock():
            self._server.stop()

    @property
    def admin_url(self) -> str:
        """The URL of the user who may do everything."""
        return self._server.url

    def url(self, name: str) -> str:
        """The URL of a role's user."""
        return url_of_role(self.admin_url, name)

    def connect(self) -> Any:
        """A client that may do everything."""
        return RedisAddress.parse(self.admin_url).connect(5)

    def refusals(self) -> list[str]:
        """What was refused to anybody since the last call."""
        with self.connect() as admin:
            log = admin.execute_command("ACL LOG")
            admin.execute_command("ACL LOG", "RESET")
        return [f"{entry[b'username']!r}: {entry[b'reason']!r} {entry[b'object']!r}" for entry in map(_pairs, log)]

    @contextmanager
    def watched(self) -> Iterator[Asked]:
        """Collect what everybody asks in the block, complete at its end."""
        asked, parts = Asked(), urlsplit(self.admin_url)
        end = "the block is over"
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as monitor:
            monitor.sendall(b"MONITOR\r\n")
            lines = monitor.makefile("rb")
            assert lines.readline() == b"+OK\r\n"
            try:
                yield asked
            finally:
                with self.connect() as admin, suppress(Exception):
                    admin.echo(end)
                for line in lines:
                    found = _LINE.match(line.rstrip(b"\r\n"))
                    assert found is not None, line
                    words = [_unquoted(word) for word in _WORD.findall(found["words"])]
                    if words[0].lower() == "echo" and words[-1] == end:
                        break
                    name = words[0].lower()
                    if name in _WITH_SUBCOMMAND:
                        name = f"{name}|{words[1].lower()}"
                    asked.commands.add(name)
                    asked.words.update(words[1:])


def _pairs(entry: Any) -> dict[bytes, Any]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))


def _unquoted(word: bytes) -> str:
    """A word as the server shows it, each of its bytes a character again."""
    return word.decode("latin-1").encode("latin-1").decode("unicode_escape")
