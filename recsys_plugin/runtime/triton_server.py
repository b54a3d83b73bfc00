"""The embedded Triton: the real ``tritonserver`` of the ``nvidia-pytriton`` wheel, with our backend.

The wheel carries only Triton's Python backend. A *Python-based backend* (``backends/onnxruntime/model.py``)
makes the same server accept ``backend: "onnxruntime"``, so the repository is the one that NVIDIA's container
serves with the native backend.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from recsys_plugin.errors import ConfigurationError, InferenceUnavailable
from recsys_plugin.runtime.model_repository import RepositoryModel, read_model_repository, remove_bytecode
from recsys_plugin.runtime.ports import LOOPBACK, PortBook
from recsys_plugin.runtime.processes import ServerProcess, write_atomically
from recsys_plugin.runtime.triton_client import TritonManager
from recsys_plugin.runtime.triton_environment import TritonEnvironment
from recsys_plugin.security.model_manifest import check_repository

__all__ = ["EmbeddedTriton", "require_models_ready"]

_PORTS = ("triton-http", "triton-grpc", "triton-metrics")
_BACKENDS = Path(__file__).parent / "backends"
_SHARED_MEMORY = Path("/dev/shm")
_POLL_SECONDS = 0.05
#: Of so many requests that nobody traces Triton traces one: as good as none, which it does not offer.
_SELDOM = 2**31 - 1
#: Milliseconds from a span to its sending; 5 seconds if nothing were said.
_SEND_TRACES_MS = 1_000


class EmbeddedTriton:
    """One Triton server on loopback, serving ``model_repository``.

    Args:
        state: the state folder. model_repository: what to serve.
        interpreter: of the environment with ``nvidia-pytriton``.
        model_key: must have signed what is loaded, see :mod:`recsys_plugin.security.model_manifest`.
        traces_endpoint: URL of the collector that takes spans of those requests whose callers trace them.
    """

    def __init__(
        self,
        state: Path,
        model_repository: Path,
        interpreter: Path | None,
        *,
        model_key: str | None = None,
        traces_endpoint: str | None = None,
    ) -> None:
        self.process = ServerProcess("triton", state)
        self.model_repository = model_repository.resolve()
        self.interpreter = interpreter
        self._model_key = model_key
        self._traces_endpoint = traces_endpoint
        self.backends = self.process.state / "triton" / "backends"
        self._loaded_path = self.process.state / "run" / "triton-models.json"
        self._ports = PortBook(state)
        # A prefix of our own, so that the segments a killed server leaves behind can be told from others'.
        self._segments = f"recsys_{hashlib.sha256(self.process.mark.encode()).hexdigest()[:12]}_"

    @property
    def url(self) -> str:
        """``grpc://127.0.0.1:<port>``, whether it runs or not."""
        return f"grpc://{LOOPBACK}:{self._port('triton-grpc')}"

    @property
    def http_url(self) -> str:
        """``http://127.0.0.1:<port>``: Triton's HTTP interface."""
        return f"http://{LOOPBACK}:{self._port('triton-http')}"

    @property
    def metrics_url(self) -> str:
        """Prometheus metrics of the server."""
        return f"http://{LOOPBACK}:{self._port('triton-metrics')}/metrics"

    def _port(self, name: str) -> int:
        record = self.process.record
        return record.ports[name] if record is not None else self._ports.known(name)

    def start(self, *, note: Callable[[str], None] = lambda text: None, timeout: float = 180.0) -> None:
        """Start it unless it runs, and wait until every model is ready. The caller holds ``process.lock()``.

        Args:
            note: told in a sentence what goes on: models loaded so far, a changed port.
            timeout: seconds until every model must be ready.

        Raises:
            ConfigurationError: if the environment is unusable, or a model has no exported version.
            ModelRefused: if the models are not what was exported; what runs goes on serving what it has loaded.
            InferenceUnavailable: if the server ends, or models are not ready; each is named with its reason.
                What this call started is stopped again.
        """
        if self.process.running:
            self._wait_live(timeout, note, expected=0)
            self._load_changes(note)
            return
        remove_bytecode(self.model_repository)
        models = read_model_repository(self.model_repository)
        unexported = [model.name for model in models if not model.served]
        if unexported:
            raise ConfigurationError(
                f"{self.model_repository} has no version to serve of {', '.join(unexported)}: run `recsys export`"
            )
        check_repository(self.model_repository, _served(models), key=self._model_key)
        environment = TritonEnvironment.inspect(self.interpreter)
        environment.require_usable()
        self._assemble_backends(environment)
        ports, notes = self._ports.free(_PORTS)
        for text in notes:
            note(text)
        try:
            self._remove_segments()
            self.process.start(self._command(environment, ports), ports=ports, environment=environment.variables())
            self._wait_live(timeout, note, expected=len(models))
            with TritonManager(self.url) as triton:
                require_models_ready(triton, models)
            self._remember(models)
        except BaseException:
            self.stop(grace_seconds=2.0)
            raise

    def stop(self, *, grace_seconds: float = 20.0) -> bool:
        """Stop it with its model processes and remove their shared memory; True if it ran."""
        stopped = self.process.stop(grace_seconds=grace_seconds)
        self._remove_segments()
        self._loaded_path.unlink(missing_ok=True)
        return stopped

    def _wait_live(self, timeout: float, note: Callable[[str], None], *, expected: int) -> None:
        # gRPC is opened after the last model was loaded or has failed, so live means loading is over.
        deadline = time.monotonic() + timeout
        told = 0
        while not self._is_live():
            if not self.process.running:
                raise InferenceUnavailable(f"Triton ended while starting; {self._complaints()}")
            if time.monotonic() > deadline:
                raise InferenceUnavailable(
                    f"Triton does not answer at {self.url} after {timeout:g} s; `recsys down` ends it even if "
                    f"it hangs; {self._complaints()}"
                )
            done = len(set(re.findall(r"successfully loaded '([^']+)'", self.process.log_since_start())))
            if expected and done > told:
                told = done
                note(f"Triton: {done} of {expected} models loaded")
            time.sleep(_POLL_SECONDS)

    def _is_live(self) -> bool:
        # Once refused, a gRPC channel waits ever longer before it tries again; so it is opened only when
        # somebody listens.
        try:
            with socket.create_connection((LOOPBACK, self._port("triton-grpc")), timeout=1.0):
                pass
        except OSError:
            return False
        with TritonManager(self.url, timeout=2.0) as triton:
            return triton.is_live()

    def _load_changes(self, note: Callable[[str], None]) -> None:
        """Load what was exported since the server loaded its models."""
        remove_bytecode(self.model_repository)
        models = read_model_repository(self.model_repository)
        loaded = json.loads(self._loaded_path.read_text()) if self._loaded_path.exists() else {}
        changed = [model for model in models if loaded.get(model.name) != model.fingerprint]
        if changed:
            check_repository(self.model_repository, _served(models), key=self._model_key)
        with TritonManager(self.url) as triton:
            for model in changed:
                note(f"Triton: loading {model.name} {', '.join(map(str, model.served))}")
                triton.load(model.name)
            require_models_ready(triton, models)
            for name in sorted(set(loaded) - {model.name for model in models}):
                note(f"Triton: unloading {name}, which the repository no longer has")
                triton.unload(name)
        self._remember(models)

    def _remember(self, models: Iterable[RepositoryModel]) -> None:
        write_atomically(self._loaded_path, json.dumps({model.name: model.fingerprint for model in models}))

    def _complaints(self) -> str:
        log = self.process.log_since_start().splitlines()
        errors = [line for line in log if re.match(r"E\d{4} |error:|.*error while loading shared", line)]
        return f"{self.process.log} says: " + (" | ".join((errors or log)[-3:]) or "nothing")

    def _assemble_backends(self, environment: TritonEnvironment) -> None:
        """Copy the backends into one folder; Triton refuses links that lead out of it."""
        python = [path for path in environment.python_backend.iterdir() if path.is_file()]
        for source, name in (
            *((path, f"python/{path.name}") for path in python),
            (environment.stub, "python/triton_python_backend_stub"),
            (_BACKENDS / "onnxruntime" / "model.py", "onnxruntime/model.py"),
        ):
            target = self.backends / name
            if target.exists() and filecmp.cmp(source, target, shallow=False):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copy2(source, partial)
            partial.replace(target)

    def _command(self, environment: TritonEnvironment, ports: dict[str, int]) -> list[str]:
        return [
            str(environment.server),
            f"--model-repository={self.model_repository}",
            f"--backend-directory={self.backends}",
            # Explicit control, with everything loaded at the start: later versions come through the API.
            "--model-control-mode=explicit",
            "--load-model=*",
            # Keep running with a broken model: the index then says by name what is broken, and why.
            "--exit-on-error=false",
            # Our configurations are complete. Completing them starts a second process for every model: 2.0 s
            # instead of 0.34 s for two models with two instances each.
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._segments}",
            *(
                f"--{kind}-{option}"
                for kind in ("http", "grpc", "metrics")
                for option in (f"address={LOOPBACK}", f"port={ports[f'triton-{kind}']}")
            ),
            *(f"--trace-config={setting}" for setting in self._tracing()),
        ]

    def _tracing(self) -> tuple[str, ...]:
        """Triton traces every request that comes with a trace context, and of the others one in ``rate``."""
        if self._traces_endpoint is None:
            return ()
        return (
            "mode=opentelemetry",
            f"opentelemetry,url={self._traces_endpoint}",
            "opentelemetry,resource=service.name=triton",
            f"opentelemetry,bsp_schedule_delay={_SEND_TRACES_MS}",
            "level=TIMESTAMPS",
            f"rate={_SELDOM}",
        )

    def _remove_segments(self) -> None:
        """Shared memory of model processes that were killed; nobody else would ever free it."""
        for segment in _SHARED_MEMORY.glob(f"{self._segments}*"):
            segment.unlink(missing_ok=True)


def _served(models: Iterable[RepositoryModel]) -> set[int]:
    """Versions of which Triton loads a model."""
    return {version for model in models for version in model.served}


def require_models_ready(triton: TritonManager, models: Iterable[RepositoryModel]) -> None:
    """Check that the server serves every version that the repository on disk says it should.

    Raises:
        InferenceUnavailable: naming each model and version that is not ready, with the server's reason.
    """
    states = {(state.name, state.version): state for state in triton.index()}
    missing = []
    for model in models:
        for version in model.served:
            state = states.get((model.name, version)) or states.get((model.name, None))
            if state is None or not state.ready or state.version is None:
                # The server appends the Python backend's stack trace after "At:"; that stays in its log.
                reason = " ".join((state.reason if state else "").partition("\n\nAt:")[0].split()) or "not loaded"
                missing.append(f"{model.name} version {version}: {reason}")
    if missing:
        raise InferenceUnavailable("Triton cannot serve every model:\n  " + "\n  ".join(missing))
