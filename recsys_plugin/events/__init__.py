"""Events on their way in: what one is, how it travels, and how a shop's backend records it."""

from recsys_plugin.events.event import EVENT_TYPES, Event

__all__ = ["EVENT_TYPES", "Event"]
