"""How much memory a part of a program took at most."""

from __future__ import annotations

import resource
from pathlib import Path
from types import TracebackType

import torch

__all__ = ["PeakMemory"]

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """The largest memory while the ``with`` block runs: of the GPU that PyTorch allocated, else of the process.

    Linux forgets the process's peak on request. Where it cannot be forgotten, the peak since the process began counts.

    Attributes:
        of: ``"GPU"`` or ``"process"``.
        peak_bytes: the peak, known once the block has ended.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.of = "GPU" if device.type == "cuda" else "process"
        self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        if self.of == "GPU":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _forget_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peak_bytes = torch.cuda.max_memory_allocated(self._device) if self.of == "GPU" else _process_peak()


def _forget_peak() -> None:
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:  # not Linux, or a container that forbids it
        return


def _process_peak() -> int:
    """Bytes of the largest resident set since the peak was forgotten."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
