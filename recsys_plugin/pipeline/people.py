"""Which users an export may show to others, as pseudonyms: those who did not opt out, and nobody without a key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

if TYPE_CHECKING:  # importing torch takes seconds, and a step that is current does not need it
    from recsys_plugin.training.communities import People
    from recsys_plugin.training.run import TrainingRun

__all__ = ["exported_people", "opted_out", "people_inputs"]


def opted_out(settings: Settings) -> frozenset[str]:
    """The ids and pseudonyms in the file that ``RECSYS_OPTED_OUT`` names, one a line; blank lines count as nothing.

    Raises:
        ConfigurationError: if it cannot be read: nobody is taken for having agreed.
    """
    if settings.opted_out is None:
        return frozenset()
    try:
        lines = settings.opted_out.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"RECSYS_OPTED_OUT={settings.opted_out} cannot be read: {error}") from error
    return frozenset(line.strip() for line in lines if line.strip())


def people_inputs(settings: Settings) -> dict[str, Any]:
    """What an export's users depend on beside the data: the key, which cannot be told from this, and who opted out."""
    key = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key).check
    gone = hashlib.sha256("\n".join(sorted(opted_out(settings))).encode()).hexdigest()
    return {"key": key, "opted_out": gone}


def exported_people(settings: Settings, run: TrainingRun, *, least: int) -> People | None:
    """The users and their communities; ``None`` without a key.

    Args:
        least: users of a community, and of whatever is told of one.
    """
    if settings.pseudonym_key is None:
        return None
    from recsys_plugin.training.communities import people_now

    run.progress("communities", 0, 0)
    return people_now(run, Pseudonyms(settings.pseudonym_key), opted_out=opted_out(settings), least=least)
