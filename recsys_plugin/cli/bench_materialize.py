"""``recsys bench materialize``: how fast rows get into Redis, ours against stock Feast."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import InvalidInput

__all__ = ["materialize"]


@click.command()
@click.option(
    "--rows", type=click.IntRange(min=1), default=50_000, show_default=True, help="Entities of the generated table."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often each way loads everything."
)
@click.option(
    "--sample", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows compared in each view."
)
@click.option(
    "--pushes",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Single rows written; stock Feast, which is slow, gets a tenth.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes table, sample and order of calls."
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def materialize(rows: int, rounds: int, sample: int, pushes: int, seed: int, target: str | None) -> None:
    """Feature tables into Redis: ours against `FeatureStore.materialize`, and single rows against its pushes.

    A generated table has a column of every type; the shop's own tables take part where they have been applied. Both
    ways load them in turn into a Redis of their own, which is started and stopped. Afterwards get_online_features must
    return the same from both (exit code 3 if it does not).

    \b
    Examples:
      recsys bench materialize
      recsys bench materialize --rows 200000 --rounds 2 --json report.json
    """
    from recsys_plugin.bench.materialize import measure_materialize
    from recsys_plugin.cli.bench import write_report
    from recsys_plugin.settings import Settings

    if target not in (None, "-") and not Path(target).resolve().parent.is_dir():
        raise InvalidInput(f"--json {target}: the folder {Path(target).resolve().parent} does not exist")
    with reporter() as tell:
        report = measure_materialize(
            Settings.from_environment(),
            rows=rows,
            rounds=rounds,
            sample=sample,
            pushes=pushes,
            seed=seed,
            tell=tell,
        )
    write_report(report, target)
