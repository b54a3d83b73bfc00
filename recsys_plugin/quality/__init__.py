"""How good the recommendations are, on public data, beside published figures and strong baselines.

Each suite is a module with ``run(data, *, seeds, tell)``; ``recsys bench quality --suite NAME`` calls it.
"""

from __future__ import annotations

__all__ = ["SUITES"]

#: suite -> the module that holds its ``run``; imported only when the suite is asked for.
SUITES = {
    "beauty": "recsys_plugin.quality.beauty",
    "cross-sell": "recsys_plugin.quality.cross_sell",
    "movielens": "recsys_plugin.quality.movielens",
    "online-retail": "recsys_plugin.quality.online_retail",
    "search": "recsys_plugin.quality.search",
    "search-fusion": "recsys_plugin.quality.search_fusion",
}
