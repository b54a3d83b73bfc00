"""What a benchmark ran on: the machine and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from recsys_plugin.errors import InferenceUnavailable, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["describe_machine", "load_average", "package_versions", "redis_version", "server_versions"]

_GIB = 1 << 30


def describe_machine() -> dict[str, Any]:
    """The processor, the cores this process may use, the memory in GiB, the platform, and the GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
        "platform": platform.platform(),
        "gpus": _gpus(),
    }


def load_average() -> tuple[float, ...]:
    """How many processes wanted to run in the last 1, 5 and 15 minutes."""
    return tuple(round(value, 2) for value in os.getloadavg())


def package_versions(*distributions: str) -> dict[str, str]:
    """Python's version and those of the named distributions, this package's among them."""
    installed = {
        "recsys_plugin": "recsys-plugin",
        "numpy": "numpy",
        "redis-py": "redis",
        "tritonclient": "tritonclient",
        **{name: name for name in distributions},
    }
    versions = {shown: metadata.version(name) for shown, name in installed.items()}
    return {"python": platform.python_version(), **versions}


def server_versions(redis_url: str, triton_url: str, *, timeout: float = 5.0) -> dict[str, str]:
    """The versions that the two servers state.

    Raises:
        StoreUnavailable, InferenceUnavailable: if they do not answer.
    """
    return {"redis-server": redis_version(redis_url, timeout), "tritonserver": _triton_version(triton_url, timeout)}


def redis_version(url: str, timeout: float = 5.0) -> str:
    """The version that a Redis or Valkey states.

    Raises:
        StoreUnavailable: if it does not answer.
    """
    import redis

    address = RedisAddress.parse(url)
    try:
        client = address.connect(timeout)
        try:
            info: Any = client.info("server")
        finally:
            client.close()
    except redis.RedisError as error:
        raise StoreUnavailable(f"{address!r}: {error}") from error
    # Valkey states the Redis version that it is compatible with beside its own.
    return f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"


def _triton_version(url: str, timeout: float) -> str:
    with TritonManager(url, timeout=timeout) as triton, triton.errors("server metadata"):
        answer = triton.client.get_server_metadata(client_timeout=timeout)
    if not answer.version:
        raise InferenceUnavailable(f"Triton at {url} states no version")
    return str(answer.version)


def _cpu_model() -> str:
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
