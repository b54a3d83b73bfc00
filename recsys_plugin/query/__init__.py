"""What somebody types, understood: prices, names, negations and people, with the words of the shop's own catalogue.

Read it in this order: ``intent`` (what may be understood), ``parser`` (from text to intent), ``searched_items`` (from
intent to items), ``search_index`` (all of it for one catalogue). No servers, no network; numpy alone.
"""

from __future__ import annotations

from recsys_plugin.query.intent import Correction, SearchIntent, Size

__all__ = ["Correction", "SearchIntent", "Size"]
