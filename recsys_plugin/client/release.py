"""A release: one version of every model with its catalogue and read plans. A page is computed with exactly one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys_plugin.errors import FeatureContractError, ReleaseChanged
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.plan import ReadPlan, ReadPromotion, ReadSchema
from recsys_plugin.inference.calls import GetSettings, GetVersions, ModelSettings
from recsys_plugin.inference.catalogue import Catalogue, load_catalogue
from recsys_plugin.inference.models import contract_text, serving_version

__all__ = ["PersonalModel", "Release", "load_release", "on_one_release"]

_Answer = TypeVar("_Answer")

_PERSONAL = ("recommend", "rank", "search")


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


@dataclass(frozen=True, slots=True)
class Release:
    """Everything that a request needs and that changes only with the version; immutable."""

    version: int
    catalogue: Catalogue
    models: Mapping[str, PersonalModel]
    step_versions: Mapping[str, tuple[str, ...]]
    """Model → the outputs by which its steps say their versions; all must be this release's."""


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
        models[model] = PersonalModel(
            ReadPlan(contract),
            max(1, settings.max_batch_size),
            settings.outputs,
            tuple(filter(None, settings.parameters.get("value_columns", "").split(","))),
            "input_ids" in settings.inputs,
        )
    catalogue = yield from load_catalogue(version)
    return Release(version, catalogue, models, step_versions)


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
