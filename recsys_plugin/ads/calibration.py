"""What clicks say about the model's probabilities: a factor for each creative, shrunk towards what is known above it.

Clicks are Poisson with a mean of factor times the clicks that the model expected, and the factor's prior is Gamma: so
the posterior is Gamma too, with the clicks added to its shape and the expected clicks to its rate (gamma-Poisson
shrinkage; DuMouchel 1999). It is done three times, each level's mean being the prior mean of the next: of all ads, of
a campaign, of one creative in it. A new creative thus begins with what its campaign is worth, and that with what ads
of this shop are worth.

The factor that an auction works with may be drawn from the posterior instead of being its mean: Thompson sampling
(Thompson 1933; Chapelle and Li 2011), which gives creatives with few clicks their chance. It is drawn from the
log-normal distribution with the Gamma posterior's mean and variance, whose distribution function is known in closed
form, and with it the odds of what was shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_spread", "shrunk_factor"]

_Floats = NDArray[np.float64]


def shrunk_factor(prior_mean: Any, prior_clicks: float, clicks: Any, expected: Any) -> Any:
    """The posterior mean of the factor: clicks for each click that the model expected.

    Args:
        prior_mean: of the level above, above 0. prior_clicks: how many clicks the prior is worth, above 0.
        clicks: counted. expected: by the model, the sum of its probabilities.

    Returns:
        ``(prior_clicks + clicks) / (prior_clicks / prior_mean + expected)``, of the broadcast shape.
    """
    return (prior_clicks + clicks) / (prior_clicks / prior_mean + expected)


def draw_spread(prior_clicks: float, clicks: _Floats) -> _Floats:
    """The standard deviation of the factor's logarithm: ``sqrt(ln(1 + 1 / shape))``, shape = prior and counted clicks.

    A draw is ``mean * exp(spread * z - spread**2 / 2)`` with a standard normal z.
    """
    spread: _Floats = np.sqrt(np.log1p(1.0 / (prior_clicks + clicks)))
    return spread
