"""``recsys bench serving``: our requests, the usual way, and the floor, in turn on the same servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from recsys_plugin.bench.equality import by_item, require_same_scores
from recsys_plugin.bench.floor import FLOOR_NOTE, Floor
from recsys_plugin.bench.load import LOAD_NOTE, LoadOptions, best_of, load_subjects, measure_load
from recsys_plugin.bench.load_driver import OUR_WAYS, PAGE_SIZE, DriverPlan
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import CALL_TIMEOUT, ServedShop, Tell, open_shop
from recsys_plugin.bench.stages import STAGES_NOTE, open_stage_clock
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio, throughput_ratio
from recsys_plugin.bench.usual_way import USUAL_WAY_NOTE, UsualWay, open_usual_way
from recsys_plugin.bench.workload import Request, make_requests
from recsys_plugin.client.async_recommender import AsyncRecommender
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.results import Page
from recsys_plugin.settings import Settings

__all__ = ["measure_serving"]

_WARM_UP = 20
#: Requests of each kind that are taken apart, at most: the statistics' round trips take longer than the requests.
_MOST_TAKEN_APART = 200
#: The usual way is called once for so many calls of ours: it takes most of the time, and its median settles early.
_USUAL_EVERY = 10
_KINDS = ("recommend", "rank", "search", "similar")


def measure_serving(
    settings: Settings,
    *,
    now: float,
    users: int,
    calls: int,
    candidates: int,
    seed: int,
    freeze: bool,
    load: LoadOptions | None,
    tell: Tell,
) -> Report:
    """Check that all ways answer alike, then measure them in turn: one request at a time, its stages, and under load.

    Args:
        settings: names the home, whose servers run.
        now: the time of every request, unix seconds.
        users: how many users to ask for, in turn.
        calls: how many times each request is made; of the usual way a tenth.
        candidates: how many items are ranked; no more than the catalogue has.
        seed: fixes users, queries and the order of calls.
        freeze: see :func:`~recsys_plugin.bench.timing.interleave`; it has no part in measuring under load.
        load: how many callers at once; ``None`` leaves that out.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        CheckFailed: if two ways give different answers.
        ConfigurationError: if the home lacks data or the served version's files.
        ServiceUnavailable: if a server does not answer.
    """
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(settings, now=now, users=users, seed=seed))
        report = begin_report("Serving", shop.redis_url, shop.triton_url, "feast", "onnxruntime")
        tell("loading the graphs of the floor", 0, 0)
        floor = stack.enter_context(Floor(shop))
        tell("opening Feast's store", 0, 0)
        usual = stack.enter_context(open_usual_way(shop))
        ask_async = stack.enter_context(_async_client(shop, candidates))
        ways = _Ways(shop, floor, usual, ask_async, candidates)
        requests = make_requests(shop, floor.local, candidates=candidates, page_size=PAGE_SIZE, seed=seed)
        for number, request in enumerate(requests, start=1):
            ways.check(request)
            tell("checking that all ways answer alike", number, len(requests))
        samples = interleave(
            ways.subjects(requests, calls),
            warm_up=_WARM_UP,
            seed=seed,
            freeze=freeze,
            progress=lambda done, total: tell("measuring in turn", done, total),
        )
        _add_figures(report, samples, seed)
        _add_stages(report, ways, requests, min(calls, _MOST_TAKEN_APART), tell)
        if load is not None:
            _add_load(report, shop, requests, candidates, load, seed, tell)
    known = sum(request.known for request in requests)
    report.finish(
        f"seed {seed}; {len(requests)} users drawn at random, {known} of them known to the feature store; "
        f"{len(requests[0].item_ids)} candidates of a catalogue of {len(shop.release.catalogue)}; model version "
        f"{shop.release.version}; pages of {PAGE_SIZE}, but rank returns all; one request at a time",
        "before timing, all ways gave the same scores for every user, within 0.0001",
        "ours reads no item features: the served models hold the catalogue's",
        USUAL_WAY_NOTE,
        FLOOR_NOTE,
        STAGES_NOTE,
        *(() if load is None else (LOAD_NOTE,)),
        frozen=freeze,
    )
    return report


@dataclass(frozen=True, slots=True)
class _Ways:
    """All that is measured, on one served shop."""

    shop: ServedShop
    floor: Floor
    usual: UsualWay
    ask_async: Callable[[str], Page]
    candidates: int

    def ours(self, kind: str, request: Request, recommender: Recommender | None = None) -> Page:
        """One request to a blocking client, that of the shop if no other is given; its first page is looked at."""
        recommender, count = recommender or self.shop.recommender, self.candidates
        match kind:
            case "recommend":
                page = recommender.recommend(request.user_id, PAGE_SIZE, candidates=count)
            case "rank":
                page = recommender.rank(request.user_id, request.item_ids)
            case "search":
                page = recommender.search(request.user_id, request.query, PAGE_SIZE, candidates=count, understand=False)
            case _:
                page = recommender.similar_items(request.item_id, PAGE_SIZE, candidates=count)
        page.items[:PAGE_SIZE]
        return page

    def least(self, kind: str, request: Request) -> Mapping[str, float]:
        """The floor of one request."""
        user_id = None if kind == "similar" else request.user_id
        return self.floor.request(kind, request.inputs[kind], user_id)

    def check(self, request: Request) -> None:
        """Hold the answers to one request against each other.

        Raises:
            CheckFailed: if they differ.
        """
        who = f"user {request.user_id!r}"
        pages = {kind: self.ours(kind, request) for kind in _KINDS}
        usual = by_item(request.item_ids, self.usual.rank(request.user_id, request.item_ids).scores)
        require_same_scores(f"{who}, rank and the usual way", pages["rank"], usual)
        require_same_scores(f"{who}, recommend and the usual way", pages["recommend"], usual)
        require_same_scores(f"{who}, awaited recommend and the usual way", self.ask_async(request.user_id), usual)
        for kind, output in (("recommend", "scores"), ("search", "relevance"), ("similar", "similarity")):
            local = self.floor.local.named(kind, request.inputs[kind])
            item_ids = [self.shop.release.catalogue.item_ids[row] for row in local["rows"][0]]
            require_same_scores(
                f"{who}, {kind} and the same graphs in this process",
                pages[kind],
                by_item(item_ids, local[output][0]),
                relevance=output != "scores",
            )
        local = self.floor.local.named("rank", request.inputs["rank"])
        scores = by_item(request.item_ids, local["scores"][0])
        require_same_scores(f"{who}, rank and the same graphs in this process", pages["rank"], scores)

    def subjects(self, requests: Sequence[Request], calls: int) -> dict[str, Subject]:
        """Everything to measure, by the name of its figures."""

        def each(ask: Callable[[Request], Any]) -> Callable[[int], Any]:
            return lambda number: ask(requests[number % len(requests)])

        subjects: dict[str, Subject] = {}
        for kind in _KINDS:
            stages = _stages_without_features if kind == "similar" else _stages
            subjects[f"{kind}.ours"] = Subject(each(partial(self.ours, kind)), calls, stages)
            subjects[f"{kind}.floor"] = Subject(each(partial(self.least, kind)), calls, lambda stages: stages)
        subjects["recommend.ours_async"] = Subject(
            each(lambda request: self.ask_async(request.user_id)), calls, _stages
        )
        subjects["rank.usual"] = Subject(
            each(lambda request: self.usual.rank(request.user_id, request.item_ids)),
            max(1, calls // _USUAL_EVERY),
            lambda answer: answer.stages,
        )
        return dict(sorted(subjects.items()))


def _add_figures(report: Report, samples: Mapping[str, Samples], seed: int) -> None:
    for name, measured in samples.items():
        report.add_samples(name, measured)
    for kind in _KINDS:
        ours = samples[f"{kind}.ours"]
        report.add_ratio(f"{kind}.ours_to_floor", p50_ratio(ours, samples[f"{kind}.floor"], seed=seed))
        if kind in ("recommend", "rank"):
            report.add_ratio(f"{kind}.usual_to_ours", p50_ratio(samples["rank.usual"], ours, seed=seed))


def _add_stages(report: Report, ways: _Ways, requests: Sequence[Request], calls: int, tell: Tell) -> None:
    with open_stage_clock(ways.shop) as clock:
        for kind in _KINDS:

            def ask(number: int, kind: str = kind) -> Page:
                return ways.ours(kind, requests[number % len(requests)], clock.recommender)

            def progress(done: int, total: int, kind: str = kind) -> None:
                tell(f"taking {kind} apart", done, total)

            for name, measured in clock.measure(ask, calls=calls, progress=progress).items():
                report.add_samples(f"{kind}.{name}", measured)


def _add_load(
    report: Report,
    shop: ServedShop,
    requests: Sequence[Request],
    candidates: int,
    load: LoadOptions,
    seed: int,
    tell: Tell,
) -> None:
    plan = DriverPlan(shop.settings, shop.now, len(shop.users), seed, candidates, {}, 0)
    given = {request.user_id: request.item_ids for request in requests}
    samples = measure_load(
        plan,
        given,
        load_subjects(load.concurrency),
        seconds=load.seconds,
        rounds=load.rounds,
        tell=tell,
    )
    for subject, measured in samples.items():
        report.add_load(f"load.{subject.name}", measured)
    for callers in load.concurrency:
        ours, our_samples = best_of(samples, callers, OUR_WAYS)
        usual, usual_samples = best_of(samples, callers, ("usual",))
        name = f"load.concurrency_{callers}.ours_to_usual"
        report.add_load_ratio(name, throughput_ratio(our_samples, usual_samples, seed=seed))
        report.notes.append(f"{name} compares {ours.name} with {usual.name}")


def _stages(page: Page) -> Mapping[str, float]:
    spent = page.timings
    return {"features": spent.features, "inference": spent.inference, "policy": spent.policy}


def _stages_without_features(page: Page) -> Mapping[str, float]:
    return {"inference": page.timings.inference, "policy": page.timings.policy}


@contextmanager
def _async_client(shop: ServedShop, candidates: int) -> Iterator[Callable[[str], Page]]:
    """``recommend`` of the awaiting client, one call at a time on a loop of its own."""
    # As in :mod:`recsys_plugin.bench.load_driver`, its loop stands still between two calls.
    client = AsyncRecommender(
        shop.redis_url,
        shop.triton_url,
        timeout=CALL_TIMEOUT,
        strict=True,
        refresh_every=None,
        follow_items=False,
        clock=lambda: shop.now,
    )
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def ask(user_id: str) -> Page:
            return loop.run_until_complete(client.recommend(user_id, PAGE_SIZE, candidates=candidates))

        try:
            yield ask
        finally:
            loop.run_until_complete(client.close())
