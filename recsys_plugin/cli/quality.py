"""``recsys bench quality``: how good the recommendations are, beside published figures and strong baselines."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from recsys_plugin.cli._output import console, finish, reporter
from recsys_plugin.errors import CheckFailed, InvalidInput, StepFailed
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.quality import SUITES
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.quality.report import QualityReport

__all__ = ["load_suite", "quality", "suite_options"]

#: Parameters of every suite's ``run``; any other keyword is an option of that suite alone.
_COMMON = ("data", "seeds", "tell")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--suite", type=click.Choice(list(SUITES)), required=True, help="Which public benchmark to run.")
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repeat with so many seeds, from 0 on."
)
@click.option("--seed", "chosen", type=click.IntRange(0), multiple=True, help="Use this seed instead; may be repeated.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the public data sets; default RECSYS_DATA.",
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
@click.option("--check", is_flag=True, help="End with exit code 3 if a target is missed.")
@click.pass_context
def quality(
    context: click.Context,
    suite: str,
    seeds: int,
    chosen: tuple[int, ...],
    data: Path | None,
    target: str | None,
    check: bool,
) -> None:
    """Train on public data and rank as published work did: our figures beside published ones and strong baselines.

    The figures are means over seeds, with their standard deviation; what was published carries its source, and all
    else is computed in the same run. A suite's own options are given as --name value; a wrong name lists them.

    \b
    Examples:
      recsys bench quality --suite beauty
      recsys bench quality --suite beauty --seed 7 --epochs 2
      recsys bench quality --suite search --seeds 5 --json search.json
      recsys bench quality --suite movielens --check
    """
    if target not in (None, "-") and not Path(target).resolve().parent.is_dir():
        raise InvalidInput(f"--json {target}: the folder {Path(target).resolve().parent} does not exist")
    run = load_suite(suite)
    options = suite_options(run, context.args, suite=suite)
    folder = data.resolve() if data is not None else Settings.from_environment().data
    with reporter() as tell:
        report = run(folder, seeds=tuple(dict.fromkeys(chosen)) or tuple(range(seeds)), tell=tell, **options)
    _write(report, target)
    if check and report.missed:
        missed = "; ".join(f"{one.text}: reached {one.reached:.4f}" for one in report.missed)
        raise CheckFailed(f"suite {suite} missed {len(report.missed)} of {len(report.targets)} targets: {missed}")


def load_suite(suite: str) -> Callable[..., QualityReport]:
    """The ``run`` of a suite.

    Raises:
        StepFailed: if a package that the suite needs is not installed.
    """
    try:
        module = importlib.import_module(SUITES[suite])
    except ModuleNotFoundError as error:
        raise StepFailed(
            f"suite {suite} needs {error.name}: pip install 'recsys-plugin[pipeline,quality,multilingual]'"
        ) from error
    run = module.run
    assert callable(run)
    return typing.cast("Callable[..., QualityReport]", run)


def suite_options(run: Callable[..., QualityReport], given: Sequence[str], *, suite: str) -> dict[str, Any]:
    """Read ``--name value`` pairs as further keyword arguments of ``run``, of the types that it declares.

    Args:
        run: the suite. given: what the command line holds beyond the common options. suite: its name, for messages.

    Raises:
        InvalidInput: for an unknown name, a missing value or one of another type.
    """
    hints = typing.get_type_hints(run)
    own = [name for name in inspect.signature(run).parameters if name not in _COMMON]
    known = ", ".join(f"--{name.replace('_', '-')}" for name in own) or "none"
    options: dict[str, Any] = {}
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for position in range(0, len(words), 2):
        name = words[position].removeprefix("--").replace("-", "_")
        if not words[position].startswith("--") or name not in own:
            raise InvalidInput(f"suite {suite} has no option {words[position]!r}; its own options: {known}")
        if position + 1 == len(words):
            raise InvalidInput(f"option {words[position]!r} of suite {suite} needs a value")
        options[name] = _convert(words[position + 1], hints[name], name=words[position])
    return options


def _convert(text: str, hint: Any, *, name: str) -> Any:
    """Read a value of a declared type: int, float, str, bool or one of these or None."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in hint.__args__ if part is not types.NoneType)
    try:
        return _TRUTH[text.lower()] if hint is bool else hint(text)
    except (ValueError, KeyError) as error:
        raise InvalidInput(f"option {name!r} wants {hint.__name__}, not {text!r}") from error


def _write(report: QualityReport, target: str | None) -> None:
    if target == "-":
        click.echo(report.to_json())
    elif target is not None:
        atomic_text(Path(target), report.to_json() + "\n")
    (console if target == "-" else Console()).print(report.renderable())
    met = sum(one.met for one in report.targets)
    written = f"; report in {target}" if target not in (None, "-") else ""
    finish(f"suite {report.suite}: {met} of {len(report.targets)} targets met{written}")
