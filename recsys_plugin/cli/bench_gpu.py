"""``recsys bench gpu``: the ranking stage on a GPU against the CPU."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.errors import InvalidInput

__all__ = ["gpu"]


@click.command()
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    show_default=True,
    help="cpu measures the baseline alone; cuda without a GPU is refused with exit code 2.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    help="An exported model repository, whose newest `rank` is run; without it one is generated.",
)
@click.option("--items", type=click.IntRange(min=1), default=50_000, show_default=True, help="Of what is generated.")
@click.option("--calls", type=click.IntRange(min=1), default=500, show_default=True, help="Of each way and size.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and requests.")
@click.option("--compile", "compiled", is_flag=True, help="Measure torch.compile too; takes minutes.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def gpu(
    device: str, repository: Path | None, items: int, calls: int, seed: int, compiled: bool, target: str | None
) -> None:
    """The ranking stage alone, for 128, 512 and 2,048 candidates, on a GPU and on the CPU in turn.

    Needs no server, no network and no trained shop. On a machine without this package's dependencies,
    `bash scripts/bench_gpu.sh` in the checkout runs the same with PyTorch or onnxruntime alone.

    \b
    Examples:
      recsys bench gpu --json gpu.json
      recsys bench gpu --repository model_repository
      recsys bench gpu --device cpu
    """
    from recsys_plugin.bench.gpu import GpuOptions, measure_gpu, show
    from recsys_plugin.cli._output import finish, reporter
    from recsys_plugin.pipeline.workspace import atomic_text

    if target not in (None, "-") and not Path(target).resolve().parent.is_dir():
        raise InvalidInput(f"--json {target}: the folder {Path(target).resolve().parent} does not exist")
    options = GpuOptions(device, repository, items=items, calls=calls, seed=seed, compiled=compiled)
    with reporter() as tell:
        found = measure_gpu(options, tell)
    if target == "-":
        click.echo(found.to_json())
    elif target is not None:
        atomic_text(Path(target), found.to_json() + "\n")
    for line in show(found):
        click.echo(line, err=target == "-")
    finish(f"{len(found.figures)} figures")
