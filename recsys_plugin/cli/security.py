"""``recsys security``: Redis users with few rights."""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import click

from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.security.acl import ROLES, role

__all__ = ["acl", "audit", "sbom", "security", "threats"]


@click.group()
def security() -> None:
    """Show and check what keeps others out.

    \b
    Examples:
      recsys security acl --role client
      recsys security sbom --output sbom.json
      recsys security audit
      recsys security threats
    """


@security.command()
@click.option("--role", "names", type=click.Choice(list(ROLES)), multiple=True, help="Only this role; all by default.")
@click.option("--user", help="The user's name; recsys-ROLE by default. Goes with one --role.")
@json_option
def acl(names: tuple[str, ...], user: str | None, as_json: bool) -> None:
    """Print the Redis users that the system needs, each with the least rights, as `ACL SETUSER` lines.

    Put a password of your own in place of PASSWORD, and send the lines with redis-cli, or write them, without the
    words ACL SETUSER and with `user` before them, into the server's ACL file.

    \b
    Examples:
      recsys security acl
      recsys security acl --role client --user shop | sed "s/>PASSWORD/>$(cat secret)/" | redis-cli
      recsys security acl --json | jq '.client.commands'
    """
    from recsys_plugin.pipeline.steps import PROJECT

    chosen = [role(name, PROJECT) for name in names or ROLES]
    if user is not None and len(chosen) != 1:
        raise click.UsageError("--user goes with one --role")
    if as_json:
        emit_json(
            {
                each.name: {
                    "purpose": each.purpose,
                    "line": each.line(user),
                    "commands": each.commands,
                    "read": each.read,
                    "change": each.change,
                    "channels": each.channels,
                }
                for each in chosen
            }
        )
        return
    for each in chosen:
        click.echo(f"# {each.purpose}\n{each.line(user)}\n")
    finish(f"{len(chosen)} {'user' if len(chosen) == 1 else 'users'}; replace PASSWORD", then="redis-cli")


def _environments() -> list[Path]:
    """Where the packages of this environment are, and of Triton's if there is one."""
    from recsys_plugin.security.software import site_packages
    from recsys_plugin.settings import Settings

    triton = Settings.from_environment().triton_python
    return [site_packages(Path(path)) for path in (sys.executable, triton) if path and Path(path).exists()]


@security.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def sbom(output: Path) -> None:
    """Write what the software is made of: a CycloneDX 1.5 bill of materials.

    It names every package that is installed in this environment and in Triton's, with its licence and what it needs.

    \b
    Examples:
      recsys security sbom --output sbom.json
      jq -r '.components[] | [.name, .version, (.licenses // [] | tostring)] | @tsv' sbom.json
    """
    from recsys_plugin.runtime.processes import write_atomically
    from recsys_plugin.security.software import bill_of_materials

    document = bill_of_materials(_environments(), serial=uuid.uuid4(), made_at=datetime.now(UTC))
    write_atomically(output, json.dumps(document, indent=1) + "\n")
    finish(f"{len(document['components'])} packages in {output}", then="recsys security audit")


@security.command()
@json_option
def audit(as_json: bool) -> None:
    """Look up known flaws of the packages of both environments; exit code 3 if there are any.

    It needs pip-audit (the extra `security`) and a network, over which names and versions of packages go to pypi.org.

    \b
    Examples:
      recsys security audit
      recsys security audit --json | jq '.flaws[].package'
    """
    from recsys_plugin.errors import CheckFailed
    from recsys_plugin.security import software

    folders = _environments()
    flaws, unknown = software.audit(folders)
    if as_json:
        found = [asdict(flaw) for flaw in flaws]
        emit_json({"folders": [str(folder) for folder in folders], "flaws": found, "unknown": unknown})
    for flaw in () if as_json else flaws:
        click.echo(
            f"{flaw.package} {flaw.version}: {flaw.advisory}, fixed in {', '.join(flaw.fixed_in) or 'no version'}"
        )
    if flaws:
        raise CheckFailed(f"{len(flaws)} known flaws; update what has a fixed version")
    if not as_json:
        without = f" of all packages but {', '.join(unknown)}, which pypi.org does not know" if unknown else ""
        finish(f"no known flaws{without}", then="recsys security sbom")


@security.command()
def threats() -> None:
    """Print who could do what to the system, what stops them, and what is left to you.

    \b
    Examples:
      recsys security threats | less
    """
    click.echo(files("recsys_plugin.security").joinpath("threat_model.md").read_text(encoding="utf-8"), nl=False)
