"""What users allow, honoured at the request that reads it: it comes with their features."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from recsys_plugin.client.context import RequestContext
from recsys_plugin.consent.consent import Consent, consent_commands
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.commands import Commands
from recsys_plugin.features.plan import Reply
from recsys_plugin.identifiers import checked_id

__all__ = ["follow_refusals", "honoured", "state_consent"]


def honoured(context: RequestContext, user_ids: Sequence[str], replies: Sequence[Reply], count: int) -> Sequence[Reply]:
    """The replies, of users who refuse personalised pages without their features; the context learns what each allows.

    Args:
        replies: of each user his features, and what he allows where it was asked for.
        count: of the features' fields, which come first.

    Raises:
        StoreUnavailable: if what a user allows cannot be understood.
    """
    if all(len(reply) <= count or reply[count] is None for reply in replies):
        return replies  # nearly nobody has stated anything
    told: list[Reply] = []
    for user_id, reply in zip(user_ids, replies, strict=True):
        if len(reply) > count and reply[count] is not None:
            context.consents[user_id] = Consent.decode(reply[count])
            if not context.consents[user_id].personalised:
                context.memory.forget(user_id)
                reply = [*([None] * count), reply[count]]
        told.append(reply)
    return told


def state_consent(context: RequestContext, user_id: object, consent: Consent) -> Generator[Any, Any, None]:
    """Write down what a user allows; every client honours it from the next request on."""
    user = checked_id(user_id, "user_id")
    contract = context.release.models["recommend"].plan.contract
    context.memory.forget(user)
    yield Commands(tuple(consent_commands(contract.project, user, consent, join_key_type=contract.join_key_type)))


def follow_refusals(project: str) -> Generator[Commands, list[Any], bytes | None]:
    """How often it has changed of whom nothing is to be kept; what is kept in process is dropped when it changes."""
    (revision,) = yield Commands((("GET", EventKeys(project).refusals),))
    return revision if isinstance(revision, bytes) else None
