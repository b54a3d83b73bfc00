"""The least that each part of the system must be allowed in Redis, as lines of ``ACL SETUSER``.

====================  =============================================================================================
``client``            a shop's backend: ``Recommender``, ``AsyncRecommender``, ``EventRecorder``
``worker``            ``recsys stream``, with ``--metrics-port`` too: folds events into features
``pipeline``          ``recsys apply``, ``materialize``, ``export``, ``retrain``, ``refresh``, ``models``, ``up``,
                      ``status`` and ``events``
``operations``        ``recsys rules``, ``ads``, ``trial``, ``users``: what shows on pages and who is left out
``monitor``           ``recsys top`` and whatever else shows the metrics of the streams: changes nothing
``privacy``           ``recsys privacy``, which must see every key to prove that nothing is left
====================  =============================================================================================

The lines are of Redis 7 and Valkey 7.2 or later: ``%R~`` allows reading keys of a pattern, ``%W~`` writing. Nobody but
``privacy`` may change the server's configuration, and nobody may see other connections, or flush; ``recsys bench`` and
a feature view that Feast takes away need the administrator. Two rights reach further than their key patterns:
``SCAN`` tells the names of all keys of the database, and the invalidation channel the names of all items that are
written. Where that matters, give the shop a Redis, or a database, of its own.

Source: Redis documentation, "ACL" and "ACL SETUSER".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.requests import promotion_key, schema_key
from recsys_plugin.pseudonyms import opted_out_key

__all__ = ["CONNECTING", "ROLES", "Role", "role"]

#: What redis-py itself sends on a new connection, SELECT for a database other than 0. AUTH and HELLO need no right.
CONNECTING = ("client|setinfo", "select")
#: What a pattern would take for something else than itself.
_SPECIAL = re.compile(r"([*?\[\]\\^])")
_USER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Role:
    """What one part of the system does in Redis."""

    name: str
    purpose: str
    commands: tuple[str, ...]
    """In lower case, a subcommand after ``|``."""
    read: tuple[str, ...]
    """Patterns of keys that it reads and never writes."""
    change: tuple[str, ...]
    """Patterns of keys that it reads and writes."""
    channels: tuple[str, ...] = ()
    """Channels that it listens to."""

    def rules(self) -> tuple[str, ...]:
        """The rules of ``ACL SETUSER``, without name and password: everything else is forbidden."""
        return (
            "resetkeys",
            "resetchannels",
            "-@all",
            *(f"+{command}" for command in self.commands),
            *(f"%R~{pattern}" for pattern in self.read),
            *(f"~{pattern}" for pattern in self.change),
            *(f"&{channel}" for channel in self.channels),
        )

    def set_user(self, user: str, password: str | None = None) -> tuple[str, ...]:
        """The command that makes a user of this role, word for word, for a client that sends it.

        Args:
            user: its name.
            password: in the clear; ``None`` leaves the passwords of the user as they are.

        Raises:
            InvalidInput: if the name is none, or the password is empty.
        """
        if not _USER_NAME.fullmatch(user):
            raise InvalidInput(f"user: {user!r:.80} is no name of letters, digits and _.:-")
        if password is not None and not password:
            raise InvalidInput("password: must not be empty")
        login = () if password is None else ("resetpass", f">{password}")
        return ("ACL", "SETUSER", user, "on", *login, *self.rules())

    def line(self, user: str | None = None) -> str:
        """The command as text, with ``>PASSWORD`` in place of a password, to be pasted into ``redis-cli``.

        Raises:
            InvalidInput: if the name is none.
        """
        return " ".join(self.set_user(user or f"recsys-{self.name}", "PASSWORD"))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _entities(project: str, *join_keys: str) -> tuple[str, ...]:
    """Patterns of Feast's hashes of entities with one join key: printable, so lengths and types are ``?``.

    A key is the number of names, then type, length and text of the name, then type, length and text of the value, then
    the project: 4 + 8 bytes before the name, 8 after it (:mod:`recsys_plugin.features.codec`).
    """
    return tuple(f"{'?' * 12}{_escaped(name)}{'?' * 8}*{_escaped(project)}" for name in join_keys)


def _client(project: str) -> Role:
    keys = EventKeys(project)
    prefix = _escaped(keys.prefix)
    return Role(
        "client",
        "a shop's backend: asks for pages, records events, serves ads, takes part in trials, sets stock and consent",
        (
            *CONNECTING,
            "blpop", "client|id", "client|tracking", "eval", "expire", "get", "hdel", "hget", "hgetall", "hincrby",
            "hincrbyfloat", "hmget", "hset", "incr", "mget", "pfadd", "pfcount", "ping", "rpush", "scan", "set",
            "smismember", "subscribe", "xadd", "xrevrange",
        ),
        (
            schema_key(project),
            promotion_key(project),
            opted_out_key(project),
            _escaped(keys.rules),
            _escaped(keys.ads),
            _escaped(keys.ads_revision),
        ),
        (
            f"{prefix}events:*",
            f"{prefix}impressions",
            f"{prefix}reply:*",
            f"{prefix}trial",
            f"{prefix}trial:*",
            f"{prefix}ads:*",
            f"{prefix}consent",
            f"{prefix}refusals",
            *_entities(project, "item_id", "user_id"),  # stock, and what a user refuses
        ),
        ("__redis__:invalidate",),
    )  # fmt: skip


def _worker(project: str) -> Role:
    prefix = _escaped(EventKeys(project).prefix)
    return Role(
        "worker",
        "recsys stream: reads events, keeps live features and counts, answers who waits for an event to be visible",
        (
            *CONNECTING,
            "del", "eval", "exec", "expire", "get", "hdel", "hgetall", "hincrby", "hmget", "hset", "mget", "multi",
            "pexpire", "rpush", "set", "smismember", "time", "unwatch", "watch", "xack", "xadd", "xclaim", "xdel",
            "xgroup|create", "xgroup|delconsumer", "xinfo|consumers", "xinfo|groups", "xlen", "xpending", "xrange",
            "xreadgroup", "zadd", "zrange", "zrem", "zremrangebyscore",
        ),
        (
            schema_key(project),
            *(f"{prefix}{name}" for name in ("consent", "forgotten", "forgotten:key", "refusals")),
            *(f"{prefix}{name}" for name in ("impressions", "ads:spent")),  # its metrics
        ),
        (
            *(f"{prefix}{name}" for name in ("events:*", "item_events:*", "owner:*", "user:*", "seen:*", "item:*")),
            *(f"{prefix}{name}" for name in ("dead", "counts", "workers", "reply:*")),
            *_entities(project, "user_id", "item_id"),
        ),
    )  # fmt: skip


def _pipeline(project: str) -> Role:
    prefix = _escaped(EventKeys(project).prefix)
    return Role(
        "pipeline",
        "recsys apply, materialize, export, retrain, refresh, models, up, status, events: fills the store, archives",
        (
            *CONNECTING,
            "dbsize", "del", "eval", "evalsha", "exec", "exists", "expire", "get", "hdel", "hget", "hgetall",
            "hincrby", "hmget", "hscan", "hset", "hsetex", "info", "mget", "multi", "ping", "set", "smismember",
            "xack", "xadd", "xdel", "xgroup|create", "xinfo|groups", "xlen", "xpending", "xrange", "xreadgroup",
            "xtrim", "zadd", "zrange",
        ),
        (),
        (
            schema_key(project),
            promotion_key(project),
            f"{promotion_key(project)}:previous",
            f"recsys:materialized:{_escaped(project)}",
            f"recsys:materializing:{_escaped(project)}",
            f"{prefix}*",
            *_entities(project, "user_id", "item_id", "category"),
        ),
    )  # fmt: skip


def _operations(project: str) -> Role:
    keys = EventKeys(project)
    prefix = _escaped(keys.prefix)
    return Role(
        "operations",
        "recsys rules, ads, trial, users: decides what shows on pages and who is left out of them",
        (
            *CONNECTING,
            "del", "eval", "exec", "get", "hgetall", "hkeys", "hmget", "hset", "incr", "lrange", "mget", "multi",
            "pfcount", "ping", "rpush", "sadd", "set", "smembers", "srem", "xadd", "xrange", "xrevrange",
        ),
        (),
        (
            promotion_key(project),
            f"{promotion_key(project)}:previous",
            _escaped(keys.rules),
            f"{prefix}ads",
            f"{prefix}ads:*",
            f"{prefix}trial",
            f"{prefix}trial:*",
            opted_out_key(project),
        ),
    )  # fmt: skip


def _monitor(project: str) -> Role:
    prefix = _escaped(EventKeys(project).prefix)
    return Role(
        "monitor",
        "recsys top, metrics of the streams: how many events wait and came, which workers live, what campaigns spent",
        (*CONNECTING, "get", "hgetall", "xinfo|groups", "xlen", "xrange", "zrange"),
        tuple(
            f"{prefix}{name}"
            for name in ("events:*", "owner:*", "impressions", "counts", "workers", "dead", "ads:spent")
        ),
        (),
    )


def _privacy(project: str) -> Role:
    return Role(
        "privacy",
        "recsys privacy: forgets people, says what is held, searches everything, has the server write its files anew",
        (
            *CONNECTING,
            "bgrewriteaof", "bgsave", "config|get", "config|set", "dbsize", "del", "dump", "exec", "exists", "get",
            "hdel", "hget", "hgetall", "hscan", "hset", "incr", "info", "lrange", "multi", "ping", "rename", "sadd",
            "scan", "set", "sismember", "slowlog|reset", "srem", "sscan", "type", "watch", "unwatch", "xadd", "xclaim",
            "xdel", "xgroup|create", "xgroup|help", "xinfo|groups", "xinfo|stream", "xlen", "xpending", "xrange",
            "xsetid", "xtrim", "zrange", "zrangebyscore", "zrem", "zscan",
        ),
        (),
        ("*",),
    )  # fmt: skip


#: Name → makes the role of a project.
ROLES: Mapping[str, Callable[[str], Role]] = {
    "client": _client,
    "worker": _worker,
    "pipeline": _pipeline,
    "operations": _operations,
    "monitor": _monitor,
    "privacy": _privacy,
}


def role(name: str, project: str = "recsys") -> Role:
    """A role by its name.

    Raises:
        InvalidInput: if there is none of this name.
        ConfigurationError: if the project's name cannot stand in a rule.
    """
    if name not in ROLES:
        raise InvalidInput(f"role: {name!r:.60} is none of {', '.join(ROLES)}")
    if not _PROJECT.fullmatch(project):
        raise ConfigurationError(f"project {project!r:.80} is no name of letters, digits and _.-")
    return ROLES[name](project)
