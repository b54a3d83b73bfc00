"""``recsys bench sweep``: how the time of ``recommend`` grows with candidates, users per call and catalogue size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys_plugin.bench.floor import RoundTrips
from recsys_plugin.bench.generated_catalogue import NOW, CataloguePlan, ServedCatalogue, served_catalogue
from recsys_plugin.bench.machine import describe_machine, load_average, package_versions
from recsys_plugin.bench.memory import client_footprints
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import ServedShop, Tell, open_shop
from recsys_plugin.bench.thin_client import resident_bytes
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.bench.usual_way import UsualWay
from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = [
    "CATALOGUE_NOTE",
    "SWEEPS",
    "begin_sweep",
    "growth_exponent",
    "sweep_candidates",
    "sweep_catalogue",
    "sweep_users",
]

#: What can be swept.
SWEEPS = ("candidates", "users", "catalogue")

_PAGE_SIZE = 20
_WARM_UP = 20
_USUAL_EVERY = 10
#: Items whose neighbours are compared with a search of the whole catalogue by numpy, and how many of them.
_RECALL_ITEMS, _RECALL_AT = 20, 100
#: Two cosines that differ by less may change places.
_ROUNDING = 1e-5

CATALOGUE_NOTE = (
    "catalogue sizes: generated items with random weights of the trained models' shapes, exported and checked as any "
    "other, one size at a time on servers of its own; recommend is measured in turn with bare round trips to the same "
    "two servers, and to_round_trips is the ratio of the two medians. recall: the neighbours that similar_items names, "
    "compared with the nearest by numpy among all items. server_mib: proportional set sizes of all of Triton's "
    "processes; client_mib: resident set of a fresh process with the thin client, less what it had before loading. "
    "bytes per item and exponents are fitted by least squares over the sizes (exponents to logarithms); growth is no "
    "faster than linear if the exponent is at most 1"
)


def begin_sweep() -> Report:
    """A report without figures, on this machine; the servers of a sweep may differ from one size to the next."""
    machine = {**describe_machine(), "load_average_before": load_average()}
    return Report("Time of recommend", machine, package_versions("feast", "onnxruntime"))


def sweep_candidates(
    report: Report,
    shop: ServedShop,
    usual: UsualWay,
    counts: Sequence[int],
    *,
    calls: int,
    seed: int,
    freeze: bool,
    tell: Tell,
) -> dict[int, Samples]:
    """Add ``sweep.candidates_<n>``: ``recommend`` that ranks n candidates, and the usual way for as many.

    Args:
        report: takes the figures. shop: the served shop. usual: the usual way on it.
        counts: numbers of candidates; those above the catalogue's size are left out.
        calls: of each; the usual way a tenth. seed: fixes the order. freeze: see :func:`interleave`.
        tell: told what is under way.

    Returns:
        What was measured of ours, by count.

    Raises:
        InvalidInput: if the catalogue is smaller than every count.
    """
    catalogue = shop.release.catalogue
    possible = [count for count in counts if count <= len(catalogue)]
    if not possible:
        raise InvalidInput(f"candidates {', '.join(map(str, counts))}: the catalogue has {len(catalogue)} items")
    drawn = np.random.default_rng(seed).permutation(len(catalogue))
    subjects: dict[str, Subject] = {}
    for count in possible:
        item_ids = [catalogue.item_ids[row] for row in drawn[:count]]
        subjects[f"candidates_{count}.ours"] = Subject(_recommend(shop, count), calls)
        subjects[f"candidates_{count}.usual"] = Subject(_usual(shop, usual, item_ids), max(1, calls // _USUAL_EVERY))
    samples = _measured(subjects, "candidates, in turn", seed, freeze, tell)
    for count in possible:
        ours, theirs = samples[f"candidates_{count}.ours"], samples[f"candidates_{count}.usual"]
        report.add_samples(f"sweep.candidates_{count}.ours", ours)
        report.add_samples(f"sweep.candidates_{count}.usual", theirs)
        report.add_ratio(f"sweep.candidates_{count}.usual_to_ours", p50_ratio(theirs, ours, seed=seed))
    return {count: samples[f"candidates_{count}.ours"] for count in possible}


def sweep_users(
    report: Report, shop: ServedShop, counts: Sequence[int], *, calls: int, seed: int, freeze: bool, tell: Tell
) -> dict[int, Samples]:
    """Add ``sweep.users_<n>``: ``recommend_many`` for n users, and as many single calls one after the other.

    Arguments and result as in :func:`sweep_candidates`; counts above the number of users drawn are left out.
    """
    possible = [count for count in counts if count <= len(shop.users)]
    if not possible:
        raise InvalidInput(f"users {', '.join(map(str, counts))}: only {len(shop.users)} users were drawn")

    def some(number: int, count: int) -> list[str]:
        start = number * count
        return [shop.users[(start + place) % len(shop.users)] for place in range(count)]

    def together(count: int) -> Callable[[int], Any]:
        return lambda number: shop.recommender.recommend_many(some(number, count), _PAGE_SIZE)

    def one_by_one(count: int) -> Callable[[int], Any]:
        return lambda number: [shop.recommender.recommend(user, _PAGE_SIZE) for user in some(number, count)]

    subjects: dict[str, Subject] = {}
    for count in possible:
        subjects[f"users_{count}.ours"] = Subject(together(count), calls)
        subjects[f"users_{count}.one_by_one"] = Subject(one_by_one(count), max(1, calls // _USUAL_EVERY))
    samples = _measured(subjects, "users per call, in turn", seed, freeze, tell)
    for count in possible:
        ours, singly = samples[f"users_{count}.ours"], samples[f"users_{count}.one_by_one"]
        report.add_samples(f"sweep.users_{count}.ours", ours)
        report.add_samples(f"sweep.users_{count}.one_by_one", singly)
        report.add_ratio(f"sweep.users_{count}.one_by_one_to_ours", p50_ratio(singly, ours, seed=seed))
    return {count: samples[f"users_{count}.ours"] for count in possible}


def sweep_catalogue(
    report: Report,
    settings: Settings,
    sizes: Sequence[int],
    plan: CataloguePlan,
    *,
    calls: int,
    freeze: bool,
    scratch: Path | None,
    tell: Tell,
) -> dict[int, Samples]:
    """Add ``sweep.catalogue_<n>`` for generated catalogues of n items, and what grows with n.

    Args:
        report: takes the figures. settings: see :func:`served_catalogue`.
        sizes: numbers of items. plan: everything else about the catalogues.
        calls: of each subject. freeze: see :func:`interleave`.
        scratch: where the temporary homes are made. tell: told what is under way.

    Returns:
        What was measured of ``recommend``, by size.

    Raises:
        CheckFailed: if the index does not return the nearest items.
        RecsysError: as :func:`served_catalogue`.
    """
    found: dict[int, Samples] = {}
    server: dict[int, float] = {}
    client: dict[int, float] = {}
    for size in sizes:
        with served_catalogue(settings, replace(plan, items=size), scratch=scratch, tell=tell) as served:
            server[size] = float(_server_bytes(served))
            footprints = list(client_footprints(served, calls=1, every=1, candidates=_RECALL_AT))
            client[size] = float(footprints[1][1] - footprints[0][1])
            with (
                open_shop(served.settings, now=NOW, users=plan.users, seed=plan.seed) as shop,
                RoundTrips(shop) as trips,
            ):
                recall = _recall(served, shop, tell)
                subjects = {
                    "ours": Subject(_recommend(shop, min(500, size)), calls),
                    "round_trips": Subject(_round_trips(shop, trips), calls),
                }
                samples = _measured(subjects, f"{size:,} items, in turn", plan.seed, freeze, tell)
            found[size] = samples["ours"]
            name = f"sweep.catalogue_{size}"
            report.add_samples(f"{name}.ours", samples["ours"])
            report.add_samples(f"{name}.round_trips", samples["round_trips"])
            report.add_ratio(
                f"{name}.to_round_trips", p50_ratio(samples["ours"], samples["round_trips"], seed=plan.seed)
            )
            report.add(f"{name}.recall_at_{min(_RECALL_AT, size - 1)}", recall)
            report.add(f"{name}.server_mib", server[size] / (1 << 20))
            report.add(f"{name}.client_mib", client[size] / (1 << 20))
    if len(sizes) > 1:
        medians = {size: float(np.median(samples.total)) for size, samples in found.items()}
        report.add("sweep.catalogue.server_bytes_per_item", _slope(server))
        report.add("sweep.catalogue.client_bytes_per_item", _slope(client))
        report.add("sweep.catalogue.p50_exponent", growth_exponent(medians))
        largest = dict(sorted(medians.items())[-2:])
        report.add("sweep.catalogue.p50_exponent_of_the_two_largest", growth_exponent(largest))
    return found


def growth_exponent(values: Mapping[int, float]) -> float:
    """The b of value = a · size^b, fitted by least squares to the logarithms."""
    sizes, measured = np.array(sorted(values.items()), dtype=np.float64).T
    slope: float = np.polyfit(np.log(sizes), np.log(measured), 1)[0]
    return float(slope)


def _slope(values: Mapping[int, float]) -> float:
    sizes, measured = np.array(sorted(values.items()), dtype=np.float64).T
    slope: float = np.polyfit(sizes, measured, 1)[0]
    return float(slope)


def _measured(subjects: Mapping[str, Subject], what: str, seed: int, freeze: bool, tell: Tell) -> dict[str, Samples]:
    return interleave(
        subjects,
        warm_up=_WARM_UP,
        seed=seed,
        freeze=freeze,
        progress=lambda done, total: tell(what, done, total),
    )


def _recommend(shop: ServedShop, candidates: int) -> Callable[[int], Any]:
    return lambda number: shop.recommender.recommend(
        shop.users[number % len(shop.users)], _PAGE_SIZE, candidates=candidates
    )


def _usual(shop: ServedShop, usual: UsualWay, item_ids: Sequence[str]) -> Callable[[int], Any]:
    return lambda number: usual.rank(shop.users[number % len(shop.users)], item_ids)


def _round_trips(shop: ServedShop, trips: RoundTrips) -> Callable[[int], Any]:
    return lambda number: trips.call(shop.users[number % len(shop.users)])


def _recall(served: ServedCatalogue, shop: ServedShop, tell: Tell) -> float:
    """The share of the nearest items, by numpy over all of them, that the served index names.

    Raises:
        CheckFailed: if it is not all of them: the index is exact.
    """
    vectors, count = served.vectors, min(_RECALL_AT, served.plan.items - 1)
    drawn = np.random.default_rng(served.plan.seed).choice(len(vectors), size=min(_RECALL_ITEMS, len(vectors)))
    catalogue, hits = shop.release.catalogue, 0
    for done, row in enumerate(drawn.tolist()):
        page = shop.recommender.similar_items(catalogue.item_ids[row], count, candidates=count + 1)
        cosines = vectors @ vectors[row]
        cosines[row] = -2.0
        least = np.partition(cosines, -count)[-count]
        named = {catalogue.rows[item.item_id] for item in page}
        hits += sum(cosines[other] >= least - _ROUNDING for other in named)
        tell(f"comparing the index of {len(vectors):,} items with numpy", done + 1, len(drawn))
    recall = hits / (count * len(drawn))
    if recall < 1.0:
        raise CheckFailed(f"the index of {len(vectors):,} items has a recall of {recall:.4f} at {count}; it is exact")
    return float(recall)


def _server_bytes(served: ServedCatalogue) -> int:
    """Memory of Triton's processes: proportional set sizes, as its shared memory would otherwise count many times."""
    processes = marked_processes(Services(served.settings).triton.process.mark)
    return sum(_proportional_bytes(process) for process in processes)


def _proportional_bytes(process: int) -> int:
    path = Path(f"/proc/{process}/smaps_rollup")
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:  # some containers forbid it; the resident set is the next best
        return resident_bytes(process)
    raise OSError(f"{path} states no Pss")
