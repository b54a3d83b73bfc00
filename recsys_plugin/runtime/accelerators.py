"""Whether models that ask for a GPU got one: asked of their configurations on disk, and of the server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from recsys_plugin.runtime.model_repository import parse_configuration
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["models_asking_for_gpu", "models_without_gpu"]

#: What our onnxruntime backend logs; a test holds the two together.
_COMPLAINT = re.compile(r"model '([^']+)' asks for a GPU")


def models_asking_for_gpu(repository: Path) -> list[str]:
    """Names of the models whose configuration on disk names a GPU or an accelerator for one.

    Raises:
        ConfigurationError: if a configuration cannot be parsed.
    """
    asking = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = parse_configuration(path)
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        if accelerators or any(group.kind == group.KIND_GPU for group in config.instance_group):
            asking.append(config.name or path.parent.name)
    return asking


def models_without_gpu(triton: TritonManager, asking: Iterable[str], *, log: str = "") -> list[str]:
    """Those of the models that the server runs on the CPU.

    Args:
        triton: the server; it says of which kind the instances became.
        asking: what :func:`models_asking_for_gpu` found.
        log: what an embedded server logged since it started: its backend says where ONNX Runtime lacks a provider.

    Raises:
        InferenceUnavailable: if the server does not answer.
    """
    complained = set(_COMPLAINT.findall(log))
    without = []
    for name in asking:
        with triton.errors(f"configuration of model {name}"):
            config = triton.client.get_model_config(name, client_timeout=triton.timeout).config
        if name in complained or not any(group.kind == group.KIND_GPU for group in config.instance_group):
            without.append(name)
    return without
