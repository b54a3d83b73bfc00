"""A process with nothing but the serving client, as a shop's backend has it: loads, asks, and tells its memory.

``python -m recsys_plugin.bench.thin_client``, its plan as one JSON document on standard input. It prints one JSON
document a line: ``{"calls": 0, "resident_bytes": …}`` before anything is loaded (``calls`` -1), after loading (0) and
after every so many calls.
"""

from __future__ import annotations

import gc
import json
import sys
from itertools import count
from pathlib import Path

from recsys_plugin import Recommender

__all__ = ["resident_bytes", "run"]

#: What a thin client has no use for; were one of them loaded, its memory would be counted as ours.
HEAVY = ("feast", "torch", "transformers", "pandas", "pyarrow", "onnxruntime", "matplotlib")


def resident_bytes(process: int | str = "self") -> int:
    """The resident set of a process, in bytes (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status states no VmRSS")


def _tell(calls: int) -> None:
    gc.collect()
    print(json.dumps({"calls": calls, "resident_bytes": resident_bytes()}), flush=True)


def run(plan: dict[str, object]) -> None:
    """Load the catalogue and ask.

    Args:
        plan: ``redis_url``, ``triton_url``, ``now`` (unix seconds), ``users``, ``items`` and ``query`` (what is asked
            for, in turn), ``candidates``, ``calls``, and ``every``: after how many calls memory is told.
    """
    now = float(str(plan["now"]))
    users, items = [str(user) for user in _list(plan["users"])], [str(item) for item in _list(plan["items"])]
    calls, every, candidates = (int(str(plan[name])) for name in ("calls", "every", "candidates"))
    _tell(-1)
    with Recommender(
        str(plan["redis_url"]), str(plan["triton_url"]), timeout=10.0, clock=lambda: now, strict=True
    ) as client:
        if found := [name for name in HEAVY if name in sys.modules]:
            raise SystemExit(f"the thin client has loaded {', '.join(found)}")
        _tell(0)
        for number in count(1):
            if number > calls:
                break
            user, item = users[number % len(users)], items[number % len(items)]
            match number % 4:
                case 0:
                    client.search(user, str(plan["query"]), candidates=candidates)
                case 1:
                    client.rank(user, items)
                case 2:
                    client.similar_items(item, candidates=candidates)
                case _:
                    client.recommend(user, candidates=candidates)
            if number % every == 0:
                _tell(number)


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


if __name__ == "__main__":
    run(json.load(sys.stdin))
