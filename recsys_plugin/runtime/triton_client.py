"""Talk to any Triton server by URL, for the management calls: readiness, the repository index, loading."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recsys_plugin.errors import ConfigurationError, InferenceUnavailable
from recsys_plugin.inference.address import TritonAddress

__all__ = ["ModelState", "TritonManager"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of the server's repository index."""

    name: str
    version: int | None
    """None when the server knows the folder but no version of it."""
    ready: bool
    reason: str
    """Why it is not ready, in the server's words."""


class TritonManager:
    """A gRPC connection for management calls; a context manager.

    Args:
        url: of one server, see :mod:`recsys_plugin.inference.address`.
        timeout: seconds for each call.

    Raises:
        ConfigurationError: if the URL has another form.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        from tritonclient.grpc import InferenceServerClient

        if "," in url:
            raise ConfigurationError(
                f"Triton URL {url!r} names several servers; clients take that, but this is done on one server at a time"
            )
        address = TritonAddress.parse(url)
        self.url = str(address)
        self.timeout = timeout
        self.client: Any = InferenceServerClient(address.target, creds=address.credentials())

    def __enter__(self) -> TritonManager:
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()

    def is_live(self) -> bool:
        """Whether the server answers; False too when nothing listens there."""
        with contextlib.suppress(InferenceUnavailable), self.errors("server"):
            return bool(self.client.is_server_live(client_timeout=self.timeout))
        return False

    def index(self) -> list[ModelState]:
        """Every version of every model the server knows.

        Raises:
            InferenceUnavailable: if the server does not answer.
        """
        with self.errors("repository index"):
            answer = self.client.get_model_repository_index(client_timeout=self.timeout)
        return [
            ModelState(m.name, int(m.version) if m.version else None, m.state == "READY", m.reason)
            for m in answer.models
        ]

    def load(self, model: str) -> None:
        """Load the model's newest files, the versions that did not change staying as they are.

        Raises:
            InferenceUnavailable: if the server refuses it; it goes on serving what it served before.
        """
        with self.errors(f"loading model {model}"):
            # Loading includes starting processes and reading weights, so it has its own, longer limit.
            self.client.load_model(model, client_timeout=max(self.timeout, 300.0))

    def unload(self, model: str) -> None:
        """Stop serving a model once its requests under way are answered.

        Raises:
            InferenceUnavailable: if the server refuses.
        """
        with self.errors(f"unloading model {model}"):
            self.client.unload_model(model, client_timeout=max(self.timeout, 300.0))

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn the client library's errors inside the block into ours, saying what was asked."""
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            raise InferenceUnavailable(f"Triton at {self.url}, {what}: {error.message()}") from error
