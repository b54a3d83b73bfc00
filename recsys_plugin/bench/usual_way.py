"""The usual way to join the two servers: Feast's SDK for the features, numpy to pack them, tritonclient to ask.

Written as the two projects' own documentation shows it, and as fast as that allows: one SDK call for the user and one
for all candidates, columns packed at once, one request.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from recsys_plugin.bench.shop import CALL_TIMEOUT, ServedShop
from recsys_plugin.errors import InferenceUnavailable, StoreUnavailable
from recsys_plugin.features.contract import Encoding, FeatureSpec, TensorName
from recsys_plugin.inference.tensors import Array
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["USUAL_WAY_NOTE", "UsualAnswer", "UsualWay", "open_usual_way"]

_SCORES = ("scores", "purchase_probability", "cart_probability", "click_probability")
_DTYPES = {TensorName.FLOAT: np.float32, TensorName.INT: np.int64, TensorName.STRING: object}
_TRITON_DTYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(object): "BYTES"}

USUAL_WAY_NOTE = (
    "usual way: two calls of get_online_features with to_dict, one for the user and one for the candidates' catalogue "
    "columns, statistics and item vector (what a ranking model takes of an item); numpy; tritonclient with InferInput. "
    "Three things favour it: it is given the candidates and finds none, its item tensors are packed and not sent "
    "(the served models have their own), and it makes no page. It asks for the user's event times, since the SDK "
    "returns expired values like others"
)


@dataclass(frozen=True, slots=True)
class UsualAnswer:
    """Scores of the candidates in the order given, their order by score, and the milliseconds that each stage took."""

    scores: Array
    order: Array
    stages: Mapping[str, float]


@contextmanager
def open_usual_way(shop: ServedShop) -> Iterator[UsualWay]:
    """Open Feast's store and a client of Triton for the servers of a shop; takes seconds."""
    from recsys_plugin.pipeline.feast_repository import open_store

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own deprecations are not what is measured
        store = open_store(shop.settings, shop.redis_url)
        with TritonManager(shop.triton_url, timeout=CALL_TIMEOUT) as triton:
            yield UsualWay(shop, store, triton)


