"""Which users get the candidate: always the same ones, and with a larger share those and further ones."""

from __future__ import annotations

from hashlib import blake2b

from recsys_plugin.trials.trial import CANDIDATE, CONTROL, SHADOW, Trial

__all__ = ["arm_of", "is_shadowed", "place_of"]


def place_of(entity_id: str, salt: str) -> float:
    """Where a user (or a request) stands between 0 and 1: uniform over ids, fixed for a salt, on every machine.

    The first 53 bits of BLAKE2b (RFC 7693) of the id, keyed with the salt.
    """
    key = salt.encode()
    # A key has 64 bytes at most; a longer salt is condensed first.
    digest = blake2b(entity_id.encode(), key=key if len(key) <= 64 else blake2b(key).digest(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def arm_of(trial: Trial, user_id: str) -> str:
    """The arm that answers a user's requests."""
    if trial.mode == SHADOW:
        return CONTROL
    return CANDIDATE if place_of(user_id, trial.salt) < trial.share else CONTROL


def is_shadowed(trial: Trial, request_id: str) -> bool:
    """Whether a request goes to the candidate too, beside the answer that the user gets."""
    return trial.mode == SHADOW and place_of(request_id, trial.salt) < trial.share
