"""How much each group of features adds to a score: integrated gradients along chords, and exact Shapley values.

The score is a weighted sum of the heads' probabilities; what is explained is its log-odds, which for a single head are
that head's calibrated logit. Contributions add up, with the baseline's log-odds, to the score's. The baseline is the
same for all models: a visitor of whom nothing is known, and what the average item of the catalogue has.
"""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor, nn

__all__ = ["ChordGradients", "coalitions", "score_log_odds", "score_slopes", "shapley_matrix"]

#: Below such a step of a logit, or relative step of a sum, a chord is as steep as the curve in its middle, to float32.
_SHORT = 1e-2


def score_log_odds(logits: Tensor, weights: Tensor) -> Tensor:
    """Log-odds of the heads' weighted mean probability, float32 [...].

    Args:
        logits: float32 [..., H], calibrated, of the heads that were trained. weights: float32 [H], above 0.
    """
    if logits.shape[-1] == 1:
        return logits[..., 0]
    chance, against = (weights * torch.sigmoid(logits)).sum(-1), (weights * torch.sigmoid(-logits)).sum(-1)
    return torch.log(chance) - torch.log(against)


def score_slopes(start: Tensor, end: Tensor, weights: Tensor) -> Tensor:
    """Slopes float32 [..., H] of the chord of :func:`score_log_odds` between logits float32 [..., H].

    Their product with ``end - start``, summed over heads, is exactly what the log-odds change by.
    """
    if start.shape[-1] == 1:
        return torch.ones_like(start)
    step = end - start
    steep = torch.sigmoid((start + end) / 2)
    chord = (torch.sigmoid(end) - torch.sigmoid(start)) / torch.where(step.abs() < _SHORT, 1.0, step)
    each = torch.where(step.abs() < _SHORT, steep * (1.0 - steep), chord)
    # A chance and the chance against it change by the same amount, one up and the other down.
    total = _log_slope(start, end, weights) + _log_slope(-start, -end, weights)
    return weights * each * total.unsqueeze(-1)


def _log_slope(start: Tensor, end: Tensor, weights: Tensor) -> Tensor:
    """The chord's slope of the logarithm between two weighted sums of chances, float32 [...]."""
    low, high = (weights * torch.sigmoid(start)).sum(-1), (weights * torch.sigmoid(end)).sum(-1)
    middle, step = (low + high) / 2, high - low
    is_short = step.abs() < _SHORT * middle
    return torch.where(is_short, 1.0 / middle, (torch.log(high) - torch.log(low)) / torch.where(is_short, 1.0, step))


class ChordGradients(nn.Module):
    """Integrated gradients (Sundararajan et al. 2017) of a small ReLU network above a linear first layer.

    The straight path from the baseline to the input is cut into equal steps. In each, every ReLU and the score count
    with the slope of their chord, as in the rescale rule of DeepLIFT (Shrikumar et al. 2017), instead of that of a
    point. Contributions then add up whatever the number of steps, and tend to integrated gradients as it grows.

    Args:
        hidden: float32 [W2, W1] and [W2], weights and bias between the two hidden layers; None where there are none,
            so that the input is the logits.
        output: float32 [H, W2] and [H], from the second hidden layer to the calibrated logits; None likewise.
        weights: float32 [H], what each head counts for in the score.
        steps: how many.
    """

    weights: Tensor
    places: Tensor
    between: Tensor
    between_bias: Tensor
    last: Tensor
    last_bias: Tensor

    def __init__(
        self,
        hidden: tuple[Tensor, Tensor] | None,
        output: tuple[Tensor, Tensor] | None,
        weights: Tensor,
        *,
        steps: int,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.has_layers = hidden is not None and output is not None
        if hidden is not None and output is not None:
            for name, value in zip(("between", "between_bias", "last", "last_bias"), (*hidden, *output), strict=True):
                self.register_buffer(name, value.detach().clone())
        self.register_buffer("weights", weights)
        self.register_buffer("places", torch.linspace(0.0, 1.0, steps + 1).reshape(-1, 1))

    def forward(
        self, first: Tensor, direct: Tensor, first_base: Tensor, direct_base: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Contributions float32 [..., G], and the log-odds of the baseline's and the input's score float32 [...] each.

        Args:
            first: float32 [..., G, W1], what each group adds to the first layer before its ReLU.
            direct: float32 [..., G, H], what each group adds to the logits past the network.
            first_base: float32 [W1], direct_base: float32 [H], the same of the baseline.
        """
        straight = direct_base + self.places * direct.sum(-2).unsqueeze(-2)
        if not self.has_layers:
            slopes = score_slopes(straight[..., :-1, :], straight[..., 1:, :], self.weights).mean(-2)
            return self._along(direct, slopes), *self._ends(straight)
        before = first_base + self.places * first.sum(-2).unsqueeze(-2)
        middle = torch.relu(before) @ self.between.T + self.between_bias
        logits = torch.relu(middle) @ self.last.T + self.last_bias + straight
        slopes = score_slopes(logits[..., :-1, :], logits[..., 1:, :], self.weights)
        back = (slopes @ self.last) * _relu_slopes(middle)
        back = (back @ self.between) * _relu_slopes(before)
        through = (first @ back.mean(-2).unsqueeze(-1)).squeeze(-1)
        return through + self._along(direct, slopes.mean(-2)), *self._ends(logits)

    def _ends(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The score's log-odds at both ends of the path."""
        base, logit = (score_log_odds(logits[..., place, :], self.weights) for place in (0, -1))
        return base, logit

    @staticmethod
    def _along(direct: Tensor, slopes: Tensor) -> Tensor:
        return (direct * slopes.unsqueeze(-2)).sum(-1)


def _relu_slopes(values: Tensor) -> Tensor:
    """Slopes of the ReLU's chords between neighbours along the path, float32 [..., steps, W] of [..., steps + 1, W]."""
    start, end = values[..., :-1, :], values[..., 1:, :]
    same = (start > 0) == (end > 0)
    across = (torch.relu(end) - torch.relu(start)) / torch.where(same, 1.0, end - start)
    return torch.where(same, (end > 0).to(values.dtype), across)


def coalitions(groups: int) -> Tensor:
    """bool [2^G, G]: every set of groups; the first is empty, the last has all."""
    numbers = torch.arange(2**groups).unsqueeze(1)
    return (numbers >> torch.arange(groups)) & 1 == 1


def shapley_matrix(groups: int) -> Tensor:
    """float32 [2^G, G]: the values of all coalitions times this matrix are the groups' Shapley values (Shapley 1953).

    With what a coalition lacks at a fixed baseline this is baseline Shapley (Sundararajan and Najmi 2020).
    """
    inside = coalitions(groups)
    sizes = inside.sum(1)
    # With a group the coalition had one less without it.
    total = factorial(groups)
    joined = [factorial(size - 1) * factorial(groups - size) / total if size else 0.0 for size in range(groups + 1)]
    left = [
        factorial(size) * factorial(groups - size - 1) / total if size < groups else 0.0 for size in range(groups + 1)
    ]
    with_it, without = torch.tensor(joined)[sizes], torch.tensor(left)[sizes]
    return torch.where(inside, with_it.unsqueeze(1), -without.unsqueeze(1))
