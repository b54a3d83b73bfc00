"""Where the time of a request goes, stage by stage, with Triton's own statistics.

Each request is asked once through the client, which books features, inference and policy, and once by hand on the same
message: building and serialising it, the call, parsing and checking the answer are timed one by one, and Triton's
counters are read before and after. What of the call Triton does not account for is the network: gRPC on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter, sleep
from typing import Any

import numpy as np

from recsys_plugin.bench.shop import CALL_TIMEOUT, MeasuredRecommender, ServedShop
from recsys_plugin.bench.timing import Samples
from recsys_plugin.client.results import Page
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.address import CHANNEL_OPTIONS, TritonAddress
from recsys_plugin.inference.calls import Infer
from recsys_plugin.inference.messages import checked_outputs, infer_message
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["STAGES_NOTE", "StageClock", "open_stage_clock"]

STAGES_NOTE = (
    "stages: each request once through the client and once by hand with the same message, one at a time. features, "
    "policy: as the client books them; encode, decode: building and serialising the message, parsing and checking the "
    "answer, timed on the same messages outside of the client; queue, compute: Triton's statistics, of an ensemble the "
    "sum of its steps (steps that ran side by side count both, and a step's output may be booked on after it was "
    "handed over, so that the sum can exceed the whole); server: Triton's own time for the whole request; network: the "
    "call less server and gRPC's serialising; triton_steps: compute of each step"
)

#: Triton adds a request to its statistics just after it answered, on a busy machine long after: they are read again
#: until they have it, after so many seconds.
_PAUSE = 0.001
_COUNTERS = ("queue", "compute_input", "compute_infer", "compute_output")


class _RecordingRecommender(MeasuredRecommender):
    """The blocking client, keeping the last call that it made to Triton."""

    last: Infer | None = None

    def forget(self) -> None:
        """Keep no call, until the next one."""
        self.last = None

    def _perform(self, call: object, timeout: float) -> object:
        if isinstance(call, Infer):
            self.last = call
        return super()._perform(call, timeout)


_Counts = Mapping[str, Mapping[str, int]]


class StageClock:
    """Takes requests apart. Make it with :func:`open_stage_clock`."""

    def __init__(self, client: _RecordingRecommender, stub: Any, triton: TritonManager) -> None:
        self._client = client
        self._stub = stub
        self._triton = triton
        self._steps: dict[str, tuple[str, ...]] = {}

    @property
    def recommender(self) -> MeasuredRecommender:
        """The client to ask through."""
        return self._client

    def recorded(self, ask: Callable[[], Page]) -> tuple[Page, Infer]:
        """Make a request with :attr:`recommender`; its page, and the call to Triton that it took.

        Raises:
            InferenceUnavailable: if it made none.
        """
        self._client.forget()
        page = ask()
        call = self._client.last
        if call is None:
            raise InferenceUnavailable("the request made no call to Triton, so there is nothing to take apart")
        return page, call

    def measure(
        self, ask: Callable[[int], Page], *, calls: int, progress: Callable[[int, int], None]
    ) -> dict[str, Samples]:
        """Take ``calls`` requests apart.

        Args:
            ask: makes one request with :attr:`recommender`, given its number.
            calls: how many.
            progress: told how many are done, and of how many.

        Returns:
            ``stages``: the whole as the client took it, and its stages; ``triton_steps``: the compute time of each
            model that took part, and as the whole their sum.
        """
        rows: list[dict[str, float]] = []
        steps: list[dict[str, float]] = []
        for number in range(calls):
            before = self._statistics(self._client.version)
            page, call = self.recorded(partial(ask, number))
            # Triton may not have counted it yet, and would then take it for the one that is timed next.
            row, computed = self._by_hand(call, self._statistics_with(call, before))
            spent = page.timings
            rows.append({"total": spent.total, "features": spent.features, **row, "policy": spent.policy})
            steps.append(computed)
            progress(number + 1, calls)
        return {
            "stages": _samples(rows, "total"),
            "triton_steps": _samples([{"total": sum(step.values()), **step} for step in steps], "total"),
        }

    def _by_hand(self, call: Infer, before: _Counts) -> tuple[dict[str, float], dict[str, float]]:
        """One call with every part timed, in milliseconds; and the compute time of each step.

        ``before`` is Triton's account of all earlier requests.
        """
        from tritonclient.grpc import service_pb2

        steps = self._steps_of(call)
        began = perf_counter()
        message = infer_message(call, CALL_TIMEOUT)
        built = perf_counter()
        message.SerializeToString()
        serialised = perf_counter()
        reply = self._stub.ModelInfer(message, timeout=CALL_TIMEOUT)
        answered = perf_counter()
        after = self._statistics_with(call, before)
        wire = reply.SerializeToString()
        received = perf_counter()
        parsed = service_pb2.ModelInferResponse.FromString(wire)
        read = perf_counter()
        checked_outputs(call, parsed)
        checked = perf_counter()
        spent = {
            name: {
                counter: (after[name][counter] - before.get(name, {}).get(counter, 0)) / 1e6 for counter in after[name]
            }
            for name in (call.model, *steps)
        }
        whole = spent[call.model]
        parts = {counter: sum(spent[name][counter] for name in steps) for counter in _COUNTERS}
        serialising, parsing = serialised - built, read - received
        return {
            "encode": (serialised - began) * 1000,
            "network": (answered - serialised - serialising - parsing) * 1000 - whole["success"],
            "server": whole["success"],
            **parts,
            "compute": parts["compute_input"] + parts["compute_infer"] + parts["compute_output"],
            "decode": (checked - received) * 1000,
        }, {name: sum(spent[name][counter] for counter in _COUNTERS[1:]) for name in steps}

    def _steps_of(self, call: Infer) -> tuple[str, ...]:
        """The models that do the work of one: its steps, or itself."""
        if call.model not in self._steps:
            with self._triton.errors(f"configuration of model {call.model}"):
                answer = self._triton.client.get_model_config(
                    call.model, str(call.version), client_timeout=CALL_TIMEOUT
                )
            steps = tuple(step.model_name for step in answer.config.ensemble_scheduling.step)
            self._steps[call.model] = steps or (call.model,)
        return self._steps[call.model]

    def _statistics_with(self, call: Infer, before: _Counts) -> _Counts:
        """The statistics, once they have one request more of the called model and of each of its steps."""
        wanted = {*self._steps_of(call), call.model}
        deadline = perf_counter() + CALL_TIMEOUT
        while perf_counter() < deadline:
            after = self._statistics(call.version)
            if all(after[name]["requests"] > before.get(name, {}).get("requests", 0) for name in wanted):
                return after
            sleep(_PAUSE)
        raise InferenceUnavailable(f"Triton's statistics do not show the request to model {call.model}")

    def _statistics(self, version: int) -> _Counts:
        """Model → requests and nanoseconds so far; of each step the newest version answers, which is this one."""
        with self._triton.errors("statistics"):
            answer = self._triton.client.get_inference_statistics(client_timeout=CALL_TIMEOUT)
        return {
            model.name: {
                "requests": model.inference_stats.success.count,
                "success": model.inference_stats.success.ns,
                **{counter: getattr(model.inference_stats, counter).ns for counter in _COUNTERS},
            }
            for model in answer.model_stats
            if model.version == str(version)
        }


@contextmanager
def open_stage_clock(shop: ServedShop) -> Iterator[StageClock]:
    """A client and a channel of its own for the servers of a shop."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    address = TritonAddress.parse(shop.triton_url)
    credentials = address.credentials()
    channel = (
        grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        if credentials is None
        else grpc.secure_channel(address.target, credentials, options=CHANNEL_OPTIONS)
    )
    with (
        channel,
        TritonManager(shop.triton_url, timeout=CALL_TIMEOUT) as triton,
        # What goes on beside the requests would be taken for one of them.
        _RecordingRecommender(
            shop.redis_url,
            shop.triton_url,
            timeout=CALL_TIMEOUT,
            strict=True,
            clock=lambda: shop.now,
            refresh_every=None,
            follow_items=False,
        ) as client,
    ):
        yield StageClock(client, service_pb2_grpc.GRPCInferenceServiceStub(channel), triton)


def _samples(rows: Sequence[Mapping[str, float]], whole: str) -> Samples:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Samples(columns.pop(whole), columns)
