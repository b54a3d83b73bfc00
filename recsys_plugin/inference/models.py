"""Which version is served, and what its models say about themselves."""

from __future__ import annotations

from collections.abc import Generator

from recsys_plugin.errors import FeatureContractError, InferenceUnavailable
from recsys_plugin.inference.calls import GetVersions, ModelSettings

__all__ = ["CONTRACT_PARAMETER", "SERVED_MODELS", "contract_text", "serving_version"]

#: The models that the client calls; every export writes one version of all of them.
SERVED_MODELS = ("recommend", "rank", "search", "similar", "catalogue", "tokenizer", "text_encoder")

#: The key in a model's configuration under which its feature contract stands.
CONTRACT_PARAMETER = "feature_contract"


def serving_version(promoted: int | None) -> Generator[GetVersions, tuple[int, ...], int]:
    """The version to serve: the promoted one, or else the newest, in which all :data:`SERVED_MODELS` are ready.

    Args:
        promoted: should this version not be ready, the newest serves: an old page is better than none.

    Raises:
        InferenceUnavailable: if there is none; the message says what each model has.
    """
    served = {}
    for model in SERVED_MODELS:
        served[model] = yield GetVersions(model)
    common = set.intersection(*(set(versions) for versions in served.values()))
    if not common:
        found = "; ".join(f"{model} has {list(versions) or 'none'}" for model, versions in served.items())
        raise InferenceUnavailable(
            f"no version of all models is ready: {found}. Run `recsys export`, then `recsys up`."
        )
    return promoted if promoted in common else max(common)


def contract_text(model: str, version: int, settings: ModelSettings) -> str:
    """The feature contract, as JSON, of one version of a model.

    A version whose contract is not the newest one's has a parameter of its own, which wins.

    Raises:
        FeatureContractError: if the model states none.
    """
    parameters = settings.parameters
    text = parameters.get(f"{CONTRACT_PARAMETER}.{version}", parameters.get(CONTRACT_PARAMETER))
    if not text:
        raise FeatureContractError(
            f"model {model} version {version} states no feature contract (parameter {CONTRACT_PARAMETER!r}). "
            "Run `recsys export` again."
        )
    return text
