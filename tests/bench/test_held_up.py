"""Benchmarks on a machine that holds their processes up: longer than a slice lasts, and after an answer."""

from __future__ import annotations

import time
from itertools import count
from typing import Any, cast

import pytest

from recsys_plugin.bench import load_driver
from recsys_plugin.bench.load_driver import OUR_WAYS, Slice
from recsys_plugin.bench.stages import StageClock
from recsys_plugin.inference.calls import Infer


@pytest.mark.parametrize("way", OUR_WAYS)
async def test_who_was_held_up_for_a_whole_slice_still_asks_once(way: str) -> None:
    order = Slice(way, 3, begins=time.monotonic() - 2, ends=time.monotonic() - 1)
    asked = count()

    async def ask() -> None:
        next(asked)

    taken = await load_driver._tasks(order, ask) if way == "tasks" else load_driver._threads(order, lambda: next(asked))
    assert len(taken) == next(asked) == 3


def test_a_request_that_triton_counts_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StageClock(cast(Any, None), None, cast(Any, None))
    looks = count(1)
    monkeypatch.setattr(clock, "_steps_of", lambda call: (call.model,))
    monkeypatch.setattr(clock, "_statistics", lambda version: {"rank": {"requests": int(next(looks) > 250)}})
    assert clock._statistics_with(Infer("rank", 1, {}, {}), {"rank": {"requests": 0}}) == {"rank": {"requests": 1}}
