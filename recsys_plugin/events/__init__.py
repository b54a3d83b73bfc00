"""Events on their way in: what one is, how it travels, and how a shop's backend records it."""

from recsys_plugin.events.event import EVENT_TYPES, Event, EventRefused
from recsys_plugin.events.recorder import AsyncEventRecorder, EventRecorder
from recsys_plugin.events.recording import Recorded
from recsys_plugin.events.spool import SpoolFull

__all__ = [
    "EVENT_TYPES",
    "AsyncEventRecorder",
    "Event",
    "EventRecorder",
    "EventRefused",
    "Recorded",
    "SpoolFull",
]
