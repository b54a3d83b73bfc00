"""Pacing: a campaign takes part in such a share of the auctions that its budget lasts for the day.

As in "Budget Pacing for Targeted Online Advertisements at LinkedIn" (Agarwal et al. 2014), what is planned follows the
forecast of the day's traffic, and a campaign that is ahead of its plan is kept out of auctions at random; its bid stays
as it is. There, the share of auctions is moved by a tenth every minute; here it follows from how far spend is ahead
(a proportional controller), so that nothing has to be kept but the spend, and all servers agree at once.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pass_rate", "planned_share", "traffic_before"]

_HOUR = 3_600.0


def traffic_before(second: float, traffic: Sequence[float]) -> float:
    """The share of a day's traffic that comes before a second of it; within an hour it comes evenly.

    Args:
        second: seconds since the day began; outside of it counts as its beginning or end.
        traffic: weights of the hours, 0 or more, one of them above 0.
    """
    hours = min(max(second, 0.0), len(traffic) * _HOUR) / _HOUR
    whole = min(int(hours), len(traffic) - 1)
    return (sum(traffic[:whole]) + (hours - whole) * traffic[whole]) / sum(traffic)


def planned_share(second: float, window: tuple[float, float], traffic: Sequence[float]) -> float:
    """The share of today's budget that is planned to be spent by a second of the day, 0 to 1.

    Args:
        second: since the day began. window: the seconds between which the campaign runs today; where no traffic is
            expected in it, there is nothing to spread, and the share is 1.
        traffic: see :func:`traffic_before`.
    """
    begins, now, ends = (traffic_before(each, traffic) for each in (window[0], second, window[1]))
    return min(1.0, max(0.0, (now - begins) / (ends - begins))) if ends > begins else 1.0


def pass_rate(
    second: float,
    window: tuple[float, float],
    traffic: Sequence[float],
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
    now, soon = (budget * planned_share(each, window, traffic) for each in (second, min(second + ahead, window[1])))
    return min(1.0, max(0.0, (soon - spent) / max(soon - now, float(bid))))
