"""Pacing: a campaign takes part in such a share of the auctions that its budget lasts for the day.

As in "Budget Pacing for Targeted Online Advertisements at LinkedIn" (Agarwal et al. 2014), what is planned follows the
forecast of the day's traffic, and a campaign that is ahead of its plan is kept out of auctions at random; its bid stays
as it is. There, the share of auctions is moved by a tenth every minute; here it follows from how far spend is ahead
(a proportional controller), so that nothing has to be kept but the spend, and all servers agree at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

__all__ = ["DAY", "TrafficForecast", "pass_rate", "planned_share"]

#: Seconds.
DAY = 86_400.0


@dataclass(frozen=True)
class TrafficForecast:
    """How a day's requests are expected to be spread over its hours.

    Args:
        weights: of equally long parts of the day, in any unit: 0 or more, one of them above 0.
    """

    weights: tuple[float, ...]

    def before(self, second: float) -> float:
        """The share of the day's traffic that comes before a second of it, 0 to 1; within a part it comes evenly.

        Outside of the day, that of its beginning or end.
        """
        if second <= 0.0:
            return 0.0
        if second >= DAY:
            return 1.0
        parts = second * len(self.weights) / DAY
        whole = int(parts)
        low, high = self._shares[whole : whole + 2]
        return low + (parts - whole) * (high - low)

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        total = sum(self.weights)
        return tuple(each / total for each in accumulate(self.weights, initial=0.0))


def planned_share(second: float, window: tuple[float, float], traffic: TrafficForecast) -> float:
    """The share of today's budget that is planned to be spent by a second of the day, 0 to 1.

    Args:
        second: since the day began. window: the seconds between which the campaign runs today; where no traffic is
            expected in it, there is nothing to spread, and the share is 1.
    """
    begins, ends = traffic.before(window[0]), traffic.before(window[1])
    return min(1.0, max(0.0, (traffic.before(second) - begins) / (ends - begins))) if ends > begins else 1.0


def pass_rate(
    second: float,
    window: tuple[float, float],
    traffic: TrafficForecast,
    *,
    spent: int,
    budget: int,
    bid: int,
    ahead: float,
) -> float:
    """The share of auctions that a campaign takes part in, 0 to 1.

    1 while its spend is not ahead of the plan, 0 once it is where the plan will be ``ahead`` seconds later, and in
    proportion between. Where the plan grows by less than one bid in that time, one bid takes its place, since spend
    moves in clicks.

    Args:
        second, window, traffic: see :func:`planned_share`.
        spent, budget, bid: micro-units; spent and budget are today's.
        ahead: seconds, above 0.
    """
    if spent >= budget:
        return 0.0
    now = budget * planned_share(second, window, traffic)
    soon = budget * planned_share(min(second + ahead, window[1]), window, traffic)
    return min(1.0, max(0.0, (soon - spent) / max(soon - now, float(bid))))
