"""Run the test suite in its two parts side by side; arguments go to both. Ends with a failure of either."""

from __future__ import annotations

import subprocess
import sys
import threading

PARTS = ("1", "2")


def show(part: str, process: subprocess.Popen[str]) -> None:
    """Print what a part says, each line marked with its number."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"{part}| {line}")
        sys.stdout.flush()


def main() -> int:
    """Start both parts, and wait for both."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "--part", part, "-p", "no:cacheprovider", *sys.argv[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for part in PARTS
    ]  # fmt: skip
    readers = [threading.Thread(target=show, args=pair) for pair in zip(PARTS, processes, strict=True)]
    for reader in readers:
        reader.start()
    codes = []
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:
        # Ctrl-C has reached them too: they stop what they started.
        codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join()
    print("; ".join(f"part {part} ended with {code}" for part, code in zip(PARTS, codes, strict=True)))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
