"""Triton by URL.

``grpc://host:8001``, or ``grpcs://host:8001`` for TLS, with files as options: ``root_certificates``,
``private_key``, ``certificate_chain`` (the last two for mutual TLS). Without ``root_certificates``, gRPC's own
variable ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` names them, else the system's are used. The server's certificate must be
for the host that the URL names.

Several servers that serve the same models stand side by side, ``grpc://first:8001,second:8001``; options count for all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.limits import MOST_MESSAGE_BYTES
from recsys_plugin.urls import is_host, shown_url

__all__ = ["TritonAddress"]

_SCHEMES = ("grpc", "grpcs")
_FILES = ("root_certificates", "private_key", "certificate_chain")

#: Channel options. Pings go out only while a call waits, more often than that Triton would hang up.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Retries are the caller's decision, and a server that comes back must be found again within a second.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A proxy for the web is not the way to a server inside the house.
    ("grpc.enable_http_proxy", 0),
    # Channels of one process to one address would share a connection, and with it each other's failures.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class TritonAddress:
    """Where Triton's gRPC endpoint is. Build it with :meth:`parse`."""

    target: str
    """``host:port``"""
    tls: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None

    @classmethod
    def parse(cls, url: str) -> TritonAddress:
        """Read a ``grpc://`` or ``grpcs://`` URL.

        Raises:
            ConfigurationError: if it is neither, lacks host or port, or has options that are not understood.
        """
        shown = shown_url(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # which may show what stands before the host
            raise ConfigurationError(f"Triton URL {shown!r} is not of the form grpc://host:port") from None
        if "@" in url:
            raise ConfigurationError(
                f"Triton URL {shown!r}: Triton knows no users and passwords; use grpcs:// with a certificate_chain"
            )
        if parts.scheme not in _SCHEMES:
            raise ConfigurationError(
                f"Triton URL {shown!r} does not start with grpc:// or grpcs://; write grpc://host:port"
            )
        if not host or not is_host(host) or port is None or parts.path not in ("", "/"):
            raise ConfigurationError(f"Triton URL {shown!r} is not of the form grpc://host:port")
        options = dict(parse_qsl(parts.query))
        tls = parts.scheme == "grpcs"
        if unknown := sorted(set(options) - set(_FILES if tls else ())):
            told = f"option {unknown[0]}" if unknown[0] in _FILES else "an option"  # any other may be a secret
            raise ConfigurationError(
                f"Triton URL {shown!r}: {told} is not understood; grpcs:// takes {', '.join(_FILES)}"
            )
        if ("private_key" in options) != ("certificate_chain" in options):
            raise ConfigurationError(f"Triton URL {shown!r}: private_key and certificate_chain go together")
        files = {name: Path(value) for name, value in options.items()}
        return cls(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls, **files)

    @classmethod
    def parse_several(cls, url: str) -> tuple[TritonAddress, ...]:
        """Read a URL of one server or more, in the order given.

        Raises:
            ConfigurationError: as :meth:`parse`, or if a server is named twice.
        """
        if "@" in url:
            return (cls.parse(url),)  # refused as a whole: a comma may be part of what must not show
        scheme, hosts, options = re.findall(r"^([^/]*//)?([^/?#]*)(.*)$", url, re.DOTALL)[0]
        addresses = tuple(cls.parse(f"{scheme}{host}{options}") for host in hosts.split(","))
        if len(set(addresses)) < len(addresses):
            raise ConfigurationError(f"Triton URL {shown_url(url)!r} names a server twice")
        return addresses

    def __str__(self) -> str:
        """The URL without its options."""
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"

    def credentials(self) -> Any:
        """gRPC channel credentials for TLS; ``None`` for a plain channel.

        Raises:
            ConfigurationError: if a file cannot be read.
        """
        if not self.tls:
            return None
        import grpc

        return grpc.ssl_channel_credentials(
            _content(self.root_certificates), _content(self.private_key), _content(self.certificate_chain)
        )


def _content(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Triton certificate {file}: {error.strerror}") from error
