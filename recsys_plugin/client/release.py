"""A release: one version of every model with its catalogue and read plans. A page is computed with exactly one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from recsys_plugin.errors import FeatureContractError, ReleaseChanged
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.plan import ReadPlan, ReadPromotion, ReadSchema
from recsys_plugin.inference.calls import GetSettings, GetVersions, ModelSettings
from recsys_plugin.inference.catalogue import Catalogue, load_catalogue
from recsys_plugin.inference.explanation import ITEM_WIDTH
from recsys_plugin.inference.models import contract_text, serving_version
from recsys_plugin.inference.new_items import MOST_NEW_ITEMS, ItemFacts, NewItems, encode_items

__all__ = ["PersonalModel", "Release", "load_release", "load_version", "on_one_release", "with_new_items"]

_log = logging.getLogger("recsys_plugin")

_Answer = TypeVar("_Answer")

_PERSONAL = ("recommend", "rank", "search")
#: What ranks items newer than the catalogue, and what explains a page: a repository may lack them.
_OPTIONAL = ("rank_new", "explain")


@dataclass(frozen=True, slots=True)
class PersonalModel:
    """A model that takes a user's features."""

    plan: ReadPlan
    max_batch_size: int
    outputs: tuple[str, ...]
    """Its outputs."""
    value_columns: tuple[str, ...]
    """What the columns of its output ``values`` are; empty if every column is an output of its own."""
    takes_tokens: bool
    """Whether it takes the tokens of a query, which the tokenizer makes, rather than its text."""
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

    @property
    def takes_new_items(self) -> bool:
        """Whether this version's models can encode and rank items that its catalogue lacks."""
        return "rank_new" in self.models

    @property
    def size(self) -> int:
        """How many items can be on a page."""
        return len(self.catalogue) + len(self.new_items)

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
    for name in _OPTIONAL:
        if (found := (yield from _optional(name, version))) is not None:
            models[name] = found
    catalogue = yield from load_catalogue(version)
    release = Release(version, catalogue, models, step_versions)
    if current is None:
        return release
    # What was new to the release before is new to this one too, unless its catalogue has it.
    known = (facts for facts in current.new_items.facts if facts.item_id not in catalogue.rows)
    return (yield from with_new_items(release, known))


def _optional(model: str, version: int) -> Generator[Any, Any, PersonalModel | None]:
    """A model that takes a user's features; ``None`` where the repository has none of that name."""
    try:
        settings: ModelSettings = yield GetSettings(model, version)
    except ReleaseChanged:
        return None
    contract = FeatureContract.from_json(contract_text(model, version, settings))
    return _personal(contract, settings)


def with_new_items(release: Release, items: Iterable[ItemFacts]) -> Generator[Any, Any, Release]:
    """The release with further items beside its catalogue, encoded by its models.

    Raises:
        InferenceUnavailable: if Triton fails.
    """
    known = release.new_items
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
    # Compared as text, since a price that is not known does not equal itself.
    return place is None or repr(known.facts[place]) != repr(facts)


def _personal(contract: FeatureContract, settings: ModelSettings) -> PersonalModel:
    return PersonalModel(
        ReadPlan(contract),
        max(1, settings.max_batch_size),
        settings.outputs,
        tuple(filter(None, settings.parameters.get("value_columns", "").split(","))),
        "input_ids" in settings.inputs,
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
    """
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
