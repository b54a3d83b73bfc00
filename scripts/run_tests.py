"""Run the test suite in parts: two side by side, then what holds milliseconds against a deadline.

Arguments go to each. Ends with a failure of any.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

SIDE_BY_SIDE = (("1", "2"), ("3",))


def show(part: str, process: subprocess.Popen[str]) -> None:
    """Print what a part says, each line marked with its number."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"{part}| {line}")
        sys.stdout.flush()


def run(parts: Sequence[str]) -> dict[str, int]:
    """Run some parts side by side; with what each ended."""
    processes = {
        part: subprocess.Popen(
            [sys.executable, "-m", "pytest", "--part", part, "-p", "no:cacheprovider", *sys.argv[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for part in parts
    }  # fmt: skip
    readers = [threading.Thread(target=show, args=pair) for pair in processes.items()]
    for reader in readers:
        reader.start()
    try:
        codes = {part: process.wait() for part, process in processes.items()}
    except KeyboardInterrupt:
        # Ctrl-C has reached them too: they stop what they started.
        for process in processes.values():
            process.wait()
        raise
    finally:
        for reader in readers:
            reader.join()
    return codes


def main() -> int:
    """Run all parts; the last one has the machine for itself."""
    codes: dict[str, int] = {}
    try:
        for parts in SIDE_BY_SIDE:
            codes |= run(parts)
    except KeyboardInterrupt:
        return 130
    print("; ".join(f"part {part} ended with {code}" for part, code in codes.items()))
    return next((code for code in codes.values() if code), 0)


if __name__ == "__main__":
    sys.exit(main())
