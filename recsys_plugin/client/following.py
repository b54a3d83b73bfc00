"""The shop's rules, followed: read at the start, and again with each look for another version; and small writes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.commands import Commands
from recsys_plugin.policy.rules import NO_RULES, MalformedRules, PageRules

__all__ = ["follow_rules", "rules_commands", "written"]


def follow_rules(project: str, before: PageRules) -> Generator[Commands, list[Any], PageRules]:
    """The rules as they are now; those before, if the document is the same.

    Raises:
        MalformedRules: if the document in Redis is none; the message names the rule.
        StoreUnavailable, DeadlineExceeded: for Redis.
    """
    (text,) = yield Commands((("GET", EventKeys(project).rules),))
    if text is None:
        return NO_RULES
    if PageRules.digest_of(text) == before.digest:
        return before
    try:
        return PageRules.from_json(text)
    except MalformedRules as error:
        raise MalformedRules(f"Redis key {EventKeys(project).rules}: {error}. Run `recsys rules load`") from error


def rules_commands(project: str, text: str | None) -> Commands:
    """What makes a document the rules of a shop; ``None`` takes its rules away."""
    key = EventKeys(project).rules
    return Commands((("DEL", key),) if text is None else (("SET", key, text),))


def written(commands: tuple[tuple[Any, ...], ...]) -> Generator[Commands, list[Any], None]:
    """Perform commands whose answers say nothing.

    Raises:
        StoreUnavailable, DeadlineExceeded: for Redis.
    """
    yield Commands(commands)
