"""Users, items and a click model that are known, all drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput

__all__ = ["Outcomes", "ShopOptions", "SimulatedShop"]

_Array = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShopOptions:
    """How large the shop is, and how its visitors behave.

    Attributes:
        users: who visits. items: in the catalogue at first. arrivals: new items a round; as many old ones leave, so the
            catalogue keeps its size. width: of latent vectors.
        groups: segments of users and categories of items, which a model may know.
        pool: candidates that the first stage finds for a visit. page: items shown.
        taste: how much the latent match counts in the log-odds of a click. quality: standard deviation of what makes
            an item good for everybody, which nothing shows but clicks.
        base: log-odds of a click on an average item that is looked at.
        decay: P(looked at) at position j is j to the power of -decay, which is the position-based click model
            (Richardson et al. 2007).
        noise: standard deviation of what is observed of a latent vector, around each of its numbers.
        cart, purchase: P(cart | click) and P(purchase | cart) of an average item.
    """

    users: int = 2000
    items: int = 400
    arrivals: int = 20
    width: int = 8
    groups: int = 8
    pool: int = 100
    page: int = 10
    taste: float = 1.0
    quality: float = 1.0
    base: float = -2.5
    decay: float = 0.6
    noise: float = 1.0
    cart: float = 0.3
    purchase: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.page <= self.pool <= self.items:
            raise InvalidInput(
                f"simulated shop: a page of {self.page} from a pool of {self.pool} of {self.items} items cannot be"
            )
        if not 0 <= self.arrivals <= self.items:
            raise InvalidInput(f"simulated shop: {self.arrivals} arrivals a round are not from 0 to {self.items} items")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of pages: bool ``[visits, page]`` each; no cart without a click, no purchase without a cart."""

    click: NDArray[np.bool_]
    cart: NDArray[np.bool_]
    purchase: NDArray[np.bool_]


class SimulatedShop:
    """Everything of the shop for a number of rounds; nothing changes after it is made, so arms share it.

    Attributes:
        total: items that are ever there. segment: int64 ``[users]``. category: int64 ``[total]``.
    """

    def __init__(self, options: ShopOptions, rounds: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.options, self.rounds = options, rounds
        self.total = options.items + options.arrivals * rounds
        centres = generator.normal(size=(options.groups, options.width))
        self.segment = generator.integers(0, options.groups, options.users)
        self.category = generator.integers(0, options.groups, self.total)
        self._users = _unit(centres[self.segment] + generator.normal(size=(options.users, options.width)))
        self._items = _unit(centres[self.category] + generator.normal(size=(self.total, options.width)))
        self._quality = generator.normal(0.0, options.quality, self.total)
        spread = options.noise / np.sqrt(options.width)
        self._seen_users = _unit(self._users + generator.normal(0.0, spread, self._users.shape))
        self._seen_items = _unit(self._items + generator.normal(0.0, spread, self._items.shape))

    def active(self, number: int) -> _Ints:
        """Items that are there in a round: the newest ``options.items``."""
        first = self.options.arrivals * number
        return np.arange(first, first + self.options.items)

    def candidates(self, number: int, users: _Ints, generator: np.random.Generator) -> _Ints:
        """What a first stage finds for each user: int64 ``[visits, pool]``, by the observed match and by chance."""
        active = self.active(number)
        score = 2.0 * self._seen_users[users] @ self._seen_items[active].T
        score += generator.gumbel(size=score.shape)
        return active[np.argpartition(-score, self.options.pool - 1, axis=1)[:, : self.options.pool]]

    def affinity(self, users: _Ints, items: _Ints) -> _Array:
        """The match as it is observed, which a model may know; shapes broadcast."""
        match: _Array = (self._seen_users[users] * self._seen_items[items]).sum(axis=-1)
        return match

    def appeal(self, users: _Ints, items: _Ints) -> _Array:
        """P(click | looked at), which no model may know; shapes broadcast."""
        match = (self._users[users] * self._items[items]).sum(axis=-1)
        logit = self.options.base + 2.0 * self.options.taste * match + self._quality[items]
        chance: _Array = 1.0 / (1.0 + np.exp(-logit))
        return chance

    def examination(self, places: _Ints) -> _Array:
        """P(looked at) at places counted from 0."""
        chance: _Array = np.power(places + 1.0, -self.options.decay).astype(np.float64)
        return chance

    def outcomes(self, users: _Ints, pages: _Ints, generator: np.random.Generator) -> Outcomes:
        """What users do with pages, int64 ``[visits, page]`` items."""
        chance = self.appeal(users[:, None], pages) * self.examination(np.arange(pages.shape[1]))
        throws = generator.random((3, *pages.shape))
        click = throws[0] < chance
        cart = click & (throws[1] < self.options.cart)
        return Outcomes(click, cart, cart & (throws[2] < self.options.purchase))


def _unit(vectors: _Array) -> _Array:
    scaled: _Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    return scaled
