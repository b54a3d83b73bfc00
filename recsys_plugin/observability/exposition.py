"""Serving a registry of metrics over HTTP, on this machine only unless it is said otherwise; needs the extra
``metrics``."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, start_http_server

from recsys_plugin.errors import ConfigurationError

__all__ = ["MetricsServer"]


class MetricsServer:
    """Serves ``/metrics`` from a thread until it is closed.

    Args:
        registry: what is shown.
        ports: the first that is free is taken; 0 is any.
        address: what to listen on.

    Raises:
        ConfigurationError: if none is.
    """

    def __init__(self, registry: CollectorRegistry, ports: Iterable[int], *, address: str = "127.0.0.1") -> None:
        wanted, failed = tuple(ports), OSError("no port was named")
        self._server: Any = None
        for port in wanted:
            try:
                self._server, self._thread = start_http_server(port, addr=address, registry=registry)
                break
            except OSError as error:
                failed = error
        if self._server is None:
            raise ConfigurationError(
                f"metrics: cannot listen on {address}, port {' or '.join(map(str, wanted))}: {failed}. "
                "Name another port, or a range such as 9464-9479"
            ) from failed
        self.address: str = address
        self.port: int = self._server.server_port

    @property
    def url(self) -> str:
        """Where Prometheus finds the metrics."""
        return f"http://{self.address}:{self.port}/metrics"

    def close(self) -> None:
        """Stop listening, and wait for the thread to end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