class UsualWay:
    """Answers :meth:`rank` from the same two servers with the two SDKs. Make it with :func:`open_usual_way`."""

    def __init__(self, shop: ServedShop, store: Any, triton: TritonManager) -> None:
        model = shop.release.models["rank"]
        self._contract = model.plan.contract
        # A merged graph answers with one tensor of several columns, the steps of an ensemble with a tensor for each.
        self._outputs = ("values",) if model.value_columns else _SCORES
        self._score_column = model.value_columns.index("scores") if model.value_columns else None
        self._rows = shop.release.catalogue.rows
        self._version = str(shop.release.version)
        self._now = shop.now
        self._store = store
        self._triton = triton
        self._user_features = [spec.reference for spec in self._contract.stored_features]
        #: References of the items' texts, numbers, times and vector, in the order of the packed columns.
        self.item_texts, self.item_numbers, self.item_times = self._item_columns()
        self.item_vector = "item_embedding:vector"
        self._item_features = [*self.item_texts, *self.item_numbers, *self.item_times, self.item_vector]

    @property
    def item_types(self) -> dict[str, str]:
        """The items' features and their Feast types, in the order asked for."""
        views = {reference.partition(":")[0] for reference in self._item_features}
        types = {
            f"{view}:{field.name}": str(field.dtype.to_value_type().name)
            for view in views
            for field in self._store.get_feature_view(view).features
        }
        return {reference: types[reference] for reference in self._item_features}

    def user_features(self, user_id: str) -> dict[str, list[Any]]:
        """The first SDK call: a user's features, with event times, since the SDK returns expired values like others.

        Raises:
            StoreUnavailable: if Redis does not answer.
        """
        key: object = user_id if self._contract.join_key_type == "STRING" else int(user_id)
        return self._online(self._user_features, [{self._contract.join_key: key}], times=True)

    def item_features(self, item_ids: Sequence[str]) -> dict[str, list[Any]]:
        """The second SDK call: the candidates' features. Raises as :meth:`user_features`."""
        return self._online(self._item_features, [{"item_id": item_id} for item_id in item_ids], times=False)

    def pack_user(self, answer: Mapping[str, list[Any]]) -> dict[str, Array]:
        """The three tensors of the model's contract, ``[1, width]`` each."""
        columns: dict[TensorName, list[Any]] = {name: [] for name in TensorName}
        for spec in self._contract.features:
            if spec.from_request:
                columns[spec.tensor].append(int(self._now))
                continue
            name = f"{spec.view}__{spec.feature}"
            value = answer[name][0]
            limit = spec.max_age_seconds
            if value is None or (limit is not None and self._now - answer[f"{name}__ts"][0] > limit):
                values = []
            else:
                values = self._encoded(spec, value[: spec.length] if spec.is_list else [value])
            columns[spec.tensor] += values + [spec.default] * (spec.width - len(values))
        return {str(name): np.array([values], dtype=_DTYPES[name]) for name, values in columns.items()}

    def pack_items(self, answer: Mapping[str, list[Any]]) -> dict[str, Array]:
        """Numbers, times and vectors of n candidates as float32 ``[n, F]``, texts as objects ``[n, S]``."""
        numbers = [self._column(answer, reference, 0.0) for reference in self.item_numbers]
        times = [
            [0.0 if moment is None else moment.timestamp() for moment in answer[_sdk_name(reference)]]
            for reference in self.item_times
        ]
        vectors = answer[_sdk_name(self.item_vector)]
        width = max((len(vector) for vector in vectors if vector is not None), default=0)
        nothing = [0.0] * width
        floats = np.array([*numbers, *times], dtype=np.float32).T
        stacked = np.array([nothing if vector is None else vector for vector in vectors], dtype=np.float32)
        texts = [self._column(answer, reference, "") for reference in self.item_texts]
        return {"item_float": np.hstack([floats, stacked]), "item_string": np.array(texts, dtype=object).T}

    def rank(self, user_id: str, item_ids: Sequence[str]) -> UsualAnswer:
        """Score the candidates for a user, all the way.

        Raises:
            StoreUnavailable, InferenceUnavailable: if a server does not answer.
        """
        began = perf_counter()
        user = self.user_features(user_id)
        have_user = perf_counter()
        items = self.item_features(item_ids)
        have_items = perf_counter()
        tensors = self.pack_user(user)
        # The served models hold the items' side themselves, so what a model without it would be sent ends here.
        self.pack_items(items)
        tensors["candidate_rows"] = np.array([[self._rows[item_id] for item_id in item_ids]], dtype=np.int64)
        packed = perf_counter()
        scores = self._infer(tensors)
        order = np.argsort(-scores, kind="stable")
        done = perf_counter()
        moments = [began, have_user, have_items, packed, done]
        names = ("user_features", "item_features", "pack", "infer")
        return UsualAnswer(scores, order, dict(zip(names, np.diff(moments) * 1000.0, strict=True)))

    def _infer(self, tensors: Mapping[str, Array]) -> Array:
        from tritonclient.grpc import InferInput, InferRequestedOutput

        inputs = []
        for name, array in tensors.items():
            value = InferInput(name, list(array.shape), _TRITON_DTYPES[array.dtype])
            value.set_data_from_numpy(array)
            inputs.append(value)
        outputs = [InferRequestedOutput(name) for name in self._outputs]
        with self._triton.errors(f"model rank version {self._version}"):
            reply = self._triton.client.infer(
                "rank", inputs, model_version=self._version, outputs=outputs, client_timeout=CALL_TIMEOUT
            )
        answered = reply.as_numpy(self._outputs[0])
        if answered is None:
            raise InferenceUnavailable("model rank answered no scores")
        scores: Array = answered[0] if self._score_column is None else answered[0, :, self._score_column]
        return scores

    def _online(self, features: list[str], entities: list[dict[str, Any]], *, times: bool) -> dict[str, list[Any]]:
        import redis

        try:
            response = self._store.get_online_features(features, entities, full_feature_names=True)
        except redis.RedisError as error:
            raise StoreUnavailable(f"Feast's online store: {error or type(error).__name__}") from error
        answer: dict[str, list[Any]] = response.to_dict(include_event_timestamps=times)
        return answer

    def _encoded(self, spec: FeatureSpec, values: list[Any]) -> list[Any]:
        if spec.encoding is Encoding.ROW:
            return [self._rows.get(item_id, -1) for item_id in values]
        if spec.element == "UNIX_TIMESTAMP":
            return [int(moment.timestamp()) for moment in values]
        if spec.tensor is TensorName.FLOAT:
            return [value if np.isfinite(value) else spec.default for value in values]
        return values

    def _item_columns(self) -> tuple[list[str], list[str], list[str]]:
        """References of the items' texts, numbers and times."""
        texts: list[str] = []
        numbers: list[str] = []
        times: list[str] = []
        for view in ("item_catalogue", "item_statistics"):
            for field in self._store.get_feature_view(view).features:
                dtype = field.dtype.to_value_type().name
                kind = texts if dtype == "STRING" else times if dtype == "UNIX_TIMESTAMP" else numbers
                kind.append(f"{view}:{field.name}")
        return texts, numbers, times

    @staticmethod
    def _column(answer: Mapping[str, list[Any]], reference: str, missing: object) -> list[Any]:
        return [missing if value is None else value for value in answer[_sdk_name(reference)]]


def _sdk_name(reference: str) -> str:
    """How the SDK names a feature in its answers when asked for full names."""
    return reference.replace(":", "__")
