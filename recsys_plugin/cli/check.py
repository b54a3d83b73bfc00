"""``recsys check``: what should be equal, compared; exit code 3 where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.cli.ask import request_moment
from recsys_plugin.settings import Settings

__all__ = ["check", "drift", "replay", "skew"]

_Share = click.FloatRange(min=0.0, max=1.0)


@click.group()
def check() -> None:
    """Compare what is served with history, and today with training; exit code 3 where they differ."""


@check.command()
@click.option("--days", type=click.FloatRange(min=0.0, min_open=True), default=30.0, show_default=True,
              help="How much of history to replay, up to its end.")  # fmt: skip
@click.option("--moments", type=click.IntRange(1), default=10, show_default=True, help="How often to compare.")
@click.option("--users", type=click.IntRange(1), default=1000, show_default=True, help="Users to compare.")
@click.option("--items", type=click.IntRange(1), default=200, show_default=True, help="Items to compare.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes who is drawn.")
@json_option
def replay(days: float, moments: int, users: int, items: int, seed: int, as_json: bool) -> None:
    """Send history through the event stream and compare the live features with the training tables, bit for bit.

    It uses a Redis of its own and changes nothing. Run `recsys apply` before.

    \b
    Examples:
      recsys check replay
      recsys check replay --days 7 --users 200 --json
    """
    from recsys_plugin.checks import replay as replaying
    from recsys_plugin.data.store import load_dataset
    from recsys_plugin.pipeline.steps import PROJECT, require_feature_tables

    settings = Settings.from_environment()
    dataset = load_dataset(settings)
    tables = require_feature_tables(settings, dataset)
    with reporter() as tell:
        found = replaying.replay(
            dataset, tables, PROJECT, days=days, moments=moments, users=users, items=items, seed=seed, tell=tell
        )
    if as_json:
        emit_json(asdict(found))
    replaying.require_equal(found)
    finish(
        f"{found.rows:,} live rows of {found.users:,} users and {found.items:,} items at {found.moments} moments equal "
        f"history; {found.events:,} events were replayed"
    )


@check.command()
@click.option("--live", "live", type=click.IntRange(1), metavar="N",
              help="Read the features of N users from Redis now, instead of the archived impressions.")  # fmt: skip
@click.option("--days", type=click.FloatRange(min=0.0, min_open=True), default=7.0, show_default=True,
              help="Impressions of how many days before now.")  # fmt: skip
@click.option("--requests", type=click.IntRange(1), default=5000, show_default=True,
              help="Requests to compare, drawn beyond that.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes who is drawn.")
@click.option("--most-different", type=_Share, default=0.01, show_default=True,
              help="Share of requests that may differ in a feature.")  # fmt: skip
@click.option("--allow", "allowed", multiple=True, metavar="VIEW=SHARE",
              help="The same for the features of one view; repeatable.")  # fmt: skip
@click.option("--most-psi", type=click.FloatRange(min=0.0), default=0.25, show_default=True,
              help="PSI of served against joined values that fails.")  # fmt: skip
@click.option("--settle", type=click.FloatRange(min=0.0), default=1.0, show_default=True,
              help="Seconds that an event may take to reach the features.")  # fmt: skip
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for skew.json and skew.html; .recsys/checks without it.")  # fmt: skip
@json_option
def skew(
    live: int | None,
    days: float,
    requests: int,
    seed: int,
    most_different: float,
    allowed: tuple[str, ...],
    most_psi: float,
    settle: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare features as served with the point-in-time join that training uses, for the same users and moments.

    It reads the impressions that `recsys events archive` wrote, or with --live the store itself, and changes nothing.

    \b
    Examples:
      recsys check skew
      recsys check skew --live 1000
      recsys check skew --days 1 --allow user_statistics=0.1 --json
    """
    from recsys_plugin.checks import skew_run
    from recsys_plugin.checks.skew import SkewLimits, require_no_skew
    from recsys_plugin.report.checks import skew_page

    settings = Settings.from_environment()
    limits = SkewLimits(most_different, _shares_by_view(allowed), most_psi)
    now = request_moment(settings) or datetime.now(UTC)
    with reporter() as tell:
        if live is None:
            found, source = skew_run.logged_skew(
                settings,
                since=now - timedelta(days=days),
                until=now,
                most=requests,
                seed=seed,
                settle=settle,
                tell=tell,
            )
        else:
            found, source = skew_run.live_skew(settings, moment=now, users=live, seed=seed, tell=tell)
    document = found.document(limits, source=source, moment=now.isoformat())
    told = _write(output or settings.state / "checks", "skew", document, skew_page(document))
    if as_json:
        emit_json(document)
    for reason, count in document["skipped"].items():
        console.print(f"  not compared, {count:,}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"  report: {told}", highlight=False, soft_wrap=True)
    require_no_skew(document)
    finish(
        f"{len(document['features'])} features of {document['compared']:,} requests are as history says, within "
        f"the limits; {source}"
    )


@check.command()
@click.option("--history", "history", is_flag=True,
              help="Compare the newest acts in the tables, instead of the archived impressions.")  # fmt: skip
@click.option("--days", type=click.FloatRange(min=0.0, min_open=True), default=7.0, show_default=True,
              help="How many days before now.")  # fmt: skip
@click.option("--requests", type=click.IntRange(1), default=5000, show_default=True,
              help="Requests to compare, drawn beyond that.")  # fmt: skip
@click.option("--version", "version", type=click.IntRange(1),
              help="Model version; the promoted one, else the newest, without it.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes what is drawn.")
@click.option("--warn", type=click.FloatRange(min=0.0, min_open=True), default=0.1, show_default=True,
              help="PSI that warns.")  # fmt: skip
@click.option("--fail", "fail", type=click.FloatRange(min=0.0, min_open=True), default=0.25, show_default=True,
              help="PSI that fails.")  # fmt: skip
@click.option("--most-ece", type=_Share, default=0.05, show_default=True,
              help="Expected calibration error of served scores that fails beyond.")  # fmt: skip
@click.option("--most-ratio", type=click.FloatRange(min=1.0, min_open=True), default=2.0, show_default=True,
              help="Outcomes may be so many times as frequent as predicted, or less.")  # fmt: skip
@click.option("--ignore", "ignored", multiple=True, metavar="FEATURE",
              help="Tell of this feature without judging it; repeatable.")  # fmt: skip
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for drift.json and drift.html; .recsys/checks without it.")  # fmt: skip
@json_option
def drift(
    history: bool,
    days: float,
    requests: int,
    version: int | None,
    seed: int,
    warn: float,
    fail: float,
    most_ece: float,
    most_ratio: float,
    ignored: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare today's features, scores and calibration with those that the serving model was trained on.

    Today is what `recsys events archive` wrote, or with --history the newest acts in the tables. Changes nothing.

    \b
    Examples:
      recsys check drift
      recsys check drift --history --days 28
      recsys check drift --ignore user_statistics:last_purchase_at --json
    """
    from recsys_plugin.checks import drift_run
    from recsys_plugin.checks.drift import DriftLimits, require_no_drift
    from recsys_plugin.report.checks import drift_page

    settings = Settings.from_environment()
    limits = DriftLimits(warn, fail, most_ece, most_ratio, frozenset(ignored))
    chosen = drift_run.serving_version(settings) if version is None else version
    now = request_moment(settings) or datetime.now(UTC)
    with reporter() as tell:
        if history:
            document = drift_run.drift_of_history(
                settings, limits, version=chosen, days=days, most=requests, seed=seed, tell=tell
            )
        else:
            document = drift_run.drift_of_impressions(
                settings,
                limits,
                version=chosen,
                since=now - timedelta(days=days),
                until=now,
                most=requests,
                seed=seed,
                tell=tell,
            )
    told = _write(output or settings.state / "checks", "drift", document, drift_page(document))
    if as_json:
        emit_json(document)
    for what, reason in document["warned"].items():
        console.print(f"  [yellow]warning[/] {escape(f'{what}: {reason}')}", highlight=False, soft_wrap=True)
    console.print(f"  report: {told}", highlight=False, soft_wrap=True)
    require_no_drift(document)
    finish(
        f"{len(document['features'])} features of {document['requests']:,} requests are near training; "
        f"{document['source']}"
    )


def _shares_by_view(allowed: tuple[str, ...]) -> dict[str, float]:
    shares = {}
    for text in allowed:
        view, _, share = text.partition("=")
        try:
            shares[view] = float(share)
        except ValueError:
            shares[view] = -1.0
        if not view or not 0.0 <= shares[view] <= 1.0:
            raise click.BadParameter(f"{text!r} is not VIEW=SHARE such as user_statistics=0.1", param_hint="--allow")
    return shares


def _write(folder: Path, name: str, document: Mapping[str, Any], page: str) -> Path:
    """Both files of a report; the path of the page."""
    import json

    from recsys_plugin.pipeline.workspace import atomic_text

    atomic_text(folder / f"{name}.json", json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))
    atomic_text(folder / f"{name}.html", page)
    return (folder / f"{name}.html").resolve()
