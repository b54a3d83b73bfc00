"""The rule that chooses the CTR model to serve."""

from __future__ import annotations

from typing import Any

import pytest

from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.training.zoo.selection import choose


def info(ndcg: float, ece: float, speed: float, error: float = 0.01, auc: float = 0.8) -> dict[str, Any]:
    return {
        "validation": {
            "heads": {"purchase": {"ece": ece, "auc": auc, "gauc": None}},
            "ndcg@20": ndcg,
            "ndcg@20 standard error": error,
            "recall@20": ndcg,
            "milliseconds_per_user": speed,
        }
    }


def test_the_best_of_the_calibrated_wins() -> None:
    models = {"a": info(0.30, 0.001, 1.0), "b": info(0.40, 0.05, 1.0), "c": info(0.35, 0.002, 9.0)}
    choice = choose(models)
    assert choice.model == "c"
    assert choice.excluded == {"b": 0.05}
    assert "best ndcg@20" in choice.rule
    assert choose(models, most_ece=0.1).model == "b"


def test_within_one_standard_error_the_faster_wins() -> None:
    models = {"slow": info(0.350, 0.001, 9.0), "fast": info(0.345, 0.001, 1.0), "worse": info(0.33, 0.001, 0.1)}
    assert choose(models).model == "fast"
    assert choose(models, rule="recall").model == "slow"


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(CheckFailed, match=r"calibration error of at most 0.02 .*a 0.5000"):
        choose({"a": info(0.3, 0.5, 1.0)})
    with pytest.raises(InvalidInput, match="name one with --model"):
        choose({"a": {"validation": {}}})
    with pytest.raises(InvalidInput, match="no rule 'luck'"):
        choose({"a": info(0.3, 0.5, 1.0)}, rule="luck")
    with pytest.raises(CheckFailed):
        choose({"a": info(0.3, 0.001, 1.0)}, rule="gauc")
