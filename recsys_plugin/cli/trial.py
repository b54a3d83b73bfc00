"""``recsys trial``: trying a model version on live traffic, and what came of it."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.errors import CheckFailed, ConfigurationError
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.runtime.versions import ModelVersions
    from recsys_plugin.trials.operations import Trials
    from recsys_plugin.trials.trial import Trial

__all__ = ["promote", "report", "share", "start", "status", "stop", "trial", "watch"]

_SHARE = click.FloatRange(0.0, 1.0)


@click.group()
def trial() -> None:
    """Try a model version on live traffic; a worse one is taken back by itself.

    \b
    The usual way:
      recsys models load                        beside the version that serves
      recsys trial start --candidate 2 --shadow --share 0.1
                                                asked for a tenth of the requests; no user sees its pages
      recsys trial stop
      recsys trial start --candidate 2 --share 0.05
                                                a twentieth of the users gets it, always the same ones
      recsys trial share 0.2                    those and further ones
      recsys trial report --plot trial.png
      recsys trial promote                      it serves everybody, and the trial is over
    """


@trial.command()
@click.option("--candidate", type=click.IntRange(min=1), required=True, help="The version to try; it must be loaded.")
@click.option("--share", type=_SHARE, default=0.05, show_default=True,
              help="Of the users who get it; with --shadow, of the requests that it is asked too.")  # fmt: skip
@click.option("--shadow", is_flag=True, help="Serve nobody from it: ask it beside the requests, and compare.")
@click.option("--salt", help="Draws the users; that of an earlier trial draws the same ones first. Default: random.")
@click.option("--most-errors", type=_SHARE, default=0.01, show_default=True,
              help="Most by which its error rate, or that of empty pages, may exceed the control's.")  # fmt: skip
@click.option("--most-latency", type=click.FloatRange(min=1.0), default=2.0, show_default=True,
              help="Most by which its 95th percentile of latency may exceed the control's, as a factor.")  # fmt: skip
@click.option("--most-drift", type=click.FloatRange(min=0.0), default=0.25, show_default=True,
              help="Largest population stability index between the scores of both.")  # fmt: skip
@click.option("--ignore", multiple=True, type=click.Choice(["errors", "latency", "drift"]),
              help="Turn a check off, such as drift for a model whose scores have another scale.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.01,
              show_default=True, help="Chance that a version within all thresholds is taken back.")  # fmt: skip
@json_option
def start(
    candidate: int,
    share: float,
    shadow: bool,
    salt: str | None,
    most_errors: float,
    most_latency: float,
    most_drift: float,
    ignore: tuple[str, ...],
    alpha: float,
    as_json: bool,
) -> None:
    """Begin a trial of a loaded version against the one that serves.

    The version that serves is promoted, if it served only because it is the newest, so that it goes on serving.

    \b
    Examples:
      recsys trial start --candidate 2
      recsys trial start --candidate 2 --share 0.2 --shadow
      recsys trial start --candidate 2 --most-latency 1.5 --ignore drift
    """
    from recsys_plugin.trials.trial import CANARY, SHADOW, Thresholds

    versions = _versions()
    found = versions.list()
    serving = next((version for version in found if version.serves), None)
    ready = [version.version for version in found if version.ready]
    if serving is None or candidate not in ready:
        raise ConfigurationError(
            f"Triton does not serve version {candidate}; it has {', '.join(map(str, ready)) or 'none'}. "
            "Run `recsys models load` first"
        )
    thresholds = Thresholds(
        None if "errors" in ignore else most_errors,
        None if "latency" in ignore else most_latency,
        None if "drift" in ignore else most_drift,
        alpha,
    )
    with _trials() as trials:
        running = trials.read()
        if not serving.promoted and candidate != serving.version and (running is None or not running.running):
            versions.promote(serving.version)
        begun = trials.start(
            control=serving.version,
            candidate=candidate,
            share=share,
            salt=salt or secrets.token_hex(8),
            mode=SHADOW if shadow else CANARY,
            thresholds=thresholds,
        )
    _say(begun, as_json, then="recsys trial watch")


@trial.command()
@click.argument("share", type=_SHARE)
@json_option
def share(share: float, as_json: bool) -> None:
    """Let another SHARE of the users, from 0 to 1, get the candidate; with a larger one nobody changes back.

    \b
    Example:
      recsys trial share 0.2
    """
    with _trials() as trials:
        _say(trials.set_share(share), as_json, then="recsys trial watch")


@trial.command()
@click.option("--history", is_flag=True, help="Show the trials that ended, too.")
@json_option
def status(history: bool, as_json: bool) -> None:
    """Show the latest trial.

    \b
    Examples:
      recsys trial status
      recsys trial status --history --json
    """
    with _trials() as trials:
        latest = trials.read()
        before = trials.history() if history else []
    if as_json:
        emit_json(
            {
                "trial": None if latest is None else latest.to_dict(),
                **({"history": [ended.to_dict() for ended in before]} if history else {}),
            }
        )
    for ended in before:
        console.print(escape(_sentence(ended)), highlight=False, soft_wrap=True)
    finish("no trial was started yet" if latest is None else _sentence(latest))


@trial.command()
@click.option("--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks.")
@json_option
def watch(every: float, as_json: bool) -> None:
    """Look after the trial until it ends; exit code 3 if the candidate was taken back.

    It need not run: every client does the same beside its requests.

    \b
    Examples:
      recsys trial watch
      recsys trial watch && echo promoted or stopped
    """
    token = secrets.token_hex(8)
    with _trials() as trials, console.status("waiting for requests") as spinner:
        while True:
            now = trials.look_after(token)
            if now is None:
                raise ConfigurationError("there is no trial to watch; see `recsys trial start --help`")
            if not now.running:
                break
            counts = trials.counts(now)[-1]
            arms = ", ".join(
                f"{arm} {found.requests:,} requests, {found.errors:,} errors" for arm, found in counts.items()
            )
            spinner.update(escape(f"{_sentence(now)}: {arms}"))
            time.sleep(every)
    if as_json:
        emit_json(now.to_dict())
    if now.status == "rolled back":
        raise CheckFailed(_sentence(now))
    finish(_sentence(now), then="recsys trial report")


@trial.command()
@click.option("--trial", "trial_id", help="Of an earlier trial, as `recsys trial status --history` names it.")
@click.option("--outcomes", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Table of impressions with their outcomes; by default what `recsys events join` wrote.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.05,
              show_default=True, help="Chance that an interval is ever wrong, however often you look.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything to a file."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it over time (png, svg or pdf).")
def report(
    trial_id: str | None, outcomes: Path | None, alpha: float, json_file: Path | None, plot: Path | None
) -> None:
    """Compare the arms of the latest trial: service, scores, and what users did with the pages.

    \b
    Examples:
      recsys trial report
      recsys trial report --json trial.json --plot trial.png
    """
    from recsys_plugin.bench.plot import check_plot
    from recsys_plugin.cli._trial_table import print_summary
    from recsys_plugin.trial_report.outcomes import outcomes_folder, read_pages
    from recsys_plugin.trial_report.plot import plot_trial
    from recsys_plugin.trial_report.summary import summarise

    if plot is not None:
        check_plot(plot)
    now = time.time()
    with _trials() as trials:
        found = trials.find(trial_id)
        phases, looks = trials.counts(found), trials.looks(found)
    folder = outcomes or outcomes_folder(Settings.from_environment().state)
    pages = None if folder is None else read_pages(folder, found, until=now)
    summary = summarise(found, phases, pages, now=now, alpha=alpha)
    print_summary(summary)
    if json_file is not None:
        json_file.write_text(json.dumps(summary.to_dict(), indent=2, allow_nan=False), encoding="utf-8")
    if plot is not None:
        plot_trial(plot, summary, looks)
    written = " and ".join(str(path) for path in (json_file, plot) if path is not None)
    then = "recsys events join" if pages is None else "recsys trial promote" if found.running else None
    finish(_sentence(found) + (f"; wrote {written}" if written else ""), then=then)


@trial.command()
@click.option("--force", is_flag=True, help="Remove the trial from Redis even if its document cannot be read.")
@click.option("--reason", default="by hand", show_default=True, help="Kept with the trial.")
@json_option
def stop(force: bool, reason: str, as_json: bool) -> None:
    """End the trial: everybody is served by the control.

    \b
    Examples:
      recsys trial stop
      recsys trial stop --reason "sale begins"
    """
    with _trials() as trials:
        if force:
            trials.remove()
            finish("there is no trial")
            return
        _say(trials.end("stopped", reason), as_json, then="recsys trial report")


@trial.command()
@json_option
def promote(as_json: bool) -> None:
    """End the trial and let the candidate serve everybody; `recsys models rollback` takes it back.

    \b
    Example:
      recsys trial promote
    """
    versions = _versions()
    with _trials() as trials:
        latest = trials.find(None)
        ready = [version.version for version in versions.list() if version.ready]
        if latest.running and latest.candidate not in ready:
            raise ConfigurationError(
                f"Triton does not serve version {latest.candidate} any more; see `recsys models list`"
            )
        # The trial ends first: with the candidate promoted it would count as interrupted.
        ended = trials.end("promoted", "by hand")
    versions.promote(ended.candidate)
    _say(ended, as_json, then="recsys models list")


def _trials() -> Trials:
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services
    from recsys_plugin.trials.operations import Trials

    return Trials(Services(Settings.from_environment()).redis_url, PROJECT)


def _versions() -> ModelVersions:
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services
    from recsys_plugin.runtime.versions import ModelVersions

    return ModelVersions(Services(Settings.from_environment()), PROJECT)


def _say(found: Trial, as_json: bool, *, then: str) -> None:
    if as_json:
        emit_json(found.to_dict())
    finish(_sentence(found), then=then)


def _sentence(found: Trial) -> str:
    """A trial in one line."""
    of = "requests" if found.mode == "shadow" else "users"
    said = (
        f"trial {found.trial_id}: version {found.candidate} against {found.control}, {found.mode}, "
        f"{found.share:.1%} of the {of}, {found.status}"
    )
    return said if found.reason is None else f"{said}: {found.reason}"
