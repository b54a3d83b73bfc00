"""A user's features while the feature store fails: those read before, or else the contract's defaults."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from recsys_plugin.client.consents import honoured
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.fallback import Fallback
from recsys_plugin.errors import FeatureContractError, Overloaded, RecsysError, ServiceUnavailable
from recsys_plugin.features.plan import FeatureReport, FeatureTensors, ReadFeatures, ReadPlan, Reply

__all__ = ["read_or_recall", "recall"]

#: What a value takes beside its bytes.
_OVERHEAD = 41
_KEPT = "features"

_Decoded = tuple[FeatureTensors, tuple[FeatureReport, ...]]


def read_or_recall(
    context: RequestContext, plan: ReadPlan, user_ids: Sequence[str], call: ReadFeatures
) -> Generator[ReadFeatures, Any, _Decoded]:
    """Some users' features, as tensors: as they are now, or else as :func:`recall` has them.

    What could be read is kept for the next time. Whoever's features cannot be understood is recalled alone.

    Raises:
        ServiceUnavailable, FeatureContractError: in a strict context, if they cannot be read or understood.
    """
    replies: Sequence[Reply] | None = None
    try:
        replies = yield call
        decoded = _decode(context, plan, user_ids, replies)
    except (ServiceUnavailable, FeatureContractError) as error:
        # A client that has too much to do is not to ask Triton either.
        if context.strict or isinstance(error, Overloaded):
            raise
        return recall(context, plan, user_ids, error, replies)
    for user_id, reply in zip(user_ids, honoured(context, user_ids, replies, len(plan.fields)), strict=True):
        size = sum(map(len, filter(None, reply))) + _OVERHEAD * len(reply)
        context.memory.put((_KEPT, user_id, plan.contract.fingerprint), reply, size, context.started)
    return decoded


def recall(
    context: RequestContext,
    plan: ReadPlan,
    user_ids: Sequence[str],
    error: RecsysError,
    replies: Sequence[Reply] | None = None,
) -> _Decoded:
    """Some users' features from memory, as they would be decoded now; the request's pages say so.

    Args:
        error: why they could not be read.
        replies: what was read nevertheless: of whom it can be understood, it is taken.
    """
    taken: list[Reply] = []
    for number, user_id in enumerate(user_ids):
        if replies is not None:
            try:
                _decode(context, plan, [user_id], replies[number : number + 1])
            except (ServiceUnavailable, FeatureContractError) as own:
                error = own
            else:
                taken.append(replies[number])
                continue
        kept = context.memory.get((_KEPT, user_id, plan.contract.fingerprint), context.started)
        if kept is None:
            reply: Reply = [None] * len(plan.fields)
            fallback = Fallback("cached_features", f"{error}; of this user none were kept: the contract's defaults")
        else:
            reply, age = kept
            fallback = Fallback("cached_features", f"{error}; features read {age:.1f} s before", age)
        taken.append(reply)
        context.fallbacks[user_id] = fallback
    return _decode(context, plan, user_ids, taken)


def _decode(context: RequestContext, plan: ReadPlan, user_ids: Sequence[str], replies: Sequence[Reply]) -> _Decoded:
    told = honoured(context, user_ids, replies, len(plan.fields))
    return plan.decode(user_ids, told, now=context.now, rows=context.release.catalogue.rows)
