"""Sends spans to a collector: OpenTelemetry's protocol (OTLP 1) over HTTP, in its binary form.

Settings are those of OpenTelemetry's exporter; ``…`` is ``OTEL_EXPORTER_OTLP_TRACES`` or, for all signals alike,
``OTEL_EXPORTER_OTLP``:

==========================================  ====================================================================
``…_HEADERS``                               ``name=value,name=value``, such as a token
``…_TIMEOUT``                               seconds that a message may take with all its attempts; 10 if unset
``…_COMPRESSION``                           ``gzip``, ``deflate`` or ``none``
``…_CERTIFICATE``                           file with the authorities that a ``https`` collector is checked by
``…_CLIENT_CERTIFICATE``, ``…_CLIENT_KEY``  files with what the collector knows this client by
==========================================  ====================================================================

Who needs more, such as gRPC, gives :class:`~recsys_plugin.observability.tracing.Tracing` an exporter of OpenTelemetry.
"""

from __future__ import annotations

import base64
import gzip
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from recsys_plugin.background import Warner
from recsys_plugin.errors import ConfigurationError, RecsysError
from recsys_plugin.observability.otlp import encode_spans
from recsys_plugin.resilience.values import Backoff

__all__ = ["CollectorExporter"]

#: Answers of a collector that may take the message later, as the protocol has them.
_LATER = frozenset({429, 502, 503, 504})
_BACKOFF = Backoff(first=1.0, most=8.0)
#: RFC 9110, sections 5.1 and 5.5.
_HEADER_NAME, _HEADER_VALUE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"), re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class CollectorExporter(SpanExporter):
    """Sends spans of one process.

    Args:
        endpoint: the whole URL, such as ``http://localhost:4318/v1/traces``; a user and password in it are sent as HTTP
            has it, and never told.
        environ: OpenTelemetry's variables, see above.

    Raises:
        ConfigurationError: if the URL or a variable makes no sense.

    Attributes:
        failed: spans that the collector did not take.
    """

    def __init__(self, endpoint: str, environ: Mapping[str, str]) -> None:
        self._url, self._headers = _without_user(endpoint)
        settings = _Settings(environ)
        self._headers |= {"Content-Type": "application/x-protobuf", **settings.headers}
        self._timeout, compression = settings.timeout, settings.compression
        self._compress = _COMPRESS.get(compression)
        if self._compress is not None:
            self._headers["Content-Encoding"] = compression
        # Whoever answers with another address gets neither spans nor headers there.
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=settings.context()))
        self._warner = Warner(f"could not send traces to {self._url}")
        self._closed = threading.Event()
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, again where the collector asks for it, within the time that is allowed."""
        message = encode_spans(spans)
        try:
            self._send(message if self._compress is None else self._compress(message))
        except RecsysError as error:
            self.failed += len(spans)
            self._warner.failed(error)
            return SpanExportResult.FAILURE
        self._warner.worked()
        return SpanExportResult.SUCCESS

    def hurry(self) -> None:
        """From now on nothing is sent again that a collector did not take at once."""
        self._closed.set()

    def shutdown(self) -> None:
        """No more follow."""
        self.hurry()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return True

    def _send(self, message: bytes) -> None:
        deadline, attempt = time.monotonic() + self._timeout, 0
        while True:
            left = deadline - time.monotonic()
            try:
                self._post(message, max(left, 0.001))
                return
            except urllib.error.HTTPError as error:
                with error:
                    reason, again = f"it answered {error.code} {error.reason}", error.code in _LATER
                    asked = error.headers.get("Retry-After", "")
            except (OSError, HTTPException) as error:
                reason, again, asked = str(getattr(error, "reason", error) or type(error).__name__), True, ""
            pause = float(asked) if asked.isdecimal() else _BACKOFF.pause(attempt, random.random)
            if not again or time.monotonic() + pause >= deadline or self._closed.wait(pause):
                raise RecsysError(reason)
            attempt += 1

    def _post(self, message: bytes, timeout: float) -> None:
        request = urllib.request.Request(self._url, message, self._headers, method="POST")
        with self._opener.open(request, timeout=timeout) as answer:
            answer.read()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """To nowhere."""


class _Settings:
    """What the variables say."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.headers = _headers(self._of("HEADERS"))
        self.compression = self._of("COMPRESSION").strip().lower() or "none"
        if self.compression not in (*_COMPRESS, "none"):
            raise ConfigurationError(
                f"OTEL_EXPORTER_OTLP_COMPRESSION: {self.compression!r:.60} is neither gzip, deflate nor none"
            )
        try:
            self.timeout = float(self._of("TIMEOUT") or 10.0)
        except ValueError:
            self.timeout = 0.0
        if not 0 < self.timeout < float("inf"):
            raise ConfigurationError(f"OTEL_EXPORTER_OTLP_TIMEOUT: {self._of('TIMEOUT')!r:.60} is no number of seconds")

    def context(self) -> ssl.SSLContext:
        """How collectors are checked, and this client shows who it is."""
        try:
            context = ssl.create_default_context(cafile=self._of("CERTIFICATE") or None)
            if certificate := self._of("CLIENT_CERTIFICATE"):
                context.load_cert_chain(certificate, self._of("CLIENT_KEY") or None)
        except OSError as error:
            raise ConfigurationError(
                f"OTEL_EXPORTER_OTLP_CERTIFICATE, …CLIENT_CERTIFICATE, …CLIENT_KEY: {error}"
            ) from error
        return context

    def _of(self, name: str) -> str:
        return self._environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or self._environ.get(
            f"OTEL_EXPORTER_OTLP_{name}", ""
        )


def _headers(text: str) -> dict[str, str]:
    """The headers that a variable names. Messages do not show them: one may be a token."""
    headers: dict[str, str] = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, equals, value = (unquote(part).strip() for part in pair.partition("="))
        if not equals or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"OTEL_EXPORTER_OTLP_HEADERS: header {number} is not of the form name=value")
        headers[name] = value
    return headers


def _without_user(endpoint: str) -> tuple[str, dict[str, str]]:
    """The URL without user and password, and the header that has them instead."""
    try:
        parts = urlsplit(endpoint)
        user, password, port = parts.username, parts.password or "", parts.port
    except ValueError:
        parts, user, password, port = urlsplit(""), None, "", None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is no URL such as http://localhost:4318 or https://collector:4318"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    url = urlunsplit(parts._replace(netloc=host if port is None else f"{host}:{port}"))
    if user is None:
        return url, {}
    token = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return url, {"Authorization": f"Basic {token}"}
