"""``recsys bench loop``: whether logging, exploring and retraining pays, in a shop whose click model is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from recsys_plugin.cli._output import console, finish, reporter
from recsys_plugin.errors import CheckFailed

if TYPE_CHECKING:
    from recsys_plugin.simulation.comparison import Comparison

__all__ = ["loop"]


@click.command()
@click.option("--rounds", type=click.IntRange(2, 100), default=12, show_default=True, help="Rounds served.")
@click.option("--seeds", type=click.IntRange(2, 100), default=5, show_default=True, help="Shops, one for each seed.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first of the seeds.")
@click.option("--visits", type=click.IntRange(50), default=1500, show_default=True, help="Pages served in a round.")
@click.option("--policy", "text", default="gumbel:0.2", show_default=True, help="How the loop explores.")
@click.option(
    "--foretell", "foretold", default="gumbel:0.1", show_default=True, help="Evaluated off-policy in the end."
)
@click.option("--json", "target", metavar="FILE", help="Write the figures as JSON; - is standard output.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the curves: .png, .svg or .pdf.")
def loop(
    rounds: int,
    seeds: int,
    seed: int,
    visits: int,
    text: str,
    foretold: str,
    target: str | None,
    plot: Path | None,
) -> None:
    """A simulated shop: the model kept as it is, against serve, log and retrain with and without exploration.

    Users, items and clicks are drawn from a known model; items come and go. Exit code 3 if the loop that explores was
    not ahead of the frozen model in the last round with every seed. Needs no server; about a minute of processor
    time a seed.

    \b
    Examples:
      recsys bench loop --json loop.json --plot loop.png
      recsys bench loop --rounds 20 --policy epsilon:0.05
      recsys bench loop --seeds 2 --rounds 4 --visits 300
    """
    from recsys_plugin.bench.plot import check_plot
    from recsys_plugin.cli.bench import check_target
    from recsys_plugin.pipeline.workspace import atomic_text
    from recsys_plugin.policy.exploration_settings import parse_exploration
    from recsys_plugin.simulation.comparison import compare_arms, document
    from recsys_plugin.simulation.loop import LoopOptions
    from recsys_plugin.simulation.picture import draw_loop
    from recsys_plugin.simulation.shop import ShopOptions

    check_target(target)
    if plot is not None:
        check_plot(plot)
    policy, evaluated = parse_exploration(text), parse_exploration(foretold)
    options = LoopOptions(rounds=rounds, visits=visits)
    with reporter() as tell:
        found = compare_arms(range(seed, seed + seeds), policy, options, ShopOptions(), foretell=evaluated, tell=tell)
    settings = {"rounds": rounds, "visits": visits, "policy": policy.name, "model": options.model}
    written = json.dumps(document(found, settings), indent=2, allow_nan=False)
    if target == "-":
        click.echo(written)
    elif target is not None:
        atomic_text(Path(target), written + "\n")
    if plot is not None:
        draw_loop(plot, found, policy=policy.name)
    printer = console if target == "-" else Console()
    for table in _tables(found):
        printer.print(table)
    first = found.ahead_from()
    if first is None:
        raise CheckFailed(f"the loop was not ahead of the frozen model in round {rounds} with every seed")
    finish(f"ahead of the frozen model from round {first} on with each of {seeds} seeds")


def _tables(found: Comparison) -> list[Table]:
    from recsys_plugin.simulation.comparison import BASELINE, GREEDY, LOOP, mean_of

    rounds = found.rates[LOOP].shape[1]
    rates = Table(title="Clicks for each item shown, mean of the seeds", title_justify="left")
    rates.add_column("round", justify="right")
    for name in (BASELINE, GREEDY, LOOP, "loop - frozen, 95 %", "seeds ahead"):
        rates.add_column(name, justify="right")
    for number in range(rounds):
        lead = found.lead()[:, number]
        mean = mean_of(lead)
        rates.add_row(
            str(number + 1),
            *(f"{found.rates[name][:, number].mean():.2%}" for name in (BASELINE, GREEDY, LOOP)),
            f"{100 * mean.value:+.2f} [{100 * mean.low:+.2f}, {100 * mean.high:+.2f}]",
            f"{(lead > 0).sum()} of {len(lead)}",
        )
    told = Table(
        title=f"Off-policy: {found.foretold[0].policy}, from the loop's last round, 95 %", title_justify="left"
    )
    for name in ("seed", "truth", *(each.estimator for each in found.foretold[0].estimates)):
        told.add_column(name, justify="right")
    for each in found.foretold:
        cells = (f"{100 * one.value:.2f} ± {50 * (one.high - one.low):.2f}" for one in each.estimates)
        told.add_row(str(each.seed), f"{100 * each.truth:.2f}", *cells)
    return [rates, told]
