"""The servers of this machine: embedded Redis and Triton, their processes, known answers and the doctor.

Read ``services`` first: it decides which server is ours and which is given by URL, and ties the
rest together.
"""

from __future__ import annotations

__all__: list[str] = []
