"""``recsys models``: which version serves, and changing that while requests go on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.runtime.versions import ModelVersion, ModelVersions

__all__ = ["follow", "list_versions", "load", "models", "promote", "rollback", "verify"]


@click.group()
def models() -> None:
    """List, load, promote and roll back versions of the models, without a failed request.

    \b
    The usual way of a new version:
      recsys export
      recsys models load        beside the one that serves; checked with known answers
      recsys models promote     clients take it up within a second
      recsys models rollback    and back, if need be
      recsys models follow      whatever is newest serves, as in the beginning
    """


@models.command("list")
@json_option
def list_versions(as_json: bool) -> None:
    """Show every version on disk and in Triton, and which one serves.

    \b
    Examples:
      recsys models list
      recsys models list --json | jq '.versions[] | select(.serves).version'
    """
    found = _versions().list()
    if as_json:
        emit_json({"versions": [asdict(version) for version in found]})
    else:
        console.print(_table(found))
    serving = next((version.version for version in found if version.serves), None)
    finish("no version serves" if serving is None else f"version {serving} serves")


@models.command()
@json_option
def load(as_json: bool) -> None:
    """Load the newest export into Triton; the version that serves goes on serving.

    \b
    Example:
      recsys models load
    """
    with console.status("loading") as spinner:
        found = _versions().load(lambda text: spinner.update(escape(text)))
    _done(found, f"version {found.version} is loaded, its known answers are right", as_json, "recsys models promote")


@models.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@json_option
def promote(version: int | None, as_json: bool) -> None:
    """Let a loaded VERSION serve, the newest by default.

    \b
    Examples:
      recsys models promote
      recsys models promote 7
    """
    found = _versions().promote(version)
    _done(found, f"version {found.version} serves", as_json, "recsys models list")


@models.command()
@json_option
def rollback(as_json: bool) -> None:
    """Let the version serve that did before; it is still loaded, so this takes a second.

    \b
    Example:
      recsys models rollback
    """
    found = _versions().rollback()
    _done(found, f"version {found.version} serves again", as_json, "recsys models list")


@models.command()
@json_option
def follow(as_json: bool) -> None:
    """Forget what was promoted: the newest version serves, as it does before anything was promoted.

    \b
    Example:
      recsys models follow
    """
    found = _versions().follow()
    if as_json:
        emit_json(None if found is None else asdict(found))
    finish("the newest version serves" + ("" if found is None else f": {found.version}"), then="recsys models list")


@models.command()
@json_option
def verify(as_json: bool) -> None:
    """Check every file of the models on disk against what was exported; no server is needed.

    With RECSYS_MODEL_KEY (or RECSYS_MODEL_KEY_FILE) the manifests must also be signed by that key, as `recsys export`
    does it when the key is set. `recsys up`, `models load` and `models promote` check the same. If a file differs,
    its name is printed and the exit code is 3.

    \b
    Examples:
      recsys models verify
      RECSYS_MODEL_KEY_FILE=/run/secrets/model_key recsys models verify --json
    """
    with console.status("reading the models"):
        checked = _versions().verify()
    if as_json:
        emit_json({"versions": [asdict(version) for version in checked]})
    if any(not version.manifested for version in checked):
        finish("exported before there were manifests, so nothing was checked", then="recsys export")
        return
    files, numbers = sum(version.files for version in checked), ", ".join(str(version.version) for version in checked)
    signed = (
        "signed" if all(version.signed for version in checked) else "not checked for a signature: no RECSYS_MODEL_KEY"
    )
    finish(f"{files} files of versions {numbers or 'none'} are what was exported; {signed}")


def _versions() -> ModelVersions:
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services
    from recsys_plugin.runtime.versions import ModelVersions

    return ModelVersions(Services(Settings.from_environment()), PROJECT)


def _done(found: ModelVersion, said: str, as_json: bool, then: str) -> None:
    if as_json:
        emit_json(asdict(found))
    finish(said, then=then)


def _table(found: list[ModelVersion]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("version", "", "on disk", "in Triton", "CTR model", "items", "contract"):
        table.add_column(name, justify="right" if name in ("version", "items") else "left")
    for version in found:
        state = "serves (promoted)" if version.promoted and version.serves else "serves" if version.serves else ""
        table.add_row(
            str(version.version),
            state,
            "yes" if version.on_disk else "no",
            "ready" if version.ready else "no",
            version.ctr_model or "–",
            "–" if version.items is None else f"{version.items:,}",
            (version.contract or "–")[:12],
            style="bold" if version.serves else None,
        )
    return table
