"""The document of campaigns as a JSON Schema, for editors and for the programs that write such documents.

What it cannot express (a budget that pays one bid, an end after the start, ids that differ) is checked when a document
is read, see :mod:`recsys_plugin.ads.book`.
"""

from __future__ import annotations

from typing import Any

from recsys_plugin.ads.book import FORMAT
from recsys_plugin.ads.campaign import MOST_ITEMS, MOST_MICROS
from recsys_plugin.limits import MOST_CAMPAIGNS

__all__ = ["campaigns_schema"]

_Schema = dict[str, Any]


def campaigns_schema() -> _Schema:
    """The schema, draft 2020-12, as JSON values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Campaigns of a shop",
        **_object(
            {
                "format": {"const": FORMAT},
                "settings": _settings(),
                "campaigns": {"type": "array", "maxItems": MOST_CAMPAIGNS, "items": _campaign()},
            },
            "format",
            "campaigns",
        ),
    }


def _campaign() -> _Schema:
    return _object(
        {
            "campaign_id": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"},
            "items": {
                "description": "Ids of the items that are advertised.",
                "type": "array",
                "minItems": 1,
                "maxItems": MOST_ITEMS,
                "uniqueItems": True,
                "items": {"type": ["string", "integer"]},
            },
            "bid_micros": _micros("The most that a click may cost."),
            "budget_per_day_micros": _micros("The most that the clicks of a day may cost; at least one bid."),
            "budget_micros": _or_null(_micros("The most that all clicks may cost; null is no limit.")),
            "start": _or_null(_moment("When it begins; null: it has begun.")),
            "end": _or_null(_moment("From when on it is over; null: never.")),
            "targeting": _object(
                {"context": _context(), "user": {"type": "array", "maxItems": 20, "items": _condition()}}
            ),
            "most_per_user_per_day": _or_null(_whole("Times that one user is shown it in a day.", 1, 10**6)),
            "paused": {"type": "boolean", "default": False},
        },
        "campaign_id",
        "items",
        "bid_micros",
        "budget_per_day_micros",
    )


def _context() -> _Schema:
    texts = {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"type": "string", "maxLength": 256}}
    return _or_null(
        {
            "description": "Key of the call → values of which it must have one.",
            "type": "object",
            "maxProperties": 20,
            "additionalProperties": texts,
        }
    )


def _condition() -> _Schema:
    values = {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"type": ["string", "integer", "boolean"]}}
    return _object(
        {
            "feature": {"description": "Feast's view:feature.", "type": "string", "pattern": "^[^:]+:[^:]+$"},
            "one_of": _or_null(values),
            "at_least": {"type": ["number", "null"]},
            "at_most": {"type": ["number", "null"]},
        },
        "feature",
    )


def _settings() -> _Schema:
    return _object(
        {
            "reserve_micros": _micros("The least that a click costs."),
            "quality_floor": _number("The least calibrated probability of a click.", 0, 1),
            "explore": {"description": "Whether new creatives are given chances.", "type": "boolean"},
            "prior_clicks": _number("Clicks that count as much as what the model says.", 0.1, 1e6),
            "pace": {"description": "Whether a day's budget is spread over the day.", "type": "boolean"},
            "ahead_minutes": _number("How far spend may run ahead of the plan.", 0.1, 1440),
            "traffic": {
                "description": "Weights of the hours of a day.",
                "type": "array",
                "minItems": 24,
                "maxItems": 24,
                "items": {"type": "number", "minimum": 0},
            },
            "utc_offset_minutes": _whole("When a day begins.", -1440, 1440),
            "click_window_minutes": _whole("How long a click is charged after its ad.", 1, 43_200),
        }
    )


def _object(properties: _Schema, *required: str) -> _Schema:
    made: _Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**made, "required": list(required)} if required else made


def _or_null(schema: _Schema) -> _Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _micros(description: str) -> _Schema:
    return _whole(f"{description} In micro-units: 1000000 make one unit of the shop's currency.", 1, MOST_MICROS)


def _whole(description: str, least: int, most: int) -> _Schema:
    return {"description": description, "type": "integer", "minimum": least, "maximum": most}


def _number(description: str, least: float, most: float) -> _Schema:
    return {"description": description, "type": "number", "minimum": least, "maximum": most}


def _moment(description: str) -> _Schema:
    return {"description": f"{description} ISO 8601; without a zone it is UTC.", "type": "string"}
