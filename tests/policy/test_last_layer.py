"""The Bayesian last layer: posteriors by the book, and a state that is read back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy import BayesianLastLayer, ThompsonSampling
from recsys_plugin.policy.last_layer import SERVED_FEATURES, served_features

NAMES = ("a", "b", "c")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0.1, 3.0))
def test_the_gaussian_posterior_is_ridge_regression(seed: int, count: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    features, outcomes = generator.normal(size=(count, 3)), generator.normal(size=count)
    layer = BayesianLastLayer.prior(NAMES, 2.0, likelihood="gaussian", noise=noise)
    layer = layer.updated(features[: count // 2], outcomes[: count // 2])
    layer = layer.updated(features[count // 2 :], outcomes[count // 2 :])
    penalty = (noise / 2.0) ** 2
    expected = np.linalg.solve(features.T @ features + penalty * np.eye(3), features.T @ outcomes)
    np.testing.assert_allclose(layer.mean, expected, atol=1e-8)
    inverse = np.linalg.inv(features.T @ features / noise**2 + np.eye(3) / 4.0)
    np.testing.assert_allclose(layer.covariance, inverse, atol=1e-8)
    assert layer.examples == count


def test_the_logistic_posterior_finds_the_weights_and_knows_how_well() -> None:
    generator = np.random.default_rng(1)
    truth = np.array([0.5, -1.0, 0.3])
    inside = []
    for _ in range(60):
        features = generator.normal(size=(400, 3))
        offset = generator.normal(-1.0, 0.5, size=400)
        outcomes = generator.random(400) < 1.0 / (1.0 + np.exp(-(features @ truth + offset)))
        layer = BayesianLastLayer.prior(NAMES, 3.0)
        for part in np.array_split(np.arange(400), 4):
            layer = layer.updated(features[part], outcomes[part], offset[part])
        inside.append(np.abs(layer.mean - truth) <= 1.96 * np.sqrt(np.diag(layer.covariance)))
    share = np.mean(inside)  # of 180 intervals of 95 %
    assert 0.90 <= share <= 0.99


def test_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    generator = np.random.default_rng(2)
    layer = BayesianLastLayer.prior(NAMES, (0.5, 1.0, 2.0))
    features = generator.normal(size=(50, 3)) + 1.0
    layer = layer.updated(features, generator.random(50) < 0.3)
    draws = layer.draw(200_000, generator)
    np.testing.assert_allclose(draws.mean(axis=0), layer.mean, atol=0.01)
    np.testing.assert_allclose(np.cov(draws.T), layer.covariance, atol=0.01)


def test_separable_and_extreme_outcomes_stay_finite() -> None:
    features = np.array([[1.0, 0.0, 0.0]] * 50 + [[-1.0, 0.0, 0.0]] * 50)
    layer = BayesianLastLayer.prior(NAMES, 10.0).updated(features, np.repeat([1.0, 0.0], 50))
    assert np.isfinite(layer.mean).all()
    assert layer.mean[0] > 2.0
    far = BayesianLastLayer.prior(NAMES, 1.0).updated(features * 1e3, np.repeat([0.0, 1.0], 50), np.full(100, 80.0))
    assert np.isfinite(far.mean).all()


def test_a_discount_forgets() -> None:
    generator = np.random.default_rng(3)
    features = generator.normal(size=(200, 3))
    layer = BayesianLastLayer.prior(NAMES, 1.0).updated(features, features[:, 0] > 0)
    kept = layer.updated(features, features[:, 0] < 0)
    forgotten = layer.updated(features, features[:, 0] < 0, discount=0.1)
    assert layer.mean[0] > 1.0
    assert forgotten.mean[0] < kept.mean[0] - 1.0
    assert forgotten.covariance[0, 0] > kept.covariance[0, 0]


def test_thompson_learns_which_items_are_better() -> None:
    generator = np.random.default_rng(4)
    policy = ThompsonSampling(BayesianLastLayer.prior(("new",), 1.5))
    logits, features = np.full(10, -1.0), np.repeat([[0.0], [1.0]], 5, axis=0)
    for _ in range(40):
        shown = policy.choose(logits, 3, generator, features=features).positions
        clicked = generator.random(3) < np.where(shown >= 5, 0.6, 0.27)
        policy = policy.update(features[shown], clicked, logits[shown])
    chances = policy.marginals(logits, 1, features=features)[:, 0]
    assert chances[5:].sum() > 0.95
    assert policy.posterior.examples == 120


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    layer = BayesianLastLayer.prior(NAMES, (0.5, 1.0, 2.0), likelihood="gaussian", noise=0.3)
    layer = layer.updated(np.eye(3), np.array([1.0, 2.0, 3.0]))
    layer.save(tmp_path / "layer.npz")
    read = BayesianLastLayer.load(tmp_path / "layer.npz")
    assert (read.names, read.likelihood, read.noise, read.examples) == (NAMES, "gaussian", 0.3, 3)
    assert (read.mean == layer.mean).all()
    assert (read.precision == layer.precision).all()
    assert [path.name for path in tmp_path.iterdir()] == ["layer.npz"]


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_last_layer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "layer.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"layer\.npz holds no last layer"):
        BayesianLastLayer.load(path)
    np.savez(path, mean=np.zeros(2))
    with pytest.raises(InvalidInput, match=r"layer\.npz holds no last layer"):
        BayesianLastLayer.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(2))
    with pytest.raises(InvalidInput, match=r"layer\.npz holds no last layer"):
        BayesianLastLayer.load(path)


def test_what_makes_no_posterior_is_refused() -> None:
    prior = BayesianLastLayer.prior(NAMES, 1.0)
    with pytest.raises(InvalidInput, match="do not fit 3 features"):
        prior.updated(np.zeros((2, 2)), np.zeros(2))
    with pytest.raises(InvalidInput, match="the outcomes hold NaN"):
        prior.updated(np.zeros((1, 3)), np.array([np.nan]))
    with pytest.raises(InvalidInput, match="are 0 or 1"):
        prior.updated(np.zeros((1, 3)), np.array([0.5]))
    with pytest.raises(InvalidInput, match="discount"):
        prior.updated(np.zeros((1, 3)), np.zeros(1), discount=0.0)
    with pytest.raises(InvalidInput, match="deviation"):
        BayesianLastLayer.prior(NAMES, 0.0)
    with pytest.raises(InvalidInput, match="2 values for 3 features"):
        BayesianLastLayer.prior(NAMES, (1.0, 1.0))
    with pytest.raises(InvalidInput, match="positive definite"):
        BayesianLastLayer(NAMES, np.zeros(3), -np.eye(3))
    with pytest.raises(InvalidInput, match="the mean has shape"):
        BayesianLastLayer(NAMES, np.zeros(2), np.eye(3))
    with pytest.raises(InvalidInput, match="noise"):
        BayesianLastLayer.prior(NAMES, 1.0, noise=0.0)


def test_features_of_a_served_answer() -> None:
    features = served_features(np.array([-2.0, -3.0]), np.array([0.4, 0.1]), np.array([False, True]))
    assert features.shape == (2, len(SERVED_FEATURES))
    assert features.tolist() == [[1.0, -2.0, 0.4, 0.0], [1.0, -3.0, 0.1, 1.0]]
