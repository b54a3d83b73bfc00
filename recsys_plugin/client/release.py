"""A release: one version of every model with its catalogue and read plans. A page is computed with exactly one."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.offload import Offload
from recsys_plugin.client.popularity import load_popularity
from recsys_plugin.client.rest import portions
from recsys_plugin.errors import ConfigurationError, FeatureContractError, InferenceUnavailable, ReleaseChanged
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.item_facts import STOCK_FEATURE, ItemPlan
from recsys_plugin.features.plan import ReadPlan, ReadPromotion, ReadSchema
from recsys_plugin.inference.calls import GetSettings, GetVersions, ModelSettings
from recsys_plugin.inference.catalogue import UNKNOWN_STOCK, Catalogue, load_catalogue
from recsys_plugin.inference.explanation import ITEM_WIDTH
from recsys_plugin.inference.models import contract_text, serving_version
from recsys_plugin.inference.new_items import MOST_NEW_ITEMS, ItemFacts, NewItems, encode_items
from recsys_plugin.policy.popularity import Popularity, nothing_popular

if TYPE_CHECKING:
    from recsys_plugin.query.search_index import SearchIndex

__all__ = [
    "PersonalModel",
    "Release",
    "index_of",
    "load_release",
    "load_version",
    "loaded",
    "on_one_release",
    "read_stock",
    "with_new_items",
    "with_sold_out",
]

_log = logging.getLogger("recsys_plugin")

_Answer = TypeVar("_Answer")

#: Items read from the feature store in one round trip.
_READ_AT_ONCE = 500
_PERSONAL = ("recommend", "rank", "search")
#: Models that a repository may lack: of those that take a user's features, and of the others.
_PERSONAL_SHELVES, _SHELVES = ("rank_new", "similar_users", "explain"), ("complements", "popularity")


@dataclass(frozen=True, slots=True)
class PersonalModel:
    """A model that takes a user's features."""

    plan: ReadPlan
    max_batch_size: int
    outputs: tuple[str, ...]
    """Its outputs."""
    value_columns: tuple[str, ...]
    """What the columns of its output ``values`` are; empty if every column is an output of its own."""
    vector_width: int = 0
    """The width of a query's vector, if the model takes that or tokens and answers with it; 0 if it takes the text."""
    item_width: int = 0
    """The width of the packed new items that it takes beside rows of the catalogue; 0 for a model that takes none."""


