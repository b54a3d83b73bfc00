"""Users who are alike, as pseudonyms, and the communities that they fall into."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsys_plugin.client.arguments import checked_k
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import infer, read_features, user_inputs
from recsys_plugin.errors import ConfigurationError, InferenceUnavailable
from recsys_plugin.features.commands import Commands
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.identifiers import checked_id
from recsys_plugin.inference.calls import OutputSpec
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_USERS
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms, of_halves, opted_out_key

__all__ = ["Community", "SimilarUser", "SimilarUsers", "community", "similar_users"]

_MODEL = "similar_users"
#: Users asked for beyond those wanted, in the place of the user himself and of those who opted out since the export.
_SPARE = 16


@dataclass(frozen=True, slots=True)
class SimilarUser:
    """Somebody's neighbour."""

    pseudonym: str
    """32 hexadecimal digits; the client's method ``pseudonym`` makes that of an id."""
    similarity: float
    """Cosine of the two users' vectors."""


@dataclass(frozen=True, slots=True)
class SimilarUsers:
    """The users nearest to one, nearest first; iterate over it, index it, or take its length."""

    request_id: str
    user_id: str
    users: tuple[SimilarUser, ...]
    version: int
    """Of the models; the users are those of its export."""
    known: bool
    """Whether the store has ever heard of this user; nobody is like one of whom nothing is known."""

    def __iter__(self) -> Iterator[SimilarUser]:
        """The users, nearest first."""
        return iter(self.users)

    def __len__(self) -> int:
        """How many they are."""
        return len(self.users)

    def __getitem__(self, index: int) -> SimilarUser:
        """The user at a place counted from 0."""
        return self.users[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Community:
    """A group of users who buy alike."""

    number: int
    """Names it within its version."""
    version: int
    members: int
    """How many users it had at the export, never fewer than the export's least size."""
    item_ids: tuple[str, ...]
    """What they buy more than others do; each bought by as many members as a community has at least."""
    categories: tuple[str, ...]
    """Likewise."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def similar_users(
    context: RequestContext, pseudonyms: Pseudonyms | None, user_id: object, k: object
) -> Generator[Any, Any, SimilarUsers]:
    """The users nearest to one, who is not among them; nobody for one who opted out, or of whom nothing is known."""
    user, wanted = checked_id(user_id, "user_id"), min(checked_k(k), MOST_USERS)
    names, release = _required(context, pseudonyms), context.release
    found: tuple[SimilarUser, ...] = ()
    known = False
    if wanted:
        tensors, known = yield from _features(context, user)
        asked = wanted + _SPARE
        while known:
            answer = yield from _ask(context, names, tensors, asked)
            nearest = _named(answer)
            own = names.of(user)
            gone = yield from _opted_out(context, [own, *nearest])
            if own in gone:
                break
            staying = [name for name in nearest if name != own and name not in gone]
            found = tuple(SimilarUser(name, nearest[name]) for name in staying[:wanted])
            if len(found) == wanted or len(nearest) < asked:
                break
            asked *= 2
    return SimilarUsers(context.request_id, user, found, release.version, known)


def community(
    context: RequestContext, pseudonyms: Pseudonyms | None, user_id: object
) -> Generator[Any, Any, Community | None]:
    """The community of a user; ``None`` if he opted out, nothing is known of him, or there are no communities."""
    user, release = checked_id(user_id, "user_id"), context.release
    names = _required(context, pseudonyms)
    tensors, known = yield from _features(context, user)
    if not known:
        return None
    own = names.of(user)
    if own in (yield from _opted_out(context, [own])):
        return None
    number = int((yield from _ask(context, names, tensors, 1))["community"][0, 0])
    if number < 0:
        return None
    told = yield from infer(
        context,
        "communities",
        {"community": np.array([[number]], dtype=np.int64)},
        {
            "members": OutputSpec("INT64", (1, 1)),
            "item_rows": OutputSpec("INT64", (1, -1)),
            "categories": OutputSpec("BYTES", (1, -1)),
        },
    )
    return Community(
        number,
        release.version,
        int(told["members"][0, 0]),
        tuple(release.item_id(row) for row in told["item_rows"][0].tolist() if row >= 0),
        tuple(name.decode() for name in told["categories"][0] if name),
    )


def _required(context: RequestContext, pseudonyms: Pseudonyms | None) -> Pseudonyms:
    if pseudonyms is None:
        raise ConfigurationError(
            f"users are shown to others as pseudonyms, which need a key: set {KEY_VARIABLE}, the same as for "
            "`recsys export`, or pass pseudonym_key"
        )
    if _MODEL not in context.release.models:
        raise InferenceUnavailable(
            f"version {context.release.version} was exported without the model {_MODEL}; run `recsys export`"
        )
    return pseudonyms


def _features(context: RequestContext, user: str) -> Generator[Any, Any, tuple[FeatureTensors, bool]]:
    tensors, (report,) = yield from read_features(context, context.release.models[_MODEL], [user])
    return tensors, report.known


def _ask(
    context: RequestContext, names: Pseudonyms, tensors: FeatureTensors, count: int
) -> Generator[Any, Any, dict[str, Array]]:
    answer = yield from infer(
        context,
        _MODEL,
        {**user_inputs(tensors), "counts": np.array([[count, count]], dtype=np.int64)},
        {
            "pseudonyms": OutputSpec("INT64", (1, -1, 2)),
            "similarities": OutputSpec("FP32", (1, -1)),
            "community": OutputSpec("INT64", (1, 1)),
            "key_check": OutputSpec("INT64", (1, 2)),
        },
    )
    check = of_halves(*answer["key_check"][0].tolist())
    if check == of_halves(0, 0):
        raise ConfigurationError(
            f"version {context.release.version} was exported without users; set {KEY_VARIABLE} and run `recsys export`"
        )
    if check != names.check:
        raise ConfigurationError(
            f"{KEY_VARIABLE} is another key than version {context.release.version} was exported with; set that one, "
            "or run `recsys export` with this one"
        )
    return answer


def _named(answer: dict[str, Array]) -> dict[str, float]:
    """Pseudonym → similarity, in the order of the answer."""
    halves, cosines = answer["pseudonyms"][0].tolist(), answer["similarities"][0].tolist()
    if not np.isfinite(cosines).all():
        raise InferenceUnavailable(f"model {_MODEL} answered a similarity that is no finite number")
    return {of_halves(*pair): cosine for pair, cosine in zip(halves, cosines, strict=True) if any(pair)}


def _opted_out(context: RequestContext, names: list[str]) -> Generator[Any, Any, set[str]]:
    """Who of them opted out since the export."""
    key = opted_out_key(context.release.models[_MODEL].plan.contract.project)
    (flags,) = yield Commands((("SMISMEMBER", key, *names),))
    return {name for name, flag in zip(names, flags, strict=True) if flag}
