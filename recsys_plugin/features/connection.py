"""Redis by URL: one address for the serving client and for Feast's own online store.

======================================================  ===============================================
``redis://user:password@host:6379/0``                   one server
``rediss://host:6379/0?ssl_ca_certs=ca.pem``            the same over TLS
``unix:///run/redis.sock?db=0``                         a unix socket
``redis-cluster://host:6379,host:6380``                 a cluster (``rediss-cluster://`` over TLS)
``redis-sentinel://host:26379,host:26379/mymaster/0``   the master that the sentinels name (``rediss-sentinel://``)
======================================================  ===============================================

User and password may be left out, and are percent-encoded when they hold special characters. Without them a host needs
its port, unless it is an address or ``localhost``: what stands there could be a password with its ``@`` forgotten, and
would be looked up, and shown in messages, as if it were a name. The options
``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` (files) and ``ssl_check_hostname`` (true or false) go with
the TLS schemes; a server that asks for a certificate (mutual TLS) is shown the certfile. Works with Redis and Valkey
alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from recsys_plugin.digits import whole_number
from recsys_plugin.errors import ConfigurationError, DeadlineExceeded, RecsysError, StoreUnavailable
from recsys_plugin.urls import is_certain_host, is_host, shown_url

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    SyncClient = redis.Redis | redis.RedisCluster
    AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster

__all__ = ["RedisAddress", "named_errors", "too_slow"]

_SCHEMES = {
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "unix": ("redis", False),
    "redis-cluster": ("redis_cluster", False),
    "rediss-cluster": ("redis_cluster", True),
    "redis-sentinel": ("redis_sentinel", False),
    "rediss-sentinel": ("redis_sentinel", True),
}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
#: Options that other libraries take; any other name is not shown, as it could be what should stand elsewhere.
_ELSEWHERE = ("password", "username", "ssl_cert_reqs", "socket_timeout", "protocol", "client_name")


@dataclass(frozen=True, slots=True, repr=False)
class RedisAddress:
    """Where Redis is and how to log in. Build it with :meth:`parse`; the password never shows in ``repr``."""

    kind: str
    """``redis``, ``redis_cluster`` or ``redis_sentinel``: Feast's own names."""
    nodes: tuple[tuple[str, int], ...] = ()
    """Host and port of each server named; empty for a unix socket."""
    socket_path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None)
    tls: bool = False
    tls_options: tuple[tuple[str, str | bool], ...] = ()
    sentinel_master: str | None = None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read a URL of one of the forms above.

        Raises:
            ConfigurationError: if it is none of them; the message shows the URL without its password.
        """
        shown = shown_url(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            # The error may show the login.
            raise ConfigurationError(f"Redis URL {shown!r} is not of the form scheme://host:port") from None
        if parts.scheme not in _SCHEMES:
            raise ConfigurationError(f"Redis URL {shown!r} does not start with one of {', '.join(_SCHEMES)}://")
        if "@" in parts.path + parts.query + parts.fragment:
            raise ConfigurationError(
                f"Redis URL {shown!r}: percent-encode special characters of user and password, and an @ in a path"
            )
        kind, tls = _SCHEMES[parts.scheme]
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        credentials, _, location = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        path = unquote(parts.path)
        database_text, master = options.pop("db", None), None
        nodes: tuple[tuple[str, int], ...] = ()
        if parts.scheme == "unix":
            if location or not path or not url.startswith("unix:///"):
                raise ConfigurationError(f"Redis URL {shown!r} needs an absolute path: unix:///run/redis.sock")
        else:
            default_port = 26379 if kind == "redis_sentinel" else 6379
            nodes = _nodes(location, shown, default_port=default_port, login=bool(credentials))
            segments = [segment for segment in path.split("/") if segment]
            if kind == "redis_sentinel":
                if not segments:
                    raise ConfigurationError(
                        f"Redis URL {shown!r} needs the master's name: redis-sentinel://host/master"
                    )
                master = segments.pop(0)
            if segments:
                database_text = segments.pop(0)
            if segments:
                raise ConfigurationError(f"Redis URL {shown!r}: nothing may follow the database")
        if kind == "redis" and len(nodes) > 1:
            raise ConfigurationError(
                f"Redis URL {shown!r} names several servers: use redis-cluster:// or redis-sentinel://"
            )
        database = _database(database_text, shown)
        if kind == "redis_cluster" and database != 0:
            raise ConfigurationError(f"Redis URL {shown!r}: a cluster has database 0 only")
        return cls(
            kind=kind,
            nodes=nodes,
            socket_path=path if parts.scheme == "unix" else None,
            database=database,
            username=unquote(username) or None,
            password=unquote(password) or None,
            tls=tls,
            tls_options=_tls_options(options, tls, shown),
            sentinel_master=master,
        )

    def __repr__(self) -> str:
        """The address as text, the password masked."""
        where = self.socket_path or ",".join(f"{host}:{port}" for host, port in self.nodes)
        # A name without a password may be a password in the wrong place.
        login = f"{self.username or ''}:***@" if self.password else "***@" if self.username else ""
        master = f"/{self.sentinel_master}" if self.sentinel_master else ""
        scheme = (
            "unix"
            if self.socket_path
            else self.kind.replace("_", "-").replace("redis", "rediss" if self.tls else "redis", 1)
        )
        return f"RedisAddress({scheme}://{login}{where}{master}, database {self.database})"

    def feast_redis_type(self) -> str:
        """Feast's ``redis_type`` for its Redis online store."""
        return self.kind

    def feast_connection_string(self, *, timeout: float = 5.0) -> str:
        """Feast's ``connection_string`` for its Redis online store.

        Args:
            timeout: seconds for connecting and for each reply. redis-py's retries are switched off as well:
                with the server away it is they that wait, not the socket.

        Raises:
            ConfigurationError: for an IPv6 address, which Feast's format cannot express.
        """
        if any(":" in host for host, _ in self.nodes):
            raise ConfigurationError(f"{self!r}: Feast's connection string has no form for IPv6; use a host name")
        # Feast reads a host and a port in any case; with a socket path redis-py then ignores them.
        nodes = [f"{host}:{port}" for host, port in self.nodes] or ["localhost:0"]
        options = {key: value for key, value in self._login().items() if value is not None}
        if self.socket_path is not None:
            options["unix_socket_path"] = self.socket_path
        if self.kind != "redis_cluster":
            options["db"] = self.database
        if self.tls:
            options["ssl"] = True
        options |= {**dict(self.tls_options), "socket_timeout": timeout, "socket_connect_timeout": timeout}
        options["retry"] = None
        return ",".join([*nodes, *(f"{name}={_feast_value(value)}" for name, value in options.items())])

    def connect(self, timeout: float) -> SyncClient:
        """A redis-py client: replies stay bytes, nothing is retried.

        ``timeout`` is in seconds, for connecting and for each reply.
        No connection is made yet, except for a cluster, whose layout is asked for at once.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.cluster import ClusterNode
        from redis.retry import Retry
        from redis.sentinel import Sentinel

        options = self._client_options(timeout, Retry(NoBackoff(), 0))
        if self.kind == "redis_cluster":
            nodes = [ClusterNode(host, port) for host, port in self.nodes]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        if self.sentinel_master is not None:
            sentinel = Sentinel(self.nodes, sentinel_kwargs=self._sentinel_options(options))
            master: redis.Redis = sentinel.master_for(self.sentinel_master, **options)
            return master
        return redis.Redis(**self._location(), **options)

    def connect_async(self, timeout: float) -> AsyncClient:
        """The same for asyncio; no connection is made until the first command."""
        import redis.asyncio
        from redis.asyncio.cluster import ClusterNode
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff

        options = self._client_options(timeout, Retry(NoBackoff(), 0))
        if self.kind == "redis_cluster":
            nodes = [ClusterNode(host, port) for host, port in self.nodes]
            return redis.asyncio.RedisCluster(startup_nodes=nodes, **options)
        if self.sentinel_master is not None:
            sentinel = Sentinel(self.nodes, sentinel_kwargs=self._sentinel_options(options))
            master: redis.asyncio.Redis = sentinel.master_for(self.sentinel_master, **options)
            return master
        return redis.asyncio.Redis(**self._location(), **options)

    def _login(self) -> dict[str, Any]:
        return {"username": self.username, "password": self.password}

    def _location(self) -> dict[str, Any]:
        if self.socket_path is not None:
            return {"unix_socket_path": self.socket_path}
        host, port = self.nodes[0]
        return {"host": host, "port": port}

    def _client_options(self, timeout: float, retry: Any) -> dict[str, Any]:
        options = {
            **self._login(),
            **dict(self.tls_options),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry,
        }
        if self.tls:
            options["ssl"] = True
        if self.kind != "redis_cluster":
            options["db"] = self.database
        return options

    def _sentinel_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Of the sentinels: TLS as to the master, but no login, which is the master's."""
        names = ("socket_timeout", "socket_connect_timeout", "retry", "ssl", *(name for name, _ in self.tls_options))
        return {name: options[name] for name in names if name in options}


