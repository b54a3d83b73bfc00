"""From a setting's text to an exploration policy."""

from __future__ import annotations

from pathlib import Path

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.policy.exploration import EpsilonGreedy, ExplorationPolicy, GumbelTopK, NoExploration
from recsys_plugin.policy.thompson import ThompsonSampling

__all__ = ["EXPLORATION_FORMS", "parse_exploration"]

EXPLORATION_FORMS = ("none", "epsilon:<0 … 1>", "gumbel:<temperature above 0>", "thompson:<FILE.npz>")


def parse_exploration(text: str) -> ExplorationPolicy:
    """The policy that a setting names: ``none``, ``epsilon:0.05``, ``gumbel:0.3`` or ``thompson:FILE``.

    Raises:
        ConfigurationError: if the text is none of these, or the value or file is wrong.
    """
    name, _, value = text.strip().partition(":")
    try:
        if name == "none" and not value:
            return NoExploration()
        if name == "epsilon":
            return EpsilonGreedy(float(value))
        if name == "gumbel":
            return GumbelTopK(float(value))
        if name == "thompson" and value:
            return ThompsonSampling.load(Path(value))
    except InvalidInput as error:
        raise ConfigurationError(f"exploration {text!r}: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"exploration {text!r}: {value!r} is not a number") from error
    raise ConfigurationError(f"exploration {text!r}: there are {', '.join(EXPLORATION_FORMS)}")
