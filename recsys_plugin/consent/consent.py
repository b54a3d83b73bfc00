"""What a user allows: pages made for him, and his acts kept. Read with his features, at no further round trip.

What he refuses stands in a field of his own hash of features, which every request reads anyway, and in a list of the
project, by which the stream's workers and the archive drop his events and by which the field can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys_plugin.errors import InvalidInput, StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value

__all__ = ["CONSENT_FIELD", "EVERYTHING", "Consent", "consent_commands", "restore_consents"]

#: Beside the features in a user's hash; Feast's fields are four bytes long, or begin with ``_ts:``.
CONSENT_FIELD = b"recsys:consent"


@dataclass(frozen=True, slots=True)
class Consent:
    """What a user allows.

    Attributes:
        personalised: pages may be made of what is known of him. tracking: his acts and pages may be kept.
    """

    personalised: bool = True
    tracking: bool = True

    def __post_init__(self) -> None:
        for name in ("personalised", "tracking"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{name}: {getattr(self, name)!r:.60} is neither True nor False")

    def encode(self) -> bytes:
        """What he refuses, as one digit: 1 personalised pages, 2 tracking, 3 both, 0 nothing."""
        return b"%d" % ((not self.personalised) + 2 * (not self.tracking))

    @classmethod
    def decode(cls, value: bytes | None) -> Consent:
        """Read what :meth:`encode` wrote; nothing written means that nothing was refused.

        Raises:
            StoreUnavailable: for anything else: nobody is taken for having agreed.
        """
        if value is None:
            return EVERYTHING
        try:
            return _DECODED[bytes(value)]
        except KeyError:
            raise StoreUnavailable(
                f"a user's consent is {value!r:.40} in Redis, which says nothing; run `recsys privacy consent` for him"
            ) from None


#: Of a user who refused nothing.
EVERYTHING = Consent()
_DECODED = {
    one.encode(): one for one in (EVERYTHING, Consent(False, True), Consent(True, False), Consent(False, False))
}


def consent_commands(
    project: str, user_id: str, consent: Consent, *, join_key_type: str = "STRING"
) -> Sequence[tuple[Any, ...]]:
    """The Redis commands that make this a user's consent from the next request on.

    Args:
        join_key_type: ``STRING`` or ``INT64``, of the feature store's users.
    """
    value = user_id if join_key_type == "STRING" else int(user_id)
    hashed = entity_key_prefix("user_id") + entity_key_value(value) + project.encode()
    listed = EventKeys(project).consent
    # Clients then drop what they keep of him, and workers look again whether they may.
    told = ("INCR", EventKeys(project).refusals)
    if consent == EVERYTHING:
        return (("HDEL", hashed, CONSENT_FIELD), ("HDEL", listed, user_id), told)
    return (("HSET", hashed, CONSENT_FIELD, consent.encode()), ("HSET", listed, user_id, consent.encode()), told)


def restore_consents(client: Any, project: str) -> int:
    """Put what users refuse beside their features again, where these were deleted or expired; how many they are.

    Args:
        client: redis-py's.
    """
    count = 0
    for user_id, value in client.hscan_iter(EventKeys(project).consent, count=1_000):
        key = entity_key_prefix("user_id") + entity_key_value(user_id.decode()) + project.encode()
        client.hset(key, CONSENT_FIELD, value)
        count += 1
    return count
