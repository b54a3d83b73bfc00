"""``recsys privacy``: forget a person, say what is held of him, what he allows, and for how long things are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.privacy.files import FileTraces
    from recsys_plugin.privacy.store import StoreTraces

__all__ = ["admit", "budget", "consent", "export", "forget", "privacy", "retention", "search"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NO_KEY = "no RECSYS_PSEUDONYM_KEY is set, so pseudonyms, by which logs and models name people, could not be looked for"
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

    RECSYS_REQUEST_LOG names the log of slow requests, if clients write one; lines go from it while they write.
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
    _searched(done.store, done.files)
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

    They are looked for by id and by pseudonym, the latter only with RECSYS_PSEUDONYM_KEY.

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
    by_name = settings.pseudonym_key is not None
    if as_json:
        emit_json({"store": asdict(store), "files": asdict(files), "pseudonyms_searched": by_name})
    _searched(store, files)
    if not by_name:
        console.print(f"  {_NO_KEY}", style="yellow", highlight=False, soft_wrap=True)
    _or_fail((*store.found, *files.found))
    finish("nothing was found" if by_name else "nothing was found by id; pseudonyms were not looked for")


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


_YES_NO = click.Choice(("yes", "no"))


@privacy.command()
@click.argument("user_id", metavar="USER")
@click.option("--personalised", type=_YES_NO, help="Whether pages may be made of what is known of USER.")
@click.option("--tracking", type=_YES_NO, help="Whether acts and pages of USER may be kept.")
@json_option
def consent(user_id: str, personalised: str | None, tracking: str | None, as_json: bool) -> None:
    """Show or change what USER allows; it holds from the next request on. What is not named stays as it was.

    \b
    Examples:
      recsys privacy consent 2020
      recsys privacy consent 2020 --personalised no
      recsys privacy consent 2020 --personalised yes --tracking no
    """
    from recsys_plugin.consent.consent import Consent, consent_commands
    from recsys_plugin.events.keys import EventKeys
    from recsys_plugin.features.connection import RedisAddress, named_errors
    from recsys_plugin.identifiers import checked_id
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services

    user = checked_id(user_id, "USER")
    with Services(Settings.from_environment()).ensure_redis() as redis_url:
        address = RedisAddress.parse(redis_url)
        with named_errors(address, 5.0):
            client: Any = address.connect(5.0)
            try:
                stated = Consent.decode(client.execute_command("HGET", EventKeys(PROJECT).consent, user))
                if personalised is not None or tracking is not None:
                    stated = Consent(
                        stated.personalised if personalised is None else personalised == "yes",
                        stated.tracking if tracking is None else tracking == "yes",
                    )
                    for command in consent_commands(PROJECT, user, stated):
                        client.execute_command(*command)
            finally:
                client.close()
    if as_json:
        emit_json({"personalised": stated.personalised, "tracking": stated.tracking})
    told = [f"{name} {'yes' if allowed else 'no'}" for name, allowed in
            (("personalised", stated.personalised), ("tracking", stated.tracking))]  # fmt: skip
    finish(", ".join(told))


@privacy.command("export")
@click.argument("user_id", metavar="USER")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file, instead of standard output.")
def export(user_id: str, output: Path | None) -> None:
    """Print everything that is held about USER as one JSON document (GDPR, articles 15 and 20).

    \b
    Examples:
      recsys privacy export 2020 > 2020.json
      recsys privacy export 2020 --output 2020.json
    """
    import json

    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.privacy.held import everything_held
    from recsys_plugin.runtime.services import Services

    settings = Settings.from_environment()
    with console.status("looking everywhere"), Services(settings).ensure_redis() as redis_url:
        held = everything_held(settings, redis_url, user_id, project=PROJECT)
    if output is None:
        emit_json(held)
    else:
        output.write_text(json.dumps(held, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    if held["pseudonym"] is None:
        console.print(f"  {_NO_KEY}", style="yellow", highlight=False, soft_wrap=True)
    entries = sum(map(len, held["store"]["entries"].values()))
    finish(
        f"{len(held['store']['features']):,} features, {entries:,} stream entries, rows in {len(held['files']):,} files"
    )


@privacy.command()
@json_option
def budget(as_json: bool) -> None:
    """Show what exports with `--epsilon` have spent of the privacy budget, and on what.

    \b
    Examples:
      recsys privacy budget --json
    """
    from recsys_plugin.privacy.budget import read_budget

    spent = read_budget(Settings.from_environment())
    if as_json:
        emit_json(spent.to_dict())
    for one in spent.publications:
        console.print(f"  {one['at']} {one['what']}: epsilon {one['epsilon']:g}", highlight=False)
    bound = "without a bound" if spent.most is None else f"of {spent.most:g}"
    finish(f"epsilon {spent.epsilon:g}, delta {spent.delta:g} spent, {bound}")


@privacy.group()
def retention() -> None:
    """For how long things are kept, by the type of the event; what is not named is kept.

    \b
    Examples:
      recsys privacy retention schema
      recsys privacy retention set retention.json      {"click": "180d", "pages": "90d"}
      recsys privacy retention apply --dry-run
    """


@retention.command("schema")
def _retention_schema() -> None:
    """Print the JSON schema of the document."""
    from recsys_plugin.privacy.retention import SCHEMA

    emit_json(SCHEMA)


@retention.command("set")
@click.argument("path", metavar="FILE", type=_FILE)
def _retention_set(path: Path) -> None:
    """Make FILE this home's document, once it is checked; nothing is removed before `apply`."""
    from recsys_plugin.privacy.retention import Retention

    read = Retention.from_json(path.read_text(encoding="utf-8"))
    read.write(Settings.from_environment())
    finish(_told(read.to_dict()), then="recsys privacy retention apply --dry-run")


