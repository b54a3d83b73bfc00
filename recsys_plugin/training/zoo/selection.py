"""Which CTR model is served: a stated rule over the figures of the validation weeks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys_plugin.errors import CheckFailed, InvalidInput

__all__ = ["RULES", "Choice", "choose"]

#: Rule -> the figure to maximise on the validation, and whether it is one of the main head's.
RULES = {"ndcg": ("ndcg@20", False), "recall": ("recall@20", False), "auc": ("auc", True), "gauc": ("gauc", True)}


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, why, and what it was chosen from.

    Attributes:
        model: the name. rule: in words. figures: the figure of each model that was compared.
        excluded: models that the bound on the calibration error left out, with their error; None where it is not known.
    """

    model: str
    rule: str
    figures: dict[str, float]
    excluded: dict[str, float | None]


def choose(models: Mapping[str, Mapping[str, Any]], *, rule: str = "ndcg", most_ece: float = 0.02) -> Choice:
    """Choose by the validation weeks alone.

    Of the models whose expected calibration error is at most ``most_ece``, the one with the best figure; of those
    within one standard error of it (Breiman et al. 1984, where the figure has one) the fastest.

    Args:
        models: what training reported of each model. rule: one of :data:`RULES`. most_ece: the bound.

    Raises:
        InvalidInput: if there is no such rule, or no model was validated.
        CheckFailed: if no model is calibrated well enough.
    """
    if rule not in RULES:
        raise InvalidInput(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
    figure, of_head = RULES[rule]
    judged = {name: info["validation"] for name, info in models.items() if info.get("validation")}
    if not judged:
        raise InvalidInput(
            "no CTR model has figures on the validation weeks, so a rule cannot choose; name one with --model"
        )
    main = {name: _main_head(found) for name, found in judged.items()}
    errors = {name: _number(head.get("ece")) for name, head in main.items()}
    excluded = {name: None if math.isnan(error) else error for name, error in errors.items() if not error <= most_ece}
    left = {
        name: _number((main[name] if of_head else judged[name]).get(figure)) for name in judged if name not in excluded
    }
    left = {name: value for name, value in left.items() if not math.isnan(value)}
    if not left:
        told = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        raise CheckFailed(
            f"no CTR model has a calibration error of at most {most_ece:g} on the validation weeks ({told}); "
            "allow more with --most-ece, or name a model with --model"
        )
    best = max(left, key=lambda name: left[name])
    spread = _number(judged[best].get(f"{figure} standard error"))
    near = [name for name in left if name == best or left[name] >= left[best] - spread]
    model = min(near, key=lambda name: (judged[name]["milliseconds_per_user"], name))
    told_spread = "" if math.isnan(spread) else f", the fastest within one standard error ({spread:.4f}) of the best"
    return Choice(
        model,
        f"best {figure} on the validation weeks among models with a calibration error of at most {most_ece:g}"
        + told_spread,
        left,
        excluded,
    )


def _main_head(found: Mapping[str, Any]) -> Mapping[str, Any]:
    heads: Mapping[str, Any] = found["heads"]
    chosen: Mapping[str, Any] = heads["purchase"] if "purchase" in heads else next(iter(heads.values()), {})
    return chosen


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
