"""Where the parts of Triton lie inside the environment that has the ``nvidia-pytriton`` wheel.

That environment is never imported into ours: its interpreter is asked, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys_plugin.errors import ConfigurationError

__all__ = ["TritonEnvironment"]

_PACKAGES = ("nvidia-pytriton", "numpy", "onnxruntime", "tokenizers")

# Metadata only, no import: it takes 0.1 s, and works when a package is too broken to be imported.
_QUESTION = """
import importlib.metadata, json, sys, sysconfig
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "site": sysconfig.get_path("platlib"),
    "library_folder": sysconfig.get_config_var("LIBDIR") or "",
    "python": "%d.%d" % sys.version_info[:2],
    "versions": {name: version(name) for name in sys.argv[1:]},
}))
"""


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """One interpreter's environment with Triton in it."""

    interpreter: Path
    site: Path
    """Its site-packages."""
    library_folder: str
    """Where the interpreter's shared library would be."""
    python: str
    """Such as ``3.11``."""
    versions: Mapping[str, str | None]
    """Package -> installed version, None when absent."""

    @classmethod
    def inspect(cls, interpreter: Path | None, *, timeout: float = 60.0) -> TritonEnvironment:
        """Ask the interpreter.

        Raises:
            ConfigurationError: if there is none, or it cannot be run.
        """
        mend = "make it with `bash scripts/quickstart.sh`, or set RECSYS_TRITON_PYTHON to its interpreter"
        if interpreter is None or not interpreter.exists():
            raise ConfigurationError(f"no Triton environment at {interpreter}; {mend}")
        # Not resolved: a virtual environment's interpreter is a link that must be called by its own name.
        interpreter = interpreter.absolute()
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            answer = subprocess.run(
                [str(interpreter), "-c", _QUESTION, *_PACKAGES],
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout,
                env=clean,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise ConfigurationError(f"{interpreter} fails: {error.stderr.strip()[-300:]}; {mend}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"{interpreter} cannot be run: {error}; {mend}") from error
        found = json.loads(answer)
        return cls(
            interpreter=interpreter,
            site=Path(found["site"]),
            library_folder=found["library_folder"],
            python=found["python"],
            versions=found["versions"],
        )

    @property
    def root(self) -> Path:
        """The wheel's Triton folder."""
        return self.site / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        """The ``tritonserver`` binary."""
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process in which Triton's Python backend runs a model, built for this Python version."""
        return self.root / "python_backend_stubs" / self.python / "triton_python_backend_stub"

    @property
    def python_backend(self) -> Path:
        """Triton's Python backend."""
        return self.root / "backends" / "python"

    def variables(self) -> dict[str, str]:
        """The environment variables under which server and stub find their libraries and this interpreter."""
        libraries = [self.site / "nvidia_pytriton.libs", self.root / "external_libs", self.library_folder]
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            # The stub runs the `python3` that comes first: that decides whose packages the models see.
            "PATH": f"{self.interpreter.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *filter(None, [inherited])]),
            # Ours would put numpy 2 in front of the numpy 1 that this build of the Python backend needs.
            "PYTHONPATH": "",
            # A Python model would leave its bytecode in the model repository, which then looks changed.
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def require_usable(self) -> None:
        """Refuse an environment that is incomplete, or that would answer wrongly.

        Raises:
            ConfigurationError: naming what is wrong and how to mend it.
        """
        install = f"{self.interpreter} -m pip install"
        if self.versions["nvidia-pytriton"] is None or not self.server.exists():
            raise ConfigurationError(f"{self.interpreter} has no nvidia-pytriton: {install} nvidia-pytriton")
        numpy = self.versions["numpy"]
        if numpy is None or int(numpy.split(".")[0]) >= 2:
            # Under numpy 2 this build returns empty or wrong tensors without an error.
            raise ConfigurationError(
                f"{self.interpreter} has numpy {numpy}; Triton's Python backend needs numpy 1, and under "
                f"numpy 2 answers wrongly without an error: {install} 'numpy<2'"
            )
        if self.versions["onnxruntime"] is None:
            raise ConfigurationError(f"{self.interpreter} has no onnxruntime: {install} onnxruntime")
        if not self.stub.exists():
            built = sorted(path.parent.name for path in self.root.glob("python_backend_stubs/*/*stub"))
            raise ConfigurationError(
                f"nvidia-pytriton {self.versions['nvidia-pytriton']} has no Python backend for Python "
                f"{self.python}, only for {', '.join(built)}; make the environment with one of those"
            )

    def missing_libraries(self) -> list[str]:
        """Shared libraries that the server or the stub cannot find, such as ``libpython3.11.so.1.0``.

        Raises:
            ConfigurationError: if ``ldd`` cannot be run.
        """
        missing = []
        for program in (self.server, self.stub):
            try:
                listing = subprocess.run(
                    ["ldd", str(program)],
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=30,
                    env={**os.environ, **self.variables()},
                ).stdout
            except (OSError, subprocess.SubprocessError) as error:
                raise ConfigurationError(f"ldd {program}: {error}") from error
            missing += [line.split()[0] for line in listing.splitlines() if "not found" in line]
        return sorted(set(missing))
