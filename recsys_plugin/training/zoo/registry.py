"""The members of the zoo by the names that the command line uses."""

from __future__ import annotations

import json
from pathlib import Path

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.zoo.model import CtrModel
from recsys_plugin.training.zoo.neural import (
    CrossModel,
    GatedExperts,
    InterestModel,
    LogisticRegression,
    ProgressiveExperts,
)
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = ["FRAME_MODELS", "load_model", "new_model"]

#: The models that learn from a :class:`~recsys_plugin.training.zoo.frame.CtrFrame`.
FRAME_MODELS: dict[str, type[CtrModel]] = {
    model.name: model
    for model in (
        LogisticRegression,
        GradientBoostedTrees,
        CrossModel,
        InterestModel,
        GatedExperts,
        ProgressiveExperts,
    )
}


def new_model(name: str) -> CtrModel:
    """An untrained model.

    Raises:
        InvalidInput: if there is none of that name.
    """
    if name not in FRAME_MODELS:
        raise InvalidInput(f"there is no CTR model {name!r}; there are {', '.join(FRAME_MODELS)}")
    return FRAME_MODELS[name]()


def load_model(folder: Path) -> CtrModel:
    """Read a model that :meth:`CtrModel.save` wrote, whichever it is."""
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return FRAME_MODELS[new_model(document["name"]).name].load(folder)
