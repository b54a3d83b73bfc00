"""Every member of the zoo on one small frame: it learns, it repeats, it is kept, and it says what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_zoo import QUICK, frame, quiet

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.metrics import auc, expected_calibration_error
from recsys_plugin.training.zoo.model import Calibration, CtrModel, CtrOptions
from recsys_plugin.training.zoo.registry import FRAME_MODELS, load_model, new_model
from recsys_plugin.training.zoo.trees import GradientBoostedTrees, split_thresholds

MODELS = sorted(FRAME_MODELS)
NOTHING = np.empty(0, np.int64)


def options(name: str) -> CtrOptions:
    return replace(QUICK, epochs=40, learning_rate=0.1) if name == "lightgbm" else QUICK


def fitted(name: str, train: CtrFrame, validation: CtrFrame, *, seed: int = 0) -> CtrModel:
    model = new_model(name)
    model.fit(train, validation, options(name), seed, quiet)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_learns_repeats_and_is_kept(name: str, tmp_path: Path) -> None:
    train, validation, test = frame(1500), frame(500, seed=1), frame(500, seed=2)
    model, again, other = (fitted(name, train, validation, seed=seed) for seed in (0, 0, 1))
    chances = model.predict(test)
    assert chances.shape == test.labels.shape
    assert chances.dtype == np.float32
    assert ((chances > 0) & (chances < 1)).all()
    np.testing.assert_array_equal(chances, again.predict(test))
    assert not np.array_equal(chances, other.predict(test))
    assert min(auc(test.labels[:, head], chances[:, head]) for head in range(3)) > 0.72
    assert expected_calibration_error(test.labels[:, 0], chances[:, 0]).error < 0.15
    assert model.parameters > 5
    model.save(tmp_path)
    assert not list(tmp_path.glob("*.pkl"))
    kept = load_model(tmp_path)
    assert kept.heads == model.heads
    np.testing.assert_allclose(kept.predict(test), chances, atol=1e-6)
    with pytest.raises(InvalidInput, match="differs from the training frame in number_names"):
        model.predict(replace(test, number_names=("a", "b", "c")))


@pytest.mark.parametrize("name", MODELS)
def test_missing_labels_are_masked_and_untold_heads_answer_nan(name: str) -> None:
    train, validation = frame(), frame(300, seed=1)
    labels = train.labels.copy()
    labels[:, 0] = 0.0  # nobody clicked: there is one class only
    labels[::2, 1] = np.nan  # not known yet
    model = fitted(name, replace(train, labels=labels), validation)
    assert model.heads == ("cart", "purchase")
    chances = model.predict(validation)
    assert np.isnan(chances[:, 0]).all()
    assert np.isfinite(chances[:, 1:]).all()
    # What is not known must not matter, whatever else the line says.
    swapped = labels.copy()
    swapped[::2, 1] = np.nan
    np.testing.assert_array_equal(chances, fitted(name, replace(train, labels=swapped), validation).predict(validation))


@pytest.mark.parametrize("name", MODELS)
def test_one_class_in_every_head_is_refused(name: str) -> None:
    train = frame(100)
    with pytest.raises(InvalidInput, match="nothing to tell apart"):
        fitted(name, replace(train, labels=np.zeros_like(train.labels)), frame(50))


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_validation_is_no_calibration_and_no_early_stop(name: str) -> None:
    train = frame(400)
    model = new_model(name)
    found = model.fit(train, train.take(NOTHING), options(name), 0, quiet)
    assert found.validation == ()
    assert found.calibrated == (False,) * 3
    assert set(found.epochs) == {options(name).epochs}
    assert np.isfinite(model.predict(train)).all()
    assert model.predict(train.take(NOTHING)).shape == (0, 3)


@pytest.mark.parametrize("name", MODELS)
def test_new_users_and_items_have_finite_probabilities(name: str) -> None:
    model = fitted(name, frame(), frame(300, seed=1))
    test = frame(50, seed=2)
    assert test.history is not None
    cold = replace(
        test,
        codes=np.zeros_like(test.codes),
        history=replace(test.history, items=np.full_like(test.history.items, -1), target=np.full(50, -1)),
    )
    assert np.isfinite(model.predict(cold)).all()


def test_the_attention_needs_a_history_and_uses_it() -> None:
    train = frame(2500)
    with pytest.raises(InvalidInput, match="din learns from histories"):
        fitted("din", replace(train, history=None), replace(frame(100), history=None))
    test = frame(800, seed=2)
    quick = replace(QUICK, epochs=12, patience=4)
    found = {}
    for name in ("din", "logistic"):
        model = new_model(name)
        model.fit(train, frame(600, seed=1), quick, 0, quiet)
        found[name] = auc(test.labels[:, 0], model.predict(test)[:, 0])
    assert found["din"] > found["logistic"]


def test_copies_are_averaged() -> None:
    train, validation = frame(300), frame(200, seed=1)
    model = new_model("dcn")
    found = model.fit(train, validation, replace(QUICK, copies=2), 0, quiet)
    single = fitted("dcn", train, validation)
    assert len(found.epochs) == 2
    assert model.parameters == 2 * single.parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": np.full((3, 1), np.nan, np.float32)}, "the number 'x' is nan in line 0"),
        ({"numbers": np.full((3, 1), np.inf, np.float32)}, "the number 'x' is inf in line 0"),
        ({"codes": np.full((3, 1), 9)}, "the code 'y' must lie in 0 … 1"),
        ({"codes": np.full((3, 1), -1)}, "the code 'y' must lie in 0 … 1"),
        ({"labels": np.full((3, 1), 0.5, np.float32)}, "a label must be 0, 1 or NaN"),
        ({"weights": np.full(3, -1.0, np.float32)}, "weights must be finite and not negative"),
        ({"group": np.zeros(2, np.int64)}, r"group has shape \(2,\), but \(3,\) is wanted"),
    ],
)
def test_bad_frames_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "numbers": np.zeros((3, 1), np.float32),
        "codes": np.zeros((3, 1), np.int64),
        "labels": np.zeros((3, 1), np.float32),
        "weights": np.ones(3, np.float32),
        "group": np.zeros(3, np.int64),
        "number_names": ("x",),
        "code_names": ("y",),
        "code_sizes": (2,),
        "heads": ("click",),
    }
    CtrFrame(**good)
    with pytest.raises(InvalidInput, match=message):
        CtrFrame(**good | change)


def test_calibration_mends_a_wrong_scale_and_keeps_the_order() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 2)).astype(np.float32)
    labels = (generator.random(logits.shape) < 1 / (1 + np.exp(-(2.0 * logits - 1.0)))).astype(np.float32)
    labels[:, 1] = 1.0
    found = Calibration.fit(logits, labels, np.ones(20_000, np.float32))
    assert found.calibrated == (True, False)
    assert found.scale == pytest.approx([2.0, 1.0], abs=0.08)
    assert found.offset == pytest.approx([-1.0, 0.0], abs=0.05)
    assert (np.diff(found.apply(np.sort(logits, axis=0)), axis=0) >= 0).all()
    # Scores that point the wrong way are not turned round in silence, and separable ones stay finite.
    assert Calibration.fit(-logits, labels, np.ones(20_000, np.float32)).calibrated == (False, False)
    apart = Calibration.fit(np.array([[-1.0], [1.0]]), np.array([[0.0], [1.0]]), np.ones(2))
    assert np.isfinite([*apart.scale, *apart.offset]).all()


def test_thresholds_are_float32_and_change_no_decision() -> None:
    train = frame(1200)
    model = fitted("lightgbm", train, frame(300, seed=1))
    assert isinstance(model, GradientBoostedTrees)
    for booster in model.boosters.values():
        for values in split_thresholds(booster).values():
            assert values.dtype == np.float32
    importance = model.importance()["purchase"]
    assert sum(importance.values()) == pytest.approx(1.0)
    assert max(importance, key=lambda column: importance[column]) == "first"
