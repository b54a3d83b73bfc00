"""What every command shares: progress to standard error, one JSON document to standard output, a closing line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["console", "emit_json", "finish", "json_option", "progress_bar", "reporter"]

#: Everything for people goes here; standard output carries only the answer.
console = Console(stderr=True)

#: ``--json`` for commands that answer a question.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")


def emit_json(document: Any) -> None:
    """Print one JSON document on standard output; NaN is refused rather than printed."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False, default=str, ensure_ascii=False)
    sys.stdout.write("\n")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A rich progress display on standard error, for anything that may take longer than two seconds."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


@contextmanager
def reporter() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callable told what is under way, how much is done and of how much: one bar for each thing.

    Where standard error is not a terminal, each thing gets a line when it starts instead.
    """
    if not console.is_terminal:
        seen: set[str] = set()

        def tell(what: str, done: int, total: int) -> None:
            if what not in seen:
                seen.add(what)
                console.print(f"  … {escape(what)}" + (f" ({total:,})" if total else ""), highlight=False)

        yield tell
        return
    with progress_bar() as progress:
        tasks: dict[str, TaskID] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total or None)
            progress.update(tasks[what], completed=done, total=total or None)

        yield draw


def finish(made: str, *, then: str | None = None) -> None:
    """End a step: what it made, and what to run next."""
    console.print(f"[green]✓[/] {escape(made)}", highlight=False, soft_wrap=True)
    if then:
        console.print(f"  next: [bold]{escape(then)}[/]", highlight=False, soft_wrap=True)
