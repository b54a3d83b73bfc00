"""Pseudonyms: keyed hashes of user ids, which nobody can undo or make without the key.

The same user has the same pseudonym as long as the key stays the same. Changing the key, and exporting again, makes all
former pseudonyms meaningless.
"""

from __future__ import annotations

from hashlib import blake2b

from recsys_plugin.errors import ConfigurationError

__all__ = ["KEY_VARIABLE", "LEAST_KEY_BYTES", "Pseudonyms", "halves_of", "of_halves", "opted_out_key"]

KEY_VARIABLE = "RECSYS_PSEUDONYM_KEY"
#: A shorter key could be found by trying.
LEAST_KEY_BYTES = 16
_BYTES = 16


class Pseudonyms:
    """The pseudonyms under one key.

    Args:
        key: secret; :data:`LEAST_KEY_BYTES` bytes of UTF-8 or more.

    Raises:
        ConfigurationError: if it is shorter.
    """

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        if len(key.encode()) < LEAST_KEY_BYTES:
            raise ConfigurationError(
                f"{KEY_VARIABLE} must be {LEAST_KEY_BYTES} bytes or more of your own choosing, kept secret, such as "
                "what `openssl rand -hex 32` prints"
            )
        self._key = blake2b(key.encode()).digest()

    def __repr__(self) -> str:
        """Without the key."""
        return "Pseudonyms(…)"

    def of(self, user_id: str) -> str:
        """The pseudonym of a user, 32 hexadecimal digits (BLAKE2b with a key, RFC 7693)."""
        return blake2b(user_id.encode(), key=self._key, digest_size=_BYTES).hexdigest()

    @property
    def check(self) -> str:
        """What tells two keys apart without telling the key; the pseudonym of nobody, as an id is not empty."""
        return self.of("")


def opted_out_key(project: str) -> str:
    """The Redis set of the pseudonyms of users who are not to be anyone's neighbour."""
    return f"recsys:opted_out:{project}"


def halves_of(pseudonym: str) -> tuple[int, int]:
    """A pseudonym as two signed 64-bit numbers, since graphs hold numbers on every device."""
    raw = bytes.fromhex(pseudonym)
    return int.from_bytes(raw[:8], "big", signed=True), int.from_bytes(raw[8:], "big", signed=True)


def of_halves(first: int, second: int) -> str:
    """The pseudonym of the two numbers that :func:`halves_of` made of it."""
    return b"".join(half.to_bytes(8, "big", signed=True) for half in (first, second)).hex()