@retention.command("show")
@json_option
def _retention_show(as_json: bool) -> None:
    """Show this home's document."""
    from recsys_plugin.privacy.retention import Retention

    document = Retention.read(Settings.from_environment()).to_dict()
    if as_json:
        emit_json(document)
    finish(_told(document))


@retention.command("apply")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def _retention_apply(dry_run: bool, as_json: bool) -> None:
    """Take what is too old out of streams, live acts, archives, outcomes and tables; run it daily.

    RECSYS_AS_OF counts as now where it is set.

    \b
    Examples:
      recsys privacy retention apply --dry-run --json
      recsys privacy retention apply
    """
    from datetime import UTC, datetime

    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.privacy.retention import Retention, apply_retention
    from recsys_plugin.runtime.services import Services

    settings = Settings.from_environment()
    kept = Retention.read(settings)
    with reporter() as progress, Services(settings).ensure_redis() as redis_url:
        done = apply_retention(
            settings,
            redis_url,
            kept,
            now=settings.as_of or datetime.now(UTC),
            dry_run=dry_run,
            project=PROJECT,
            progress=progress,
        )
    if as_json:
        emit_json(done.to_dict())
    for place, counts in done.removed.items():
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        console.print(f"  {place}: {told}", markup=False, highlight=False, soft_wrap=True)
    would = "would be removed" if dry_run else "removed"
    finish(f"{done.total:,} rows and entries {would}", then=None if dry_run or not done.total else "recsys apply")


def _told(document: dict[str, str]) -> str:
    return ", ".join(f"{name} {length}" for name, length in document.items()) or "everything is kept"


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


def _searched(store: StoreTraces, files: FileTraces) -> None:
    console.print(
        f"  searched {store.keys:,} keys and {store.values:,} values in Redis, {files.files:,} files "
        f"({files.bytes / 1e6:,.1f} MB, {files.rows:,} rows decoded)",
        highlight=False,
        soft_wrap=True,
    )
    for place in (*store.kept, *files.kept):
        console.print(f"  keeps a pseudonym: {place}", markup=False, highlight=False, soft_wrap=True)


def _or_fail(found: tuple[str, ...]) -> None:
    """Say where something was found.

    Raises:
        CheckFailed: if anything was.
    """
    if found:
        shown = "; ".join(found[:20]) + (f"; and {len(found) - 20} further" if len(found) > 20 else "")
        raise CheckFailed(f"found in {len(found)} places: {shown}")
