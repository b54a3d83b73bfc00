"""``recsys privacy``: forget a person, say what is held of him, what he allows, and for how long things are kept."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.settings import Settings

__all__ = ["admit", "forget", "privacy", "search"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_users = click.argument("user_ids", metavar="[USER]...", nargs=-1)
_file = click.option("--file", "path", type=_FILE, help="Further users, one a line.")


@click.group()
def privacy() -> None:
    """What people may ask of a shop: to be forgotten, to see what is held of them, not to be profiled.

    \b
    Examples:
      recsys privacy forget 2020
      recsys privacy export 2020 > 2020.json
      recsys privacy consent 2020 --personalised no
      recsys privacy retention apply --dry-run
    """


@privacy.command()
@_users
@_file
@json_option
def forget(user_ids: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Take USERs out of Redis, streams, spool, archives, tables, training files and logs, and prove it by a search.

    What is left of each is a keyed hash, made with RECSYS_PSEUDONYM_KEY: by it late events and restored files of theirs
    are dropped. Interrupted, run it again. Ends with 3 if the search finds something. Backups, and the files that you
    load tables from, are yours to clean.

    \b
    Examples:
      recsys privacy forget 2020
      recsys privacy forget --file gone.txt --json
    """
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.privacy.forget import forget as forget_people
    from recsys_plugin.runtime.services import Services

    settings, users = Settings.from_environment(), _given(user_ids, path)
    with reporter() as progress, Services(settings).ensure_redis() as redis_url:
        done = forget_people(settings, redis_url, users, project=PROJECT, progress=progress)
    if as_json:
        emit_json(done.to_dict())
    for place, number in done.removed.items():
        console.print(f"  {place}: {number:,}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  {done.redis_files}", markup=False, highlight=False, soft_wrap=True)
    _searched(done.store.keys, done.store.values, done.files.files, done.files.bytes, done.files.rows)
    if not done.searched_bytes:
        console.print(
            "  ids that are short or only digits were searched for where an id of a user may stand, not in all bytes",
            highlight=False,
        )
    _or_fail(done.found)
    finish(f"{done.people:,} people are forgotten; nothing of them was found", then="recsys apply")


@privacy.command()
@_users
@_file
@json_option
def search(user_ids: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Look for USERs in Redis and in all files of the home, and change nothing; ends with 3 if something is found.

    \b
    Examples:
      recsys privacy search 2020
    """
    from dataclasses import asdict

    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.privacy.forget import search as search_people
    from recsys_plugin.runtime.services import Services

    settings, users = Settings.from_environment(), _given(user_ids, path)
    with reporter() as progress, Services(settings).ensure_redis() as redis_url:
        store, files = search_people(settings, redis_url, users, project=PROJECT, progress=progress)
    if as_json:
        emit_json({"store": asdict(store), "files": asdict(files)})
    _searched(store.keys, store.values, files.files, files.bytes, files.rows)
    _or_fail((*store.found, *files.found))
    finish("nothing was found")


@privacy.command()
@_users
@_file
def admit(user_ids: tuple[str, ...], path: Path | None) -> None:
    """Let USERs who were forgotten be customers again; what was deleted does not come back.

    \b
    Examples:
      recsys privacy admit 2020
    """
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.privacy.forget import admit as admit_people
    from recsys_plugin.runtime.services import Services

    settings, users = Settings.from_environment(), _given(user_ids, path)
    with Services(settings).ensure_redis() as redis_url:
        count = admit_people(settings, redis_url, users, project=PROJECT)
    finish(f"{count:,} of {len(users):,} had been forgotten; what they do from now on is kept")


def _given(user_ids: tuple[str, ...], path: Path | None) -> list[str]:
    """The users of a command: at least one.

    Raises:
        InvalidInput: if there is none.
    """
    users = list(user_ids)
    if path is not None:
        users += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not users:
        raise InvalidInput("no USER: name one, or give --file")
    return users


def _searched(keys: int, values: int, files: int, size: int, rows: int) -> None:
    console.print(
        f"  searched {keys:,} keys and {values:,} values in Redis, {files:,} files ({size / 1e6:,.1f} MB, "
        f"{rows:,} rows decoded)",
        highlight=False,
        soft_wrap=True,
    )


def _or_fail(found: tuple[str, ...]) -> None:
    """Say where something was found.

    Raises:
        CheckFailed: if anything was.
    """
    if found:
        shown = "; ".join(found[:20]) + (f"; and {len(found) - 20} further" if len(found) > 20 else "")
        raise CheckFailed(f"found in {len(found)} places: {shown}")
