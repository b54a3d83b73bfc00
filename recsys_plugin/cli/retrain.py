"""``recsys retrain`` and ``recsys refresh``: what keeps models and vectors up to date with the shop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.cli.data import merged_line
from recsys_plugin.pipeline.retrain import POLICIES, Refused, RetrainOptions
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.pipeline.retrain import Retrained

__all__ = ["comparison_table", "refresh", "retrain"]


@click.command()
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default=RetrainOptions().policy,
    show_default=True,
    help="What becomes of the new version. never: it is exported, and no more. better: it serves if it is shown not to "
    "be worse than the serving one by more than --margin, and is not even exported if it is worse. always: it serves.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    default=RetrainOptions().margin,
    show_default=True,
    help="A loss of NDCG@20 on the newest days that counts as none.",
)
@click.option("--no-merge", is_flag=True, help="Leave the tables as they are; archived events and pages are not added.")
@click.option(
    "--shown-pages",
    type=click.IntRange(0),
    default=RetrainOptions().shown_pages,
    show_default=True,
    help="Archived pages that the rankers learn from, at most; 0 for none.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 720),
    default=RetrainOptions().window,
    show_default=True,
    help="Hours after a page within which a click, cart or purchase is its outcome.",
)
@click.option("--cold", is_flag=True, help="Begin with random weights and train as long as `recsys train` does.")
@click.option("--force", is_flag=True, help="Run even if there is nothing new.")
@json_option
def retrain(
    policy: str,
    margin: float,
    no_merge: bool,
    shown_pages: int,
    window: int,
    cold: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Train on what is new, going on from the serving models; compare both on the newest days; export or promote.

    Archived live events (`recsys events archive`) are added to the tables, each once. Archived pages are joined with
    what came of them, and the rankers learn from those served before the validation and test days, which move with the
    newest event. What is trained is what `recsys train` and `recsys select` chose last. The report is
    .recsys/retraining/report.json. Exit code 3: the new models are worse, and the policy refused them; nothing was
    exported then. Safe to interrupt: the next run goes on.

    \b
    Examples:
      recsys retrain                             export a new version; `recsys models load` and `promote` it by hand
      recsys retrain --policy better             and let it serve if it is not worse
      recsys retrain --policy better --margin 0  and only if it is shown to be at least as good
      recsys retrain --cold --json | jq .comparison
    """
    options = RetrainOptions(
        policy=policy,
        margin=margin,
        merge=not no_merge,
        shown_pages=shown_pages,
        window=window,
        cold=cold,
        force=force,
    )
    from recsys_plugin.pipeline import retrain as step

    try:
        with reporter() as progress:
            found = step.retrain(Settings.from_environment(), options, progress, now=datetime.now(UTC))
    except Refused as refused:
        _show(refused.found, as_json)
        raise
    _show(found, as_json)
    said = "serves" if found.promoted else "is exported and does not serve"
    finish(
        f"version {found.version} {said}{' (nothing new)' if found.current else ''}: {_verdict(found)}",
        then="recsys models list" if found.promoted else "recsys models load && recsys models promote",
    )


def _verdict(found: Retrained) -> str:
    if found.verdict == "not compared":
        return "there was nothing to compare it with"
    return (
        f"{found.verdict} than version {found.serving}"
        if found.verdict != "undecided"
        else (f"too few users to tell it from version {found.serving}")
    )


def _show(found: Retrained, as_json: bool) -> None:
    if as_json:
        emit_json(found.document())
        return
    if found.merged is not None:
        console.print(f"  {merged_line(found.merged)}", highlight=False, soft_wrap=True)
    console.print(f"  {found.shown_pages:,} pages that were shown were learned from", highlight=False)
    for part, version in found.started_from.items():
        began = f"went on from version {version}" if version is not None else f"began anew: {found.cold.get(part)}"
        console.print(f"  {part} {began}", highlight=False, soft_wrap=True)
    if found.comparison:
        console.print(comparison_table(found))


def comparison_table(found: Retrained) -> Table:
    """Both versions on the newest days, with the confidence interval of the difference."""
    table = Table(
        title=f"{found.tested[0][:10]} to {found.tested[1][:10]}: new models against version {found.serving}",
        title_justify="left",
    )
    for name in ("", "figure", "serving", "new", "difference", "95 % interval", "users"):
        table.add_column(name, justify="left" if name in ("", "figure") else "right", no_wrap=True)
    for view, figures in found.comparison.items():
        for number, (figure, each) in enumerate(figures.items()):
            table.add_row(
                "" if number else view,
                figure,
                f"{each['serving']:.4f}",
                f"{each['new']:.4f}",
                f"{each['difference']:+.4f}",
                f"{each['low']:+.4f} to {each['high']:+.4f}",
                f"{each['users']:,}",
            )
    return table


@click.command()
@click.option("--no-merge", is_flag=True, help="Leave the tables as they are; archived live events are not added.")
@click.option(
    "--catalogue", is_flag=True, help="Also export the same weights over the present catalogue, as a new version."
)
@click.option("--force", is_flag=True, help="Compute every vector, not only what has changed.")
@json_option
def refresh(no_merge: bool, catalogue: bool, force: bool, as_json: bool) -> None:
    """Bring features and vectors up to date with the serving models, without training.

    Vectors are computed for users and items with new events or other texts, profiles or prices; the others keep theirs.
    The views go into Redis. Prices and statistics inside the models stay until a version is exported (--catalogue).

    \b
    Examples:
      recsys refresh
      recsys refresh --catalogue && recsys models load && recsys models promote
      recsys refresh --json | jq .users
    """
    from recsys_plugin.pipeline import refresh as step

    with reporter() as progress:
        made = step.refresh(
            Settings.from_environment(),
            progress,
            now=datetime.now(UTC),
            merge=not no_merge,
            catalogue=catalogue,
            force=force,
        )
    if as_json:
        emit_json(made)
    said = (
        f"{made['added']:,} live events added; vectors of {made['users']:,} of {made['all_users']:,} users and "
        f"{made['items']:,} of {made['all_items']:,} items computed by version {made['serving']}, "
        f"{made['texts']:,} texts encoded"
    )
    if made["version"] is None:
        finish(said)
    else:
        finish(f"{said}; version {made['version']} exported", then="recsys models load && recsys models promote")
