"""A shop's rules for its pages: what they are, and what they make of candidates."""

from __future__ import annotations

from recsys_plugin.policy.rules.apply import Arrangement, Barred, arranged, filtered, rescored
from recsys_plugin.policy.rules.document import (
    NO_RULES,
    SHELVES,
    Already,
    Caps,
    Diversity,
    Exclusions,
    Freshness,
    MalformedRules,
    Objectives,
    PageRules,
    Pin,
    PriceRange,
    ShelfRules,
)
from recsys_plugin.policy.rules.pool import Pool

__all__ = [
    "NO_RULES",
    "SHELVES",
    "Already",
    "Arrangement",
    "Barred",
    "Caps",
    "Diversity",
    "Exclusions",
    "Freshness",
    "MalformedRules",
    "Objectives",
    "PageRules",
    "Pin",
    "Pool",
    "PriceRange",
    "ShelfRules",
    "arranged",
    "filtered",
    "rescored",
]
