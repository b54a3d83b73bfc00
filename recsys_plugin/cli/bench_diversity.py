"""``recsys bench diversity``: what unlike pages cost in NDCG, and what they bring."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["diversity"]

_STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


@click.command()
@click.option(
    "--strength",
    "strengths",
    type=click.FloatRange(0.0, 1.0),
    multiple=True,
    default=_STRENGTHS,
    show_default=True,
    help="How unlike the items of a page are to be; several times. 0, the best items, is always among them.",
)
@click.option(
    "--users", type=click.IntRange(min=1), default=2000, show_default=True, help="Users of the test, at most."
)
@click.option("--pool", type=click.IntRange(2, 1000), default=100, show_default=True, help="Best candidates of a user.")
@click.option("--k", type=click.IntRange(2, 100), default=20, show_default=True, help="Items on a page.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the curve: .png, .svg or .pdf.")
def diversity(
    strengths: tuple[float, ...], users: int, pool: int, k: int, target: str | None, plot: Path | None
) -> None:
    """Re-rank pages of the test's users by MMR and DPP, stronger and stronger: distance and categories against NDCG.

    Works with the trained models and needs no server; the purchases after the split are the truth.

    \b
    Examples:
      recsys bench diversity --plot diversity.png
      recsys bench diversity --strength 0.2 --strength 0.4 --json diversity.json
      recsys bench diversity --users 200 --k 10
    """
    from recsys_plugin.bench.diversity import draw_curves, measure_diversity
    from recsys_plugin.bench.plot import check_plot
    from recsys_plugin.cli.bench import check_target, write_report

    check_target(target)
    if plot is not None:
        check_plot(plot)
    with reporter() as tell:
        report, curves = measure_diversity(
            Settings.from_environment(), strengths=strengths, users=users, pool=pool, k=k, tell=tell
        )
    if plot is not None:
        draw_curves(plot, curves, k)
    write_report(report, target)
