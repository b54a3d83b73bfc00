"""Time and memory of data, apply and train as a shop's events grow, each step a process of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsys_plugin.bench.generated_shop import GeneratedShop
from recsys_plugin.bench.machine import describe_machine, load_average, package_versions
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.errors import StepFailed
from recsys_plugin.settings import Settings

__all__ = ["STEPS", "StepCost", "measure_training", "run_step"]

_GIB = 1 << 30
#: ru_maxrss is in KiB on Linux and in bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
#: The steps that are measured, in order.
STEPS = ("data", "apply", "train")
_COMMAND = (sys.executable, "-c", "from recsys_plugin.cli import main; main()")


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step took.

    Attributes:
        seconds: wall clock.
        processor_seconds: of all cores, of the step's process and its children.
        peak_bytes: the largest resident set of the step's process, or of one of its children. Linux counts what the
            measuring process held when it started the step as well, so it is never below that (about 0.3 GiB).
        stages: seconds from each line that the step printed to the next: where its time went.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    stages: dict[str, float]


def measure_training(
    settings: Settings,
    *,
    sizes: Sequence[int],
    seed: int,
    steps: Sequence[str] = (),
    scratch: Path | None = None,
    tell: Tell,
) -> Report:
    """Generate a shop of each size and run every step on it, in a temporary home that is removed in the end.

    Args:
        settings: names the home whose Feast repository's definitions are used.
        sizes: numbers of events.
        seed: of the generated shop and of training.
        steps: further arguments of ``recsys train``.
        scratch: where the temporary homes are made; the system's place for temporary files if None.
        tell: told what is under way.

    Raises:
        ConfigurationError: if the home has no Feast repository.
        StepFailed: if a step fails; the message holds the end of what it printed.
    """
    settings.require_feature_repo()
    machine = {**describe_machine(), "load_average_before": load_average()}
    report = Report("Training", machine, package_versions("feast", "duckdb", "pyarrow", "torch"))
    for size in sizes:
        shop = GeneratedShop(size, seed=seed)
        with _temporary_home(settings, scratch) as (home, environment):
            tables = home / "generated"
            begun = time.perf_counter()
            shop.write(tables, lambda done, total: tell(f"generating {size:,} events", done, total))  # noqa: B023
            report.add(f"events_{size}.generate.seconds", time.perf_counter() - begun)
            report.add(f"events_{size}.users", shop.user_count)
            report.add(f"events_{size}.items", shop.item_count)
            arguments = {
                "data": ["--from", str(tables)],
                "apply": [],
                "train": ["--seed", str(seed), *steps],
            }
            costs = {}
            for step in STEPS:
                costs[step] = run_step([step, *arguments[step]], environment, f"{size:,} events, {step}", tell)
                _add(report, f"events_{size}.{step}", size, [costs[step]])
                for number, (stage, seconds) in enumerate(costs[step].stages.items()):
                    report.notes.append(f"{size:,} events, {step}, stage {number + 1}: {stage}: {seconds:.1f} s")
            _add(report, f"events_{size}.total", size, list(costs.values()))
    report.machine["load_average_after"] = load_average()
    report.notes += [
        "peak memory is the largest resident set of a step's process, as the kernel counted it",
        "the shops are generated: these figures say how long training takes and what it needs, not how good it gets",
    ]
    return report


def _add(report: Report, name: str, events: int, costs: Sequence[StepCost]) -> None:
    seconds = sum(cost.seconds for cost in costs)
    report.add(f"{name}.seconds", seconds)
    report.add(f"{name}.processor_seconds", sum(cost.processor_seconds for cost in costs))
    report.add(f"{name}.events_per_second", events / seconds)
    report.add(f"{name}.peak_gib", max(cost.peak_bytes for cost in costs) / _GIB)


def run_step(arguments: Sequence[str], environment: dict[str, str], name: str, tell: Tell) -> StepCost:
    """Run ``recsys`` with these arguments to its end and say what it took.

    Raises:
        StepFailed: if it does not end with exit code 0.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*_COMMAND, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    marks: list[tuple[str, float]] = []
    try:
        assert process.stderr is not None
        tell(name, 0, 0)
        for line in process.stderr:
            said.append(line)
            if line.startswith("  … "):
                marks.append((line.strip(" …\n"), time.perf_counter()))
                tell(f"{name}: {marks[-1][0]}", 0, 0)
        # wait4 rather than Popen.wait: it alone gives the usage of this child and no other.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        _stop(process)
        raise
    finally:
        if process.stderr is not None:
            process.stderr.close()
    ended = time.perf_counter()
    if process.returncode != 0:
        raise StepFailed(f"recsys {' '.join(arguments)} ended with {process.returncode}:\n{''.join(said)[-2000:]}")
    stages: dict[str, float] = {}
    for (stage, start), (_, end) in itertools.pairwise([*marks, ("", ended)]):
        stages[stage] = stages.get(stage, 0.0) + end - start
    return StepCost(ended - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _MAXRSS_UNIT, stages)


def _stop(process: subprocess.Popen[str]) -> None:
    """Let an interrupted step clean up as it does at Ctrl-C, and end it if it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _temporary_home(settings: Settings, scratch: Path | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """A home with nothing but the Feast definitions, and the environment in which ``recsys`` uses it."""
    from recsys_plugin.runtime.services import Services

    home = Path(tempfile.mkdtemp(prefix="recsys-bench-", dir=scratch))
    try:
        shutil.copytree(
            settings.feature_repo, home / "feature_repo", ignore=shutil.ignore_patterns("data", "__pycache__")
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
        environment = {**kept, "RECSYS_HOME": str(home), "COLUMNS": "200"}
        yield home, environment
    finally:
        # A step that was killed may have left its Redis behind.
        Services(Settings(home=home)).redis.stop()
        shutil.rmtree(home, ignore_errors=True)