def too_slow(address: RedisAddress, timeout: float) -> DeadlineExceeded:
    """The error of a server that took longer than ``timeout`` seconds."""
    return DeadlineExceeded(f"{address!r} did not answer within {timeout * 1000:.0f} ms")


@contextmanager
def named_errors(address: RedisAddress, timeout: float) -> Iterator[None]:
    """Turn redis-py's errors into this package's, naming the server."""
    import redis
    from redis.exceptions import RedisClusterException

    try:
        yield
    except RecsysError:
        raise
    except (redis.TimeoutError, TimeoutError) as error:
        raise too_slow(address, timeout) from error
    except (redis.RedisError, RedisClusterException, OSError) as error:  # the second is not a RedisError
        raise StoreUnavailable(f"{address!r}: {error or type(error).__name__}") from error


def _nodes(location: str, shown: str, *, default_port: int, login: bool) -> tuple[tuple[str, int], ...]:
    nodes = []
    for number, text in enumerate(location.split(","), 1):
        server = SplitResult("", text, "", "", "")
        try:
            host, port = server.hostname, server.port
        except ValueError:  # which shows what may be a password
            raise ConfigurationError(f"Redis URL {shown!r}: server {number} is not host:port") from None
        if not host:
            raise ConfigurationError(f"Redis URL {shown!r}: server {number} has no host")
        if not is_host(host):
            raise ConfigurationError(
                f"Redis URL {shown!r}: server {number} is no name of a host; a login stands before an @, its special "
                "characters percent-encoded"
            )
        if port is None and not login and not is_certain_host(host):
            raise ConfigurationError(
                f"Redis URL {shown!r}: server {number} needs its port, such as redis://shop:{default_port}; without "
                "one it may be a password whose @ was forgotten, so it is neither looked up nor shown"
            )
        nodes.append((host, default_port if port is None else port))
    return tuple(nodes)


