"""From scores to a page: pure functions over numpy arrays, and policies whose randomness is passed in."""

from __future__ import annotations

from recsys_plugin.policy.exploration import (
    Choice,
    EpsilonGreedy,
    ExplorationPolicy,
    GumbelTopK,
    NoExploration,
    calibrated_logits,
)
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.last_layer import BayesianLastLayer
from recsys_plugin.policy.page import MULTILINGUAL_SEARCH_BLEND, SearchBlend, best_first
from recsys_plugin.policy.thompson import ThompsonSampling

__all__ = [
    "MULTILINGUAL_SEARCH_BLEND",
    "BayesianLastLayer",
    "Choice",
    "EpsilonGreedy",
    "ExplorationPolicy",
    "GumbelTopK",
    "NoExploration",
    "SearchBlend",
    "ThompsonSampling",
    "best_first",
    "calibrated_logits",
    "parse_exploration",
]
