"""Users in messages, logs and reports: by pseudonym, since those go to places that nobody thinks of when forgetting.

With ``RECSYS_PSEUDONYM_KEY`` a user has the same name in all messages of the shop, and ``Recommender.pseudonym`` gives
it, shortened here to what tells users apart in a log. Without it names hold for one process: its messages about the
same user can be recognised, and nobody can tell whom they are about.
"""

from __future__ import annotations

import secrets
from functools import lru_cache

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

__all__ = ["DIGITS", "PREFIX", "named_user"]

#: Hexadecimal digits of a pseudonym that are shown: of a million users hardly two share them.
DIGITS = 12
#: What stands before them.
PREFIX = "user#"


def named_user(user_id: str, names: Pseudonyms | None = None) -> str:
    """How messages call a user: ``user#`` and the beginning of his pseudonym.

    Args:
        names: gives the pseudonyms; those of this process by default.
    """
    return f"{PREFIX}{(names or _of_process()).of(user_id)[:DIGITS]}"


@lru_cache(maxsize=1)
def _of_process() -> Pseudonyms:
    """By the shop's key if there is one, else by one that nobody knows."""
    try:
        key = Settings.from_environment().pseudonym_key
        if key is not None:
            return Pseudonyms(key)
    except ConfigurationError:
        pass  # whoever needs the settings says so; a message must not
    return Pseudonyms(secrets.token_hex(32))
