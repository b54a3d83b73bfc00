"""Structured logs: one JSON object a line, from the standard library's logging.

::

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateLimit(per_second=5))
    logging.getLogger("recsys_plugin").addHandler(handler)
    recommender = Recommender(…, observe=LogRequests(pseudonyms=Pseudonyms(key)))

Lines have ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``request_id`` where there is one, and whatever
else the record was given with ``extra=``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.errors import InvalidInput
from recsys_plugin.observability.request import FULL, FinishedRequest, Observer
from recsys_plugin.pseudonyms import Pseudonyms

__all__ = ["JsonFormatter", "LogRequests", "RateLimit"]

_log = logging.getLogger("recsys_plugin.requests")

#: What every record has; the rest was given with ``extra=``.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, on one line whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN and not name.startswith("_")},
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str, separators=(",", ":"))


class RateLimit(logging.Filter):
    """Lets through so many records a second of each kind, a kind being a logger, a level and a message without its
    arguments; the first after a pause says how many were left out, as ``suppressed``.

    Args:
        per_second: on average, above 0. burst: at once, at least 1. clock: seconds that only run forward.

    Raises:
        InvalidInput: if a number is too small.
    """

    def __init__(
        self, per_second: float, *, burst: int = 5, clock: Callable[[], float] = time.monotonic, most_kinds: int = 1_000
    ) -> None:
        super().__init__()
        if per_second <= 0 or burst < 1:
            raise InvalidInput(f"rate limit: {per_second} records a second and {burst} at once let nothing through")
        self._rate, self._burst, self._clock, self._most_kinds = per_second, burst, clock, most_kinds
        #: Kind → tokens that are left, when they were counted, and records left out since.
        self._kinds: dict[tuple[str, int, str], tuple[float, float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is let through (a token bucket for each kind)."""
        kind, now = (record.name, record.levelno, str(record.msg)), self._clock()
        with self._lock:
            if len(self._kinds) >= self._most_kinds and kind not in self._kinds:
                self._kinds.clear()
            tokens, counted, left_out = self._kinds.get(kind, (float(self._burst), now, 0))
            tokens = min(float(self._burst), tokens + (now - counted) * self._rate)
            passes = tokens >= 1.0
            self._kinds[kind] = (tokens - 1.0, now, 0) if passes else (tokens, now, left_out + 1)
        if passes and left_out:
            record.suppressed = left_out
        return passes


class LogRequests(Observer):
    """Logs requests to the logger ``recsys_plugin.requests``: failed and degraded ones as warnings, others as ``info``
    (or whatever ``level`` says). Users are named by their pseudonyms, or not at all.

    Args:
        level: of requests that went well.
        pseudonyms: names users.
    """

    def __init__(self, *, level: int = logging.INFO, pseudonyms: Pseudonyms | None = None) -> None:
        self._level, self._pseudonyms = level, pseudonyms

    def finished(self, request: FinishedRequest) -> None:
        """Log it."""
        well = request.error is None and request.level == FULL
        level = self._level if well else logging.WARNING
        if not _log.isEnabledFor(level):
            return
        extra: dict[str, Any] = {
            "request_id": request.request_id,
            "shelf": request.shelf,
            "outcome": request.outcome,
            "fallback": request.level,
            "ms": round(request.seconds * 1e3, 3),
            **{f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in request.stages.items()},
            "version": request.version,
            "items": request.items,
        }
        message, reason = request.told(self._name)
        if reason:
            extra["reason"] = reason
        if message:
            extra["error"] = message
        if self._pseudonyms is not None:
            extra["users"] = [self._pseudonyms.of(user) for user in request.users]
        if request.trace is not None:
            extra["trace_id"] = f"{request.trace.trace_id:032x}"
        _log.log(level, _told(request), extra=extra)

    def _name(self, user: str) -> str:
        return "…" if self._pseudonyms is None else self._pseudonyms.of(user)


def _told(request: FinishedRequest) -> str:
    if request.error is not None:
        return f"{request.shelf} failed"
    return f"{request.shelf} answered" if request.level == FULL else f"{request.shelf} fell back on {request.level}"
