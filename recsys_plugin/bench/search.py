"""``recsys bench search``: search that understands its query against search that does not, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from recsys_plugin.bench.load_driver import PAGE_SIZE
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import CALL_TIMEOUT, MeasuredRecommender, ServedShop, Tell, open_shop
from recsys_plugin.bench.timing import Subject, interleave, p50_ratio
from recsys_plugin.client.results import Page
from recsys_plugin.query.search_index import SearchIndex
from recsys_plugin.settings import Settings

__all__ = ["MOST_TIMES_PLAIN", "make_queries", "measure_search"]

#: How many times as long as a plain search an understood one may take at the median.
MOST_TIMES_PLAIN = 2.0
_WARM_UP = 20
_WORDS = 3
#: What is added to the words of a title, in turn: nothing, or one of the things that become filters or boosts.
_ADDED = (
    "{}", "{} under {price}", "{}", "cheap {}", "{} without sugar", "{}", "{} between {low} and {price}", "{}",
    "{} for my daughter", "{} not {other}",
)  # fmt: skip


def measure_search(
    settings: Settings,
    *,
    now: float,
    users: int,
    calls: int,
    candidates: int,
    seed: int,
    freeze: bool,
    tell: Tell,
) -> Report:
    """Measure three ways to search, and what the client does itself, in turn.

    Args:
        settings: names the home, whose servers run.
        now: the time of every request, unix seconds.
        users: how many users ask in turn. calls: of each way. candidates: how many items are ranked.
        seed: fixes users, queries and the order of calls.
        freeze: see :func:`~recsys_plugin.bench.timing.interleave`.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        ConfigurationError: if the home lacks data.
        ServiceUnavailable: if a server does not answer.
    """
    with open_shop(settings, now=now, users=users, seed=seed) as shop:
        report = begin_report("Search", shop.redis_url, shop.triton_url)
        queries = make_queries(shop, max(calls, _WARM_UP), seed)
        with MeasuredRecommender(
            shop.redis_url, shop.triton_url, timeout=CALL_TIMEOUT, clock=lambda: now, strict=True
        ) as keeping:
            for number, query in enumerate(dict.fromkeys(queries)):
                # What is found in the cache must have been put there.
                keeping.search(None, query, PAGE_SIZE, candidates=candidates)
                tell("asking every query once", number + 1, len(queries))
            samples = interleave(
                _subjects(shop, keeping, queries, calls, candidates),
                warm_up=_WARM_UP,
                seed=seed,
                freeze=freeze,
                progress=lambda done, total: tell("measuring in turn", done, total),
            )
    for name, measured in samples.items():
        report.add_samples(name, measured)
    plain = samples["search.plain"]
    for name in ("understood", "kept"):
        report.add_ratio(f"search.{name}_to_plain", p50_ratio(samples[f"search.{name}"], plain, seed=seed))
    report.finish(
        f"seed {seed}; {len(shop.users)} users; {len(set(queries))} queries of the first words of a title, half "
        f"of them with a bound of the price, a level of price, a negation or a recipient; {candidates} candidates of a "
        f"catalogue of {len(shop.release.catalogue)}; pages of {PAGE_SIZE}",
        "search.plain and search.understood ask the text encoder every time; search.kept has the vectors of all "
        "queries, as a client has those asked before",
        "client.read is the parser; client.plan is all else that the client does before it asks a server: the lexical "
        "index and the filters, what is parsed being kept",
        frozen=freeze,
    )
    return report


def make_queries(shop: ServedShop, count: int, seed: int) -> list[str]:
    """Queries as people may type them: words of titles, and every other with something to understand."""
    catalogue = shop.release.catalogue
    drawn = np.random.default_rng(seed).integers(len(catalogue), size=(count, 2)).tolist()
    known = catalogue.prices[~np.isnan(catalogue.prices)]
    low, price = np.quantile(known, [0.2, 0.6]) if known.size else (1.0, 10.0)
    queries = []
    for number, (row, other) in enumerate(drawn):
        words = [" ".join(str(catalogue.titles[place]).lower().split()[:_WORDS]) or "gift" for place in (row, other)]
        added = _ADDED[number % len(_ADDED)]
        queries.append(added.format(words[0], low=f"{low:.2f}", price=f"{price:.2f}", other=words[1].split()[0]))
    return queries


def _subjects(
    shop: ServedShop, keeping: MeasuredRecommender, queries: Sequence[str], calls: int, candidates: int
) -> dict[str, Subject]:
    def asked(recommender: MeasuredRecommender, *, understand: bool) -> Callable[[int], Page]:
        def ask(number: int) -> Page:
            page = recommender.search(
                shop.users[number % len(shop.users)],
                queries[number % len(queries)],
                PAGE_SIZE,
                candidates=candidates,
                understand=understand,
            )
            page.items[:PAGE_SIZE]
            return page

        return ask

    release = shop.release
    nobody = np.empty(0, np.int64)

    def index() -> SearchIndex:
        assert release.search_index is not None
        return release.search_index

    return {
        "client.plan": Subject(
            lambda number: index().plan(queries[number % len(queries)], release.new_items, nobody), calls
        ),
        "client.read": Subject(lambda number: index().parse(queries[number % len(queries)]), calls),
        "search.kept": Subject(asked(keeping, understand=True), calls),
        "search.plain": Subject(asked(shop.recommender, understand=False), calls),
        "search.understood": Subject(asked(shop.recommender, understand=True), calls),
    }
