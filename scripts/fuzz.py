"""Fuzz every public entry point: so many cases, a seed, and what came of them, entry point by entry point.

    .venv/bin/python scripts/fuzz.py --cases 200000 --seed 1
    .venv/bin/python scripts/fuzz.py --only Event --only Recommender --cases 20000
    .venv/bin/python scripts/fuzz.py --engine atheris --only codec.decode_value --cases 100000

The cases are those of tests/fuzz. Hypothesis makes them; with ``--engine atheris`` it is libFuzzer that does, guided
by which lines a case reaches (``pip install atheris``), one entry point at a time. Clients ask the tiny shop of
the tests, on servers that are started for it. Ends with 1 if a case failed, and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("fuzz", "client", ""))]

from fuzz_clients import client_targets  # noqa: E402
from fuzz_targets import PURE_TARGETS, FuzzTarget  # noqa: E402
from fuzz_values import KEY  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from recsys_plugin import AsyncRecommender, Recommender  # noqa: E402
from recsys_plugin.runtime.processes import termination_as_interrupt  # noqa: E402

#: Cases of one run of hypothesis: it remembers all of a run.
_AT_ONCE = 2_000
_PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
_TIMEOUT = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200_000, help="how many, over all entry points")
    parser.add_argument("--seed", type=int, default=0, help="fixes the cases")
    parser.add_argument("--only", action="append", default=[], help="an entry point; may be given several times")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--json", dest="report", type=Path, help="write counts and failures as JSON")
    options = parser.parse_args(arguments)
    logging.getLogger("recsys_plugin").setLevel(logging.CRITICAL)
    with termination_as_interrupt(), targets(options.only) as chosen:
        if not chosen:
            parser.error(f"--only: none of {', '.join(options.only)} is an entry point")
        if options.engine == "atheris":
            return fuzz_with_atheris(chosen[0], options.cases, options.seed)
        total = sum(target.share for target in chosen)
        found: dict[str, dict[str, Any]] = {}
        for target in chosen:
            cases = -(-options.cases * target.share // total)
            found[target.name] = fuzz(target, cases, options.seed)
            line = found[target.name]
            print(
                f"{target.name:40} {line['cases']:>8,} cases  {line['seconds']:>7.1f} s  "
                f"{'FAILED' if line['failure'] else 'ok'}",
                flush=True,
            )
    failed = [name for name, line in found.items() if line["failure"]]
    counted = sum(line["cases"] for line in found.values())
    print(f"{counted:,} cases of {len(found)} entry points, seed {options.seed}: {len(failed)} failed")
    for name in failed:
        print(f"\n--- {name}\n{found[name]['failure']}")
    if options.report is not None:
        options.report.write_text(json.dumps({"cases": counted, "seed": options.seed, "targets": found}, indent=2))
    return 1 if failed else 0


def fuzz(target: FuzzTarget, cases: int, first_seed: int) -> dict[str, Any]:
    """Run so many cases, or up to the first that fails; how many were run, how long it took, and what failed."""
    began, count, failure = time.monotonic(), 0, None

    def counted(value: Any) -> None:
        nonlocal count
        count += 1
        target.check(value)

    for number in range(-(-cases // _AT_ONCE)):
        before = count
        run = settings(
            max_examples=min(_AT_ONCE, cases - count),
            deadline=None,
            database=None,
            phases=_PHASES,
            suppress_health_check=list(HealthCheck),
        )(given(target.values)(counted))
        try:
            seed(first_seed + number)(run)()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = "".join(traceback.format_exception(error))
            break
        if count == before or count >= cases:
            break
    return {"cases": count, "seconds": round(time.monotonic() - began, 1), "failure": failure}


def fuzz_with_atheris(target: FuzzTarget, cases: int, first_seed: int) -> int:
    """Hand one entry point to libFuzzer, which ends the process itself."""
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    test = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))(
        given(target.values)(target.check)
    )
    one_input: Callable[[bytes], Any] = test.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    for function in functions_of_package():
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], f"-runs={cases}", f"-seed={first_seed or 1}", "-max_len=4096"], one_input)
    atheris.Fuzz()
    return 0


def functions_of_package() -> Iterator[Any]:
    """All functions and methods of this package that are loaded: those whose lines guide the search."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "recsys_plugin":
            continue
        for found in list(vars(module).values()):
            if getattr(found, "__module__", None) == name:
                inner = vars(found).values() if inspect.isclass(found) else (found,)
                yield from (each for each in inner if inspect.isfunction(each))


@contextmanager
def targets(only: Sequence[str]) -> Iterator[list[FuzzTarget]]:
    """The entry points that were asked for, all if none was; servers run only if they are needed."""
    pure = [target for target in PURE_TARGETS if not only or target.name in only]
    with ExitStack() as stack:
        if only and len(pure) == len(set(only)):
            yield pure
            return
        clients = stack.enter_context(served())
        yield pure + [target for target in clients if not only or target.name in only]


@contextmanager
def served() -> Iterator[tuple[FuzzTarget, ...]]:
    """Both clients on a tiny shop of their own."""
    from tiny_servers import serve_in
    from tiny_shop import NOW

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-fuzz-")))
        state, models = folder / "state", folder / "models"
        state.mkdir()
        models.mkdir()
        shop = stack.enter_context(serve_in(state, models))
        options: dict[str, Any] = {"timeout": _TIMEOUT, "clock": lambda: NOW, "pseudonym_key": KEY}
        client = stack.enter_context(Recommender(shop.redis_url, shop.triton_url, **options))
        runner = stack.enter_context(asyncio.Runner())
        awaiting = AsyncRecommender(shop.redis_url, shop.triton_url, refresh_every=None, follow_items=False, **options)
        stack.callback(lambda: runner.run(awaiting.close()))
        yield client_targets(client, awaiting, runner)


if __name__ == "__main__":
    sys.exit(main())
