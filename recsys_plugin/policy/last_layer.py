"""A Bayesian last layer: what logged outcomes say, and leave open, about a correction of the served logits."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy.pools import Logits

__all__ = ["SERVED_FEATURES", "BayesianLastLayer", "Likelihood", "Outcomes", "served_features"]

Likelihood = Literal["logistic", "gaussian"]
Outcomes = NDArray[np.floating[Any] | np.bool_]

_LIKELIHOODS: dict[str, Likelihood] = {"logistic": "logistic", "gaussian": "gaussian"}

#: The columns of :func:`served_features`.
SERVED_FEATURES = ("bias", "logit", "retrieval", "new")

#: Newton's method stops when no weight moves by more.
_SMALLEST_STEP = 1e-8
_MOST_STEPS = 50


def served_features(logits: Logits, retrieval: Logits, new: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What every answer of the model ``recommend`` says of a candidate, as features of a last layer.

    The posterior over their weights is what is not known of the calibration: how far the logit and the retrieval
    score are to be trusted here, and whether items newer than the model deserve more than it gives them.

    Args:
        logits: ``[pool]`` calibrated. retrieval: ``[pool]``, cosines. new: ``[pool]``, whether the catalogue that the
            model was exported with lacks the item.

    Returns:
        float64 ``[pool, 4]``, columns :data:`SERVED_FEATURES`.
    """
    return np.stack([np.ones(len(logits)), logits, retrieval, new], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class BayesianLastLayer:
    """A Gaussian posterior over the weights w of ``logit(P(outcome)) = offset + features · w``.

    The offset is the served logit, so that without data (mean 0) the model stands as it is. With the ``gaussian``
    likelihood the outcome itself is ``offset + features · w`` plus noise and the posterior is exact; with the
    ``logistic`` one it is Laplace's approximation, updated batch by batch (Spiegelhalter and Lauritzen 1990; as used
    for Thompson sampling by Chapelle and Li 2011). Values never change: :meth:`updated` gives another posterior.

    Attributes:
        names: the d features. mean: float64 ``[d]``. precision: float64 ``[d, d]``, the inverse covariance.
        likelihood: ``logistic`` or ``gaussian``. noise: standard deviation of the outcome; ``gaussian`` only.
        examples: how many outcomes it has seen.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    likelihood: Likelihood = "logistic"
    noise: float = 1.0
    examples: int = 0

    def __post_init__(self) -> None:
        width = len(self.names)
        if self.mean.shape != (width,) or self.precision.shape != (width, width):
            raise InvalidInput(
                f"last layer: {width} features, but the mean has shape {self.mean.shape} and the precision "
                f"{self.precision.shape}"
            )
        if self.likelihood not in _LIKELIHOODS:
            raise InvalidInput(f"last layer: the likelihood {self.likelihood!r} is neither logistic nor gaussian")
        if not 0.0 < self.noise < np.inf:
            raise InvalidInput(f"last layer: the noise {self.noise} is not a finite number above 0")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.precision).all()):
            raise InvalidInput("last layer: the mean or the precision holds NaN or infinity")
        try:
            np.linalg.cholesky(self.precision)
        except np.linalg.LinAlgError as error:
            raise InvalidInput("last layer: the precision is not positive definite") from error

    @classmethod
    def prior(
        cls,
        names: Sequence[str],
        deviation: float | Sequence[float],
        *,
        likelihood: Likelihood = "logistic",
        noise: float = 1.0,
    ) -> BayesianLastLayer:
        """Weights around 0, independent; ``deviation`` is their standard deviation, one or one for each.

        Raises:
            InvalidInput: if a deviation is not a finite number above 0, or their count is wrong.
        """
        deviations = np.asarray(deviation, dtype=np.float64)
        if deviations.ndim and deviations.shape != (len(names),):
            raise InvalidInput(f"deviation: {deviations.size} values for {len(names)} features")
        if not ((deviations > 0.0) & np.isfinite(deviations)).all():
            raise InvalidInput(f"deviation: {deviation} is not finite and above 0")
        precision = np.diag(np.broadcast_to(deviations**-2.0, (len(names),))).astype(np.float64)
        return cls(tuple(names), np.zeros(len(names)), precision, likelihood, noise)

    def updated(
        self, features: Logits, outcomes: Outcomes, offset: Logits | None = None, *, discount: float = 1.0
    ) -> BayesianLastLayer:
        """The posterior after more outcomes; the same outcomes in one batch or several give about the same.

        Args:
            features: ``[n, d]``. outcomes: ``[n]``; 0 or 1 for ``logistic``. offset: ``[n]``, 0 where not given.
            discount: the precision is multiplied by it first, so that what is old counts for less: 1.0 forgets
                nothing.

        Raises:
            InvalidInput: if shapes disagree, a value is not finite, an outcome is none of 0 and 1, or the discount is
                not in (0, 1].
        """
        design, truth = np.asarray(features, np.float64), np.asarray(outcomes, np.float64)
        known = np.zeros(len(truth)) if offset is None else np.asarray(offset, np.float64)
        if design.shape != (len(truth), len(self.names)) or known.shape != truth.shape:
            raise InvalidInput(
                f"last layer: features {design.shape}, outcomes {truth.shape} and offset {known.shape} do not fit "
                f"{len(self.names)} features"
            )
        for name, values in (("features", design), ("outcomes", truth), ("offset", known)):
            if not np.isfinite(values).all():
                raise InvalidInput(f"last layer: the {name} hold NaN or infinity")
        if not 0.0 < discount <= 1.0:
            raise InvalidInput(f"discount: {discount} is not in (0, 1]")
        prior: NDArray[np.float64] = (self.precision * discount).astype(np.float64)
        if self.likelihood == "gaussian":
            precision: NDArray[np.float64] = (prior + design.T @ design / self.noise**2).astype(np.float64)
            mean: NDArray[np.float64] = np.linalg.solve(
                precision, prior @ self.mean + design.T @ (truth - known) / self.noise**2
            ).astype(np.float64)
        else:
            if not np.isin(truth, (0.0, 1.0)).all():
                raise InvalidInput("last layer: outcomes of the logistic likelihood are 0 or 1")
            mean, precision = _laplace(self.mean, prior, design, truth, known)
        return BayesianLastLayer(self.names, mean, precision, self.likelihood, self.noise, self.examples + len(truth))

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Weights from the posterior: float64 ``[count, d]``."""
        # With precision L Lᵀ, the solution x of Lᵀ x = z has the covariance (L Lᵀ)⁻¹.
        factor = np.linalg.cholesky(self.precision)
        noise = generator.standard_normal((len(self.names), count))
        weights: NDArray[np.float64] = (self.mean + np.linalg.solve(factor.T, noise).T).astype(np.float64)
        return weights

    @property
    def covariance(self) -> NDArray[np.float64]:
        """float64 ``[d, d]``."""
        inverse: NDArray[np.float64] = np.linalg.inv(self.precision).astype(np.float64)
        return inverse

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file of plain arrays, all at once: a reader sees the old file or the new one."""
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                names=np.array(self.names, dtype=np.str_),
                mean=self.mean,
                precision=self.precision,
                likelihood=np.array(self.likelihood, dtype=np.str_),
                noise=np.array(self.noise),
                examples=np.array(self.examples, dtype=np.int64),
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> BayesianLastLayer:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: if there is no such file, or it holds something else.
        """
        try:
            # Opened here: NumPy leaves a file open that turns out to be no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(
                    tuple(arrays["names"].tolist()),
                    arrays["mean"],
                    arrays["precision"],
                    _LIKELIHOODS[str(arrays["likelihood"])],
                    float(arrays["noise"]),
                    int(arrays["examples"]),
                )
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{path} holds no last layer ({error}); BayesianLastLayer.save writes one") from error


def _laplace(
    start: NDArray[np.float64],
    prior: NDArray[np.float64],
    design: NDArray[np.float64],
    truth: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mode of a Gaussian prior times logistic likelihoods, and the curvature there: Newton with halved steps."""

    def loss(weights: NDArray[np.float64]) -> float:
        scores = offset + design @ weights
        away = weights - start
        return float((np.logaddexp(0.0, scores) - truth * scores).sum() + 0.5 * away @ prior @ away)

    def curvature(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scores = offset + design @ weights
        chance = np.exp(-np.logaddexp(0.0, -scores))
        return chance, prior + (design * (chance * (1.0 - chance))[:, None]).T @ design

    mean, now = start, loss(start)
    for _ in range(_MOST_STEPS):
        chance, precision = curvature(mean)
        step = np.linalg.solve(precision, design.T @ (chance - truth) + prior @ (mean - start))
        while (after := loss(mean - step)) > now and np.abs(step).max() > _SMALLEST_STEP:
            step = step / 2.0
        mean, now = mean - step, after
        if np.abs(step).max() <= _SMALLEST_STEP:
            break
    _, precision = curvature(mean)
    return mean, (precision + precision.T) / 2.0
