"""Real-time shop recommendation on a Feast feature store and an NVIDIA Triton inference server.

::

    from recsys_plugin import Recommender

    with Recommender.from_environment() as recommender:
        for item in recommender.recommend("user-1", k=10):
            print(item.position, item.title, item.score)

This import is thin: it needs numpy, redis and tritonclient, and loads the last two only when a client is made.
"""

from __future__ import annotations

from recsys_plugin.client import (
    AdClick,
    AdItem,
    AdsPage,
    AsyncRecommender,
    Community,
    Contribution,
    Explanation,
    Exploration,
    Fallback,
    FallbackCache,
    FeatureReport,
    Page,
    Reason,
    Recommender,
    RulesReport,
    ScoredItem,
    ServedBy,
    SimilarUser,
    SimilarUsers,
    Timings,
    mix_ads,
)
from recsys_plugin.errors import (
    CheckFailed,
    ConfigurationError,
    DataError,
    DeadlineExceeded,
    FeatureContractError,
    InferenceUnavailable,
    InvalidInput,
    Overloaded,
    RecsysError,
    ReleaseChanged,
    ServiceUnavailable,
    StepFailed,
    StoreUnavailable,
)
from recsys_plugin.events import AsyncEventRecorder, Event, EventRecorder, EventRefused, Recorded, SpoolFull
from recsys_plugin.impressions import ImpressionLog
from recsys_plugin.policy import SearchBlend
from recsys_plugin.policy.exploration import EpsilonGreedy, GumbelTopK, NoExploration
from recsys_plugin.policy.rules import ShelfRules
from recsys_plugin.policy.thompson import ThompsonSampling
from recsys_plugin.resilience import Backoff, CircuitBreaker, Hedging, LatencyTarget, Limits, Retry, Timeout

__all__ = [
    "AdClick",
    "AdItem",
    "AdsPage",
    "AsyncEventRecorder",
    "AsyncRecommender",
    "Backoff",
    "CheckFailed",
    "CircuitBreaker",
    "Community",
    "ConfigurationError",
    "Contribution",
    "DataError",
    "DeadlineExceeded",
    "EpsilonGreedy",
    "Event",
    "EventRecorder",
    "EventRefused",
    "Explanation",
    "Exploration",
    "Fallback",
    "FallbackCache",
    "FeatureContractError",
    "FeatureReport",
    "GumbelTopK",
    "Hedging",
    "ImpressionLog",
    "InferenceUnavailable",
    "InvalidInput",
    "LatencyTarget",
    "Limits",
    "NoExploration",
    "Overloaded",
    "Page",
    "Reason",
    "Recommender",
    "Recorded",
    "RecsysError",
    "ReleaseChanged",
    "Retry",
    "RulesReport",
    "ScoredItem",
    "SearchBlend",
    "ServedBy",
    "ServiceUnavailable",
    "ShelfRules",
    "SimilarUser",
    "SimilarUsers",
    "SpoolFull",
    "StepFailed",
    "StoreUnavailable",
    "ThompsonSampling",
    "Timeout",
    "Timings",
    "__version__",
    "mix_ads",
]

#: The same number as in ``pyproject.toml``; a test holds them together.
__version__ = "0.1.0"