def _database(text: str | None, shown: str) -> int:
    number = 0 if text is None else whole_number(text)
    if number is None:
        raise ConfigurationError(f"Redis URL {shown!r}: the database is not a number")
    return number


def _tls_options(options: dict[str, str], tls: bool, shown: str) -> tuple[tuple[str, str | bool], ...]:
    read: list[tuple[str, str | bool]] = []
    for name, value in options.items():
        if name in _TLS_FILES and value:
            read.append((name, value))
        elif name == "ssl_check_hostname" and value in ("true", "false"):
            read.append((name, value == "true"))
        else:
            known = (*_TLS_FILES, "ssl_check_hostname", "db")
            told = f"option {name!r}" if name in (*known, *_ELSEWHERE) else "an option"
            raise ConfigurationError(
                f"Redis URL {shown!r}: {told} or its value is not understood; there are {', '.join(known)}"
            )
    if read and not tls:
        raise ConfigurationError(
            f"Redis URL {shown!r}: {read[0][0]} needs rediss://, rediss-cluster:// or rediss-sentinel://"
        )
    if tls and all(name != "ssl_check_hostname" for name, _ in read):
        read.append(("ssl_check_hostname", True))  # redis-py checked it from version 6 on only
    return tuple(read)


def _feast_value(value: str | float | bool | None) -> str:
    """A JSON value that survives Feast's splitting at commas, YAML and shell quoting.

    Strings are always quoted, since Feast would read the password ``1e5`` as a number.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    return '"' + re.sub(r"[^A-Za-z0-9_./-]", _escaped, value) + '"'


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if ord(match[0]) > 126 else f"\\u{ord(match[0]):04x}"
