"""Where one feature view lies in Redis, worked out once: keys, hash fields, types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.codec import VALUE_FIELDS, entity_key_prefix, hash_field, timestamp_field

__all__ = ["ViewLayout"]


@dataclass(frozen=True, eq=False)
class ViewLayout:
    """A feature view as Feast stores it.

    Args:
        view: the view's name, with its version suffix where Feast's versioning is on.
        project: Feast's project, which ends every key.
        join_keys: name of each join key → ``STRING`` or ``INT64``.
        features: name of each feature → Feast's value type name.
        event_timestamp: the column of event times.

    Raises:
        ConfigurationError: if a type is none that can be written, or two names share a hash field; it names them.
    """

    view: str
    project: str
    join_keys: Mapping[str, str]
    features: Mapping[str, str]
    event_timestamp: str = "event_timestamp"

    def __post_init__(self) -> None:
        if not self.join_keys or not self.features:
            raise ConfigurationError(f"feature view {self.view}: it needs at least one join key and one feature")
        for name, dtype in self.join_keys.items():
            if dtype not in ("STRING", "INT64"):
                raise ConfigurationError(f"{self.view}: join key {name} is {dtype}; STRING and INT64 can be written")
        for name, dtype in self.features.items():
            if dtype not in VALUE_FIELDS:
                raise ConfigurationError(
                    f"{self.view}:{name} is {dtype}, which cannot be written; there are {', '.join(VALUE_FIELDS)}"
                )
        taken: dict[bytes, str] = {}
        for name, field in zip((self.event_timestamp, *self.features), self.fields, strict=True):
            if field in taken:
                raise ConfigurationError(
                    f"{self.view}: {taken[field]} and {name} share the hash field {field.hex()} in Redis, so one would "
                    "overwrite the other; rename one of them"
                )
            taken[field] = name

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """The hash fields of a row: that of the event time, then one for each feature in order."""
        return (timestamp_field(self.view), *(hash_field(f"{self.view}:{name}") for name in self.features))

    @cached_property
    def key_prefix(self) -> bytes:
        """How every key of the view begins."""
        return entity_key_prefix(*self.join_keys)

    @cached_property
    def key_suffix(self) -> bytes:
        """How every key of the project ends."""
        return self.project.encode()

    @cached_property
    def sorted_join_keys(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each join key, in the order in which keys hold their values."""
        return tuple(sorted(self.join_keys.items()))
