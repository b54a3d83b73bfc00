"""The served shop that is measured: connected clients, users to ask for, and the moment of every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.release import Release
from recsys_plugin.errors import ConfigurationError, ServiceUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import FeatureReport, FeatureTensors, ReadFeatures, ReadPlan, Reply
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["CALL_TIMEOUT", "MeasuredRecommender", "ServedShop", "Tell", "draw_users", "open_shop"]

#: Told what is under way, how much of it is done, and of how much.
Tell = Callable[[str, int, int], None]

#: Seconds that a measured call may take; long, so that a slow call is measured rather than cut off.
CALL_TIMEOUT = 10.0


class MeasuredRecommender(Recommender):
    """The blocking client, with a view of what it serves with."""

    @property
    def release(self) -> Release:
        """The version in use, its catalogue and read plans."""
        return self._release


@dataclass(frozen=True, slots=True)
class ServedShop:
    """One home's servers, ready to be measured."""

    settings: Settings
    redis_url: str
    triton_url: str
    now: float
    """The time of every request, unix seconds."""
    recommender: MeasuredRecommender
    reader: FeatureReader
    users: tuple[str, ...]
    """Ids drawn at random from the shop's users."""

    @property
    def release(self) -> Release:
        """What is served."""
        return self.recommender.release

    @property
    def plan(self) -> ReadPlan:
        """How the ranking models' features are read."""
        return self.release.models["rank"].plan

    def read(self, user_id: str) -> list[Reply]:
        """A user's features as Redis has them."""
        return self.reader.read(ReadFeatures([self.plan.key(user_id)], self.plan.fields), timeout=CALL_TIMEOUT)

    def decode(self, user_id: str, replies: list[Reply]) -> tuple[FeatureTensors, FeatureReport]:
        """The tensors made of them, ``[1, width]`` each, and what was there."""
        rows = self.release.catalogue.rows
        tensors, (report,) = self.plan.decode([user_id], replies, now=self.now, rows=rows)
        return tensors, report


@contextmanager
def open_shop(settings: Settings, *, now: float, users: int, seed: int) -> Iterator[ServedShop]:
    """Connect to the servers of a home and draw users.

    Args:
        settings: names the home.
        now: the time of every request, unix seconds.
        users: how many to draw, without repetition; all, if there are fewer.
        seed: fixes which.

    Raises:
        ConfigurationError: if the home has no data yet.
        ServiceUnavailable: if its servers do not answer.
    """
    services = Services(settings)
    drawn = draw_users(settings, users, seed=seed)
    try:
        recommender = MeasuredRecommender(
            services.redis_url,
            services.triton_url,
            timeout=CALL_TIMEOUT,
            strict=True,
            clock=lambda: now,
            # The same queries come again and again here, and each is to be measured whole.
            query_cache=0,
        )
    except ServiceUnavailable as error:
        raise type(error)(f"{error}\nStart the servers with `recsys up`.") from error
    with recommender, closing(FeatureReader(RedisAddress.parse(services.redis_url), timeout=CALL_TIMEOUT)) as reader:
        yield ServedShop(
            settings=settings,
            redis_url=services.redis_url,
            triton_url=services.triton_url,
            now=now,
            recommender=recommender,
            reader=reader,
            users=drawn,
        )


def draw_users(settings: Settings, count: int, *, seed: int) -> tuple[str, ...]:
    """Ids of so many of a home's users, drawn without repetition; all, if there are fewer.

    Raises:
        ConfigurationError: if the home has no data yet.
    """
    table = settings.tables / "users.parquet"
    if not table.exists():
        raise ConfigurationError(f"{table} does not exist; run `recsys demo`, or `recsys data` and the steps after it")
    known = pq.read_table(table, columns=["user_id"])["user_id"].to_pylist()
    return tuple(known[position] for position in np.random.default_rng(seed).permutation(len(known))[:count])
