"""The client of a shop's backend: one request from arguments to page.

Read it in this order: ``recommender`` (drives), ``flows`` (what happens), ``features.plan`` (what the store says),
``pages`` (what comes first, and the page).
"""

from __future__ import annotations

from recsys_plugin.ads.store import AdClick
from recsys_plugin.client.ad_pages import AdItem, AdsPage, mix_ads
from recsys_plugin.client.async_recommender import AsyncRecommender
from recsys_plugin.client.context import Exploration
from recsys_plugin.client.explanation import Contribution, Explanation, Reason
from recsys_plugin.client.fallback import Fallback, FallbackCache
from recsys_plugin.client.people import Community, SimilarUser, SimilarUsers
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.results import Page, RulesReport, ScoredItem, ServedBy, Timings
from recsys_plugin.features.plan import FeatureReport

__all__ = [
    "AdClick",
    "AdItem",
    "AdsPage",
    "AsyncRecommender",
    "Community",
    "Contribution",
    "Explanation",
    "Exploration",
    "Fallback",
    "FallbackCache",
    "FeatureReport",
    "Page",
    "Reason",
    "Recommender",
    "RulesReport",
    "ScoredItem",
    "ServedBy",
    "SimilarUser",
    "SimilarUsers",
    "Timings",
    "mix_ads",
]