@dataclass(frozen=True, slots=True)
class Release:
    """Everything that a request needs and that changes only with the version; immutable."""

    version: int
    catalogue: Catalogue
    models: Mapping[str, PersonalModel]
    step_versions: Mapping[str, tuple[str, ...]]
    """Model → the outputs by which its steps say their versions; all must be this release's."""
    new_items: NewItems = field(default_factory=NewItems)
    """Items that the catalogue lacks; their rows follow those of the catalogue."""
    sold_out: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows of the items of which there are none left, ascending: they are on no page but that of ``rank``."""
    search_index: SearchIndex | None = None
    """The catalogue's texts, indexed; every release that serves has it."""
    memory: dict[Any, Any] = field(init=False, default_factory=dict)
    """What rules worked out of its items, see :mod:`recsys_plugin.client.item_columns`."""
    shelves: frozenset[str] = frozenset()
    """Which of the models that not every version has there are."""
    taken_up: float = field(default_factory=time.monotonic)
    """When it was loaded, a moment of ``time.monotonic``."""
    popularity: Popularity = field(default_factory=lambda: nothing_popular(0))
    """What is popular in the catalogue, for when the models cannot be asked."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it was read from a file, while no server could be reached: it has no models."""
        return not self.models

    @property
    def takes_new_items(self) -> bool:
        """Whether this version's models can encode and rank items that its catalogue lacks."""
        return "rank_new" in self.models

    @property
    def size(self) -> int:
        """How many items can be on a page."""
        return len(self.catalogue) + len(self.new_items)

    def sold_out_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some rows that are sold out; quick, however many are."""
        if not self.sold_out.size:
            return self.sold_out
        places = np.minimum(np.searchsorted(self.sold_out, rows), len(self.sold_out) - 1)
        found: NDArray[np.int64] = rows[self.sold_out[places] == rows]
        return found

    def row(self, item_id: str) -> int | None:
        """The row of an item; ``None`` if it is not known."""
        row = self.catalogue.rows.get(item_id)
        if row is None and (place := self.new_items.places.get(item_id)) is not None:
            return len(self.catalogue) + place
        return row

    def rows(self, item_ids: Collection[str]) -> list[int | None]:
        """:meth:`row` of several items, in order."""
        found: list[int | None] = list(map(self.catalogue.rows.get, item_ids))
        return [self.row(item_id) for item_id in item_ids] if self.new_items and None in found else found

    def item_id(self, row: int) -> str:
        """The item of a row."""
        ids = self.catalogue.item_ids
        return ids[row] if row < len(ids) else self.new_items.facts[row - len(ids)].item_id

    def shown(self, row: int) -> tuple[str, str, float]:
        """Title, category and price of a row, as they are to be shown now; the price may be NaN."""
        count, catalogue = len(self.catalogue), self.catalogue
        if row < count:
            return catalogue.titles[row], catalogue.categories[row], catalogue.prices.item(row)
        facts = self.new_items.facts[row - count]
        return facts.title, facts.category, facts.price


def loaded(release: Release) -> None:
    """Make sure that a release has models.

    Raises:
        InferenceUnavailable: if it was read from a file.
    """
    if release.is_snapshot:
        raise InferenceUnavailable("no server could be reached since the client was opened")


def with_sold_out(release: Release) -> Release:
    """The release with those items sold out of which its catalogue and its new items say so."""
    old = np.flatnonzero(release.catalogue.stock == 0)
    new = [place for place, facts in enumerate(release.new_items.facts) if facts.stock == 0]
    rows = np.concatenate([old, np.array(new, np.int64) + len(release.catalogue)])
    return release if np.array_equal(rows, release.sold_out) else replace(release, sold_out=rows)


def load_release(project: str, current: Release | None) -> Generator[Any, Any, Release]:
    """Find the version that is to serve and make it ready; ``current`` comes back if it still is the one.

    That is the promoted version, and without a promotion the newest.

    Yields calls (see :mod:`recsys_plugin.client.flows`) for the driver to perform.

    Raises:
        FeatureContractError: if a model's contract is broken, belongs to another project, or disagrees with what
            the feature store recorded at ``recsys apply``; the message names each difference.
        InferenceUnavailable: if no version of all models is ready.
    """
    promoted: int | None = yield ReadPromotion(project)
    if current is not None:
        # Asked every second by every client: two small calls must do while nothing changes.
        ready: tuple[int, ...] = yield GetVersions("recommend")
        if ready and current.version == (promoted if promoted in ready else max(ready)):
            return current
    version = yield from serving_version(promoted)
    if current is not None and current.version == version:
        return current
    return (yield from load_version(project, version, current))


def load_version(project: str, version: int, current: Release | None) -> Generator[Any, Any, Release]:
    """Make one version ready; what is new to the catalogue of ``current`` is taken along.

    Raises:
        ConfigurationError: if the version was exported by a release of this package whose models take other inputs.
        FeatureContractError: see :func:`load_release`.
        InferenceUnavailable: if Triton does not serve this version.
    """
    schema = yield ReadSchema(project)
    models: dict[str, PersonalModel] = {}
    step_versions: dict[str, tuple[str, ...]] = {}
    for model in (*_PERSONAL, "similar"):
        settings: ModelSettings = yield GetSettings(model, version)
        step_versions[model] = settings.step_versions
        if model not in _PERSONAL:
            continue
        contract = FeatureContract.from_json(contract_text(model, version, settings))
        _check_against_store(model, version, contract, project, schema)
        models[model] = _personal(contract, settings)
        if model == "search" and not settings.inputs.keys() & {"query", "known_embedding"}:
            # The ladder would answer every search by words alone, and nobody would know why.
            raise ConfigurationError(
                f"model search version {version} takes neither a query nor tokens: it was exported by an older "
                "recsys_plugin; run `recsys export` with this one"
            )
    for model in _PERSONAL_SHELVES:
        with contextlib.suppress(ReleaseChanged):
            settings = yield GetSettings(model, version)
            step_versions[model] = settings.step_versions
            contract = FeatureContract.from_json(contract_text(model, version, settings))
            models[model] = _personal(contract, settings)
    shelves = yield from _shelves(version)
    catalogue = yield from load_catalogue(version)
    index = yield Offload(lambda: index_of(catalogue))
    popularity = yield from load_popularity(version, len(catalogue), shelves)
    release = Release(
        version, catalogue, models, step_versions, search_index=index, shelves=shelves, popularity=popularity
    )
    if current is None:
        if schema is None or STOCK_FEATURE in schema:
            yield from read_stock(release, ItemPlan(project), catalogue.item_ids)
        return with_sold_out(release)
    # What was new to the release before is new to this one too, unless its catalogue has it.
    known = [facts for facts in current.new_items.facts if facts.item_id not in catalogue.rows]
    _carry_stock(current, release)
    return with_sold_out((yield from with_new_items(release, known)))


def index_of(catalogue: Catalogue) -> SearchIndex:
    """The texts of a catalogue, indexed."""
    # Not imported sooner, since the patterns that queries are read by take a while to compile.
    from recsys_plugin.query.search_index import SearchIndex

    return SearchIndex.of(catalogue)


def read_stock(release: Release, plan: ItemPlan, item_ids: Sequence[str]) -> Generator[Any, Any, None]:
    """Let the catalogue know the stock of items of its own, as the feature store has it.

    Raises:
        StoreUnavailable: if Redis fails, or holds something else.
    """
    rows, stock = release.catalogue.rows, release.catalogue.stock
    for portion in portions(item_ids, _READ_AT_ONCE):
        replies = yield plan.read_stock(portion)
        for item_id, reply in zip(portion, replies, strict=True):
            told = plan.stock(item_id, reply)
            stock[rows[item_id]] = UNKNOWN_STOCK if told is None else told


def _carry_stock(current: Release, release: Release) -> None:
    """What is known of stocks does not depend on the version of the models."""
    before, after = current.catalogue, release.catalogue
    told = np.flatnonzero(before.stock != UNKNOWN_STOCK)
    counts = dict(zip((before.item_ids[row] for row in told.tolist()), before.stock[told].tolist(), strict=True))
    counts |= {facts.item_id: facts.stock for facts in current.new_items.facts}
    for item_id, count in counts.items():
        if (row := after.rows.get(item_id)) is not None:
            after.stock[row] = count


def _shelves(version: int) -> Generator[Any, Any, frozenset[str]]:
    """Which of the models that take no features, and that not every version has, the repository has."""
    found: list[str] = []
    for model in _SHELVES:
        with contextlib.suppress(ReleaseChanged):
            yield GetSettings(model, version)
            found.append(model)
    return frozenset(found)


def with_new_items(release: Release, items: Iterable[ItemFacts]) -> Generator[Any, Any, Release]:
    """The release with further items beside its catalogue, encoded by its models.

    Raises:
        InferenceUnavailable: if Triton fails.
    """
    known = release.new_items
    items = list(items)
    stock = {facts.item_id: facts.stock for facts in items if facts.item_id in known.places}
    if any(known.facts[known.places[item_id]].stock != count for item_id, count in stock.items()):
        known = known.restocked(stock)
        release = replace(release, new_items=known)
    wanted = {facts.item_id: facts for facts in items if _is_news(known, facts)}
    if not wanted or not release.takes_new_items:
        return release
    room = MOST_NEW_ITEMS - len(known)
    added = [item_id for item_id in wanted if item_id not in known.places]
    if len(added) > room:
        _log.warning(
            "%d new items wait for the next export: no more than %d can be ranked beside the catalogue",
            len(added) - room,
            MOST_NEW_ITEMS,
        )
        for item_id in added[room:]:
            del wanted[item_id]
    return replace(release, new_items=(yield from encode_items(release.version, known, list(wanted.values()))))


def _is_news(known: NewItems, facts: ItemFacts) -> bool:
    place = known.places.get(facts.item_id)
    return place is None or not known.facts[place].same_but_for_stock(facts)


def _personal(contract: FeatureContract, settings: ModelSettings) -> PersonalModel:
    return PersonalModel(
        ReadPlan(contract),
        max(1, settings.max_batch_size),
        settings.outputs,
        tuple(filter(None, settings.parameters.get("value_columns", "").split(","))),
        settings.inputs.get("known_embedding", (0,))[0],
        int(settings.parameters.get(ITEM_WIDTH, 0)),
    )


def on_one_release(
    project: str,
    release: Release,
    ask: Callable[[Release], Generator[Any, Any, _Answer]],
    adopt: Callable[[Release], None],
) -> Generator[Any, Any, _Answer]:
    """Ask on a release; should another version have come up meanwhile, take up the newest and ask once more.

    Args:
        project: the Feast project.
        release: what to ask on first.
        ask: makes the flow of the request; it may be called twice.
        adopt: told of the release that the answer came from, if it is another.

    Raises:
        InferenceUnavailable: if the release was read from a file.
    """
    loaded(release)
    try:
        return (yield from ask(release))
    except ReleaseChanged:
        newest = yield from load_release(project, release)
        adopt(newest)
        return (yield from ask(newest))


def _check_against_store(
    model: str, version: int, contract: FeatureContract, project: str, schema: Mapping[str, str] | None
) -> None:
    where = f"model {model} version {version}"
    if contract.project != project:
        raise FeatureContractError(
            f"{where} was trained on project {contract.project!r}, this client serves {project!r}"
        )
    # A store that was never applied through `recsys` has no record; each value's type is checked at every read anyway.
    if schema is not None and (differences := contract.differences(schema)):
        raise FeatureContractError(
            f"{where} and the feature store disagree:\n  " + "\n  ".join(differences) + "\n"
            "Run `recsys apply` and `recsys materialize`, or train and export the model again."
        )
