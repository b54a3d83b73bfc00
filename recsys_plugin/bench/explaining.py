"""What explanations cost, and whether they add up: pages with and without them in turn."""

from __future__ import annotations

import math

import numpy as np

from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import ServedShop, Tell, open_shop
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.client.results import Page
from recsys_plugin.errors import CheckFailed
from recsys_plugin.settings import Settings

__all__ = ["ADDS_UP", "measure_explaining"]

#: Contributions and base may differ from the score's log-odds by so much: sums in 32 bits.
ADDS_UP = 1e-4
_WARM_UP = 20


def measure_explaining(
    settings: Settings, *, now: float, users: int, calls: int, k: int, pages: int, seed: int, freeze: bool, tell: Tell
) -> Report:
    """Time pages with and without explanations, then add up those of many pages.

    Args:
        settings: names the home, whose servers run. now: the time of every request, unix seconds.
        users: how many take turns. calls: timed calls of each. k: items of a page.
        pages: of how many pages every explanation is added up; of them one in ten is for an unknown visitor.
        seed: fixes users and orders. freeze: see :func:`~recsys_plugin.bench.timing.interleave`.
        tell: told what is under way.

    Raises:
        CheckFailed: if an explanation does not add up, or says another score than the page, to :data:`ADDS_UP`.
    """
    with open_shop(settings, now=now, users=users, seed=seed) as shop:
        report = begin_report("Explaining a page", shop.redis_url, shop.triton_url)

        def ask(explain: bool) -> Subject:
            def call(number: int) -> Page:
                page = shop.recommender.recommend(shop.users[number % len(shop.users)], k, explain=explain)
                len(tuple(page))  # items are made when they are looked at
                return page

            return Subject(call, calls)

        subjects = {"recommend.plain": ask(False), "recommend.explained": ask(True)}
        samples = interleave(
            subjects,
            warm_up=_WARM_UP,
            seed=seed,
            freeze=freeze,
            progress=lambda done, total: tell("pages with and without explanations", done, total),
        )
        for name, found in samples.items():
            report.add_samples(name, found)
        plain, explained = samples["recommend.plain"], samples["recommend.explained"]
        report.add_ratio("recommend.explained_to_plain", p50_ratio(explained, plain, seed=seed))
        report.add("recommend.explanation_ms", _difference(plain, explained))
        _add_up(shop, report, k, pages, tell)
    report.finish(
        f"{k} items a page; explanation_ms is the difference of the medians; a page is added up if base and "
        f"contributions of each item give its log-odds to {ADDS_UP:g}",
        frozen=freeze,
    )
    return report


def _difference(plain: Samples, explained: Samples) -> float:
    return float(np.median(explained.total) - np.median(plain.total))


def _add_up(shop: ServedShop, report: Report, k: int, pages: int, tell: Tell) -> None:
    """Add up the explanations of many pages."""
    items = reasons = 0
    largest_sum = largest_score = 0.0
    for number in range(pages):
        tell("pages added up", number, pages)
        user = "nobody has this id" if number % 10 == 9 else shop.users[number % len(shop.users)]
        # Ever deeper pages, so that not only the best items are looked at.
        deep = k * (1 + number // len(shop.users) % 5)
        for item in tuple(shop.recommender.recommend(user, deep, explain=True))[-k:]:
            found = item.explanation
            if found is None or found.base is None or found.logit is None:
                continue
            items += 1
            reasons += found.reason is not None
            added = found.base + math.fsum(each.value for each in found.contributions)
            largest_sum = max(largest_sum, abs(added - found.logit))
            if item.score == item.purchase_probability:  # of several kinds of event the score is a sum
                chance = 1.0 / (1.0 + math.exp(-found.logit))
                largest_score = max(largest_score, abs(chance - item.score))
    report.add("added_up.pages", pages)
    report.add("added_up.items", items)
    report.add("added_up.items_with_a_reason", reasons)
    report.add("added_up.largest_difference", largest_sum)
    report.add("added_up.largest_difference_of_score", largest_score)
    if not max(largest_sum, largest_score) <= ADDS_UP:
        raise CheckFailed(
            f"explanations of {items} items on {pages} pages add up to {largest_sum:.2g}, and say the score to "
            f"{largest_score:.2g}; allowed is {ADDS_UP:g}"
        )
