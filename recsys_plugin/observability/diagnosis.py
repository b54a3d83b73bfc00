"""Why a page was slow or not a full one, from what the request log has of it: findings, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recsys_plugin.observability.request import FULL
from recsys_plugin.observability.request_log import ELSEWHERE, RequestRecord

__all__ = ["Diagnosis", "Finding", "StageTime", "explain_request"]

#: A stage stands out if it took so many times what 95 of 100 requests take at most, and half a millisecond more.
_OUT_OF_LINE, _LEAST_MS = 1.5, 0.5
#: A page that is made in place of a full one may come so many milliseconds after its deadline.
_FALLBACK_MS = 5.0

_SLOW = {
    "features": (
        "Redis, or the way to it",
        "look at `recsys top` and at Redis' SLOWLOG and LATENCY; other programs on its core, saving to disk and large "
        "deletions stop it",
    ),
    "inference": (
        "Triton, or the way to it",
        "look at the queue time in `recsys top`: if it grew, add instances, replicas or cores, or ask for fewer "
        "candidates; if not, the model computed longer",
    ),
    "policy": (
        "this process: choosing the items",
        "look at the rules of the shelf (`recsys rules show`) and at what else the process did: other threads and the "
        "garbage collector take its time",
    ),
    ELSEWHERE: (
        "this process, outside of the stages: waiting for the interpreter or for another version to load",
        "look at the processor's load and at how many requests the process answers at once",
    ),
}
_LEVELS = {
    "cached_features": "the models ranked with features that the client had read before, or with defaults",
    "retrieval": "items that the models had found before, as they could not be asked now",
    "lexical": "items that have the words of the query",
    "popularity": "what is popular, as neither models nor earlier answers could be had",
    "empty": "nothing, as there was nothing to fall back on",
}
_ERRORS = {
    "StoreUnavailable": "see that Redis runs and can be reached from here: `recsys status`, `recsys doctor`",
    "InferenceUnavailable": "see that Triton runs and has the version: `recsys status`, `recsys doctor`",
    "TritonUnreachable": "see that Triton runs and can be reached from here: `recsys status`, `recsys doctor`",
    "ReleaseChanged": "a version went away while it was asked: load it again, or promote another (`recsys models`)",
    "DeadlineExceeded": "see below where the time went; allow more with timeout=, or let the client fall back",
    "Overloaded": "there were more requests than the client may have under way: add processes, or raise its limits",
    "FeatureContractError": "model and store disagree: `recsys apply` and `recsys materialize`, or export again",
    "InvalidInput": "the caller's argument is to blame: the message names it",
}


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of a request, in milliseconds, beside what is usual."""

    stage: str
    ms: float
    usual_p50: float | None
    usual_p95: float | None
    usual_p99: float | None
    stands_out: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    what: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the log says of a request."""

    record: RequestRecord
    stages: tuple[StageTime, ...]
    """``total`` last."""
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def explain_request(record: RequestRecord) -> Diagnosis:
    """Stage by stage where the time of a request went, and what is to be said of its answer."""
    stages = tuple(_stages(record))
    return Diagnosis(record, stages, tuple(_findings(record, stages)))


def _stages(record: RequestRecord) -> Iterator[StageTime]:
    for stage, ms in (*record.stages.items(), ("total", record.ms)):
        p50, p95, p99 = record.usual.get(stage, (None, None, None))
        limit = None if p95 is None else max(_OUT_OF_LINE * p95, p95 + _LEAST_MS)
        if stage == ELSEWHERE and record.usual:
            limit = _LEAST_MS  # what a healthy request takes outside of its stages is not worth a number
        # Without anything to compare with, what took most of the time is what to look at.
        out = ms > limit if limit is not None else stage != "total" and ms > 0.5 * record.ms
        yield StageTime(stage, ms, p50, p95, p99, out)


def _findings(record: RequestRecord, stages: tuple[StageTime, ...]) -> Iterator[Finding]:
    if record.outcome in _ERRORS or record.error:
        mend = _ERRORS.get(record.outcome, "the message says what is wrong")
        yield Finding(f"it failed: {record.outcome}", record.error, mend)
    if record.level != FULL:
        shown = _LEVELS.get(record.level, record.level)
        yield Finding(f"it fell back on {record.level}", f"{record.reason}. Shown was {shown}", _mend_fallback(record))
    if record.away:
        yield Finding(
            f"not asked at that time: {', '.join(record.away)}",
            "it had not answered before; the client looks again and again whether it is back",
            "`recsys status`, and that server's log",
        )
    for stage in sorted(stages, key=lambda stage: -stage.ms):
        if stage.stands_out and stage.stage in _SLOW:
            where, mend = _SLOW[stage.stage]
            beside = (
                "" if stage.usual_p50 is None
                else f"; usual are {stage.usual_p50:.1f}, and {stage.usual_p95:.1f} at p95"
            )  # fmt: skip
            yield Finding(f"{stage.stage} took {stage.ms:.1f} ms of {record.ms:.1f}{beside}", f"it is {where}", mend)
    if record.timeout_ms and record.ms > record.timeout_ms:
        over = f"it took {record.ms:.1f} ms, allowed were {record.timeout_ms:.0f}"
        if record.level != FULL and record.ms <= record.timeout_ms + _FALLBACK_MS:
            yield Finding(
                over,
                "a server was waited for until the end, and what stands in was made after that",
                "nothing besides: once the server answers in time, so do pages",
            )
        else:
            yield Finding(
                over,
                "the process did not get to it in time",
                "look at the processor's load and at how many requests the process answers at once",
            )
    if record.expired:
        yield Finding(
            f"{len(record.expired)} of {record.features} features were too old: {_some(record.expired)}",
            "their defaults stood in",
            "`recsys materialize`, and see that `recsys stream` keeps up (`recsys events status`)",
        )
    if record.user_count and record.known_users < record.user_count and record.features:
        unknown = record.user_count - record.known_users
        yield Finding(
            f"{unknown} of {record.user_count} users unknown to the feature store",
            "the models saw defaults",
            "nothing, if they are new; else `recsys materialize`",
        )
    elif record.missing:
        yield Finding(
            f"{len(record.missing)} of {record.features} features were missing: {_some(record.missing)}",
            "their defaults stood in",
            "nothing, if the user has none of them; else `recsys apply` and `recsys materialize`",
        )


def _mend_fallback(record: RequestRecord) -> str:
    """What to do about the server that the reason names."""
    server = (
        "Triton" if "grpc://" in record.reason or "grpcs://" in record.reason
        else "Redis" if record.level == "cached_features" or "redis" in record.reason.lower()
        else "the server that the reason names"
    )  # fmt: skip
    return (
        f"see that {server} runs and answers in time (`recsys status`, `recsys top`); pages are full again once it does"
    )


def _some(names: Sequence[str]) -> str:
    """The first names."""
    return ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])])
