"""Which users an export may show to others, as pseudonyms: those who did not opt out, and nobody without a key."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.privacy.budget import spend
from recsys_plugin.privacy.noise import discrete_laplace
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

if TYPE_CHECKING:  # importing torch takes seconds, and a step that is current does not need it
    from recsys_plugin.training.communities import CountedPrivately, People
    from recsys_plugin.training.run import TrainingRun

__all__ = ["exported_people", "opted_out", "people_inputs"]


def opted_out(settings: Settings) -> frozenset[str]:
    """The ids and pseudonyms in the file that ``RECSYS_OPTED_OUT`` names, one a line; blank lines count as nothing.

    Raises:
        ConfigurationError: if it cannot be read: nobody is taken for having agreed.
    """
    if settings.opted_out is None:
        return frozenset()
    try:
        lines = settings.opted_out.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"RECSYS_OPTED_OUT={settings.opted_out} cannot be read: {error}") from error
    return frozenset(line.strip() for line in lines if line.strip())


def people_inputs(settings: Settings) -> dict[str, Any]:
    """What an export's users depend on beside the data: the key, which cannot be told from this, and who opted out."""
    key = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key).check
    gone = hashlib.sha256("\n".join(sorted(opted_out(settings))).encode()).hexdigest()
    return {"key": key, "opted_out": gone}


def exported_people(
    settings: Settings,
    run: TrainingRun,
    *,
    least: int,
    epsilon: float | None = None,
    most: int = 20,
    budget: float | None = None,
) -> People | None:
    """The users and their communities; ``None`` without a key.

    Args:
        least: users of a community, and of whatever is told of one.
        epsilon: of differential privacy for what is told of communities, entered into the home's account; ``None`` for
            exact counts. most: items, and categories, that a user then counts for. budget: what all may spend.

    Raises:
        CheckFailed: if too little of the budget is left.
    """
    if settings.pseudonym_key is None:
        return None
    from recsys_plugin.training.communities import people_now

    privately = None if epsilon is None else _privately(epsilon, most)
    if privately is not None:
        spend(settings, "communities", epsilon=privately.epsilon, now=datetime.now(UTC), most=budget)
    run.progress("communities", 0, 0)
    names = Pseudonyms(settings.pseudonym_key)
    return people_now(run, names, opted_out=opted_out(settings), least=least, privately=privately)


def _privately(epsilon: float, most: int) -> CountedPrivately:
    """Mechanisms that spend so much together: a tenth on sizes, six tenths on items, the rest on categories."""
    import numpy as np

    from recsys_plugin.training.communities import CountedPrivately

    return CountedPrivately(
        discrete_laplace(epsilon=0.1 * epsilon, sensitivity=1),
        discrete_laplace(epsilon=0.6 * epsilon, sensitivity=most),
        discrete_laplace(epsilon=0.3 * epsilon, sensitivity=most),
        most,
        np.random.default_rng(),
    )
