"""Calls to Triton over gRPC: tensors, transport, served versions, and the catalogue behind row numbers.

Thin: numpy and tritonclient's message definitions only, and those only when a connection is made.
"""

from __future__ import annotations

__all__: list[str] = []
