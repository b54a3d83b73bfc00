"""The floor: what a request costs at least with these servers, whoever asks.

One round trip to Redis for the same fields, one round trip to Triton for next to nothing, and the same graphs run by
onnxruntime in this process; replies are received and not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np

from recsys_plugin.bench.shop import CALL_TIMEOUT, ServedShop
from recsys_plugin.errors import ConfigurationError, InferenceUnavailable
from recsys_plugin.export.description import Model, describe_repository, own_row_count
from recsys_plugin.export.local import LocalRepository, tokenizer_of
from recsys_plugin.export.merged import lay_out
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.inference.address import CHANNEL_OPTIONS, TritonAddress
from recsys_plugin.inference.tensors import Array, encode_tensor
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["FLOOR_NOTE", "Floor", "RoundTrips"]

#: The served model that does the least: it looks up one row of a matrix.
_LIGHTEST = "item_embedding"

FLOOR_NOTE = (
    f"floor: one HMGET of the same fields, one Triton call of {_LIGHTEST} (one row looked up, eight bytes back; the "
    "repository has no identity model), and the same graphs through onnxruntime in this process on one thread; "
    "nothing is decoded, and the graphs' answers are not carried over the network"
)


class RoundTrips:
    """One round trip to each server, whoever asks; a context manager."""

    def __init__(self, shop: ServedShop) -> None:
        self._plan = shop.release.models["recommend"].plan
        self._address = RedisAddress.parse(shop.redis_url)
        self._redis: Any = self._address.connect(CALL_TIMEOUT)
        #: Ask Redis for the fields of one user's features; the reply is received and not decoded.
        self.ask_redis = self._redis_call()
        #: Ask Triton for next to nothing.
        self._channel, self.ask_triton = _triton_call(shop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._redis.close()

    def call(self, user_id: str | None) -> dict[str, float]:
        """Both round trips, or only Triton's for ``None``.

        Returns:
            The milliseconds that each took.
        """
        began = perf_counter()
        if user_id is not None:
            self.ask_redis(user_id)
        read = perf_counter()
        self.ask_triton()
        stages = {"triton": (perf_counter() - read) * 1000}
        return stages if user_id is None else {"redis": (read - began) * 1000, **stages}

    def _redis_call(self) -> Callable[[str], object]:
        key, fields = self._plan.key, self._plan.fields
        if self._address.kind == "redis_cluster":
            return lambda user_id: self._redis.hmget(key(user_id), fields)
        connection = self._redis.connection_pool.get_connection()

        def ask(user_id: str) -> object:
            connection.send_packed_command(connection.pack_command("HMGET", key(user_id), *fields))
            answer: object = connection.read_response()
            return answer

        return ask


class Floor(RoundTrips):
    """The three parts of the floor; a context manager.

    Raises:
        ConfigurationError: if the served version's files are not in the home's model repository.
    """

    def __init__(self, shop: ServedShop) -> None:
        #: The served version's graphs in this process.
        self.local = LocalRepository(*_served_files(shop))
        super().__init__(shop)

    def request(self, model: str, inputs: Mapping[str, Array], user_id: str | None) -> dict[str, float]:
        """Do what a request of ``model`` takes at least.

        Args:
            model: what the client calls.
            inputs: its inputs; texts are ``str``.
            user_id: whose features are read; ``None`` for a request without features.

        Returns:
            The milliseconds that each part took.
        """
        stages = self.call(user_id)
        asked = perf_counter()
        self.local.run(model, inputs)
        return {**stages, "compute": (perf_counter() - asked) * 1000}


def _triton_call(shop: ServedShop) -> tuple[Any, Callable[[], object]]:
    """A channel, and a call on it with a message made once."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    address = TritonAddress.parse(shop.triton_url)
    credentials = address.credentials()
    channel = (
        grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        if credentials is None
        else grpc.secure_channel(address.target, credentials, options=CHANNEL_OPTIONS)
    )
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    row = np.zeros((1, 1), dtype=np.int64)
    message = service_pb2.ModelInferRequest(model_name=_LIGHTEST, model_version=str(shop.release.version))
    message.inputs.add(name="item_row", datatype="INT64", shape=row.shape)
    message.raw_input_contents.append(encode_tensor(row))
    message.outputs.add(name="own_rows")

    def ask() -> object:
        try:
            return stub.ModelInfer(message, timeout=CALL_TIMEOUT)
        except grpc.RpcError as error:
            raise InferenceUnavailable(f"model {_LIGHTEST} at {address}: {error.details()}") from error

    return channel, ask


def _served_files(
    shop: ServedShop,
) -> tuple[tuple[Model, ...], dict[str, Path], dict[str, Callable[[Array], dict[str, Array]]]]:
    """The description, the graphs and the tokenizer of the version that is served."""
    repository, version = shop.settings.model_repository, str(shop.release.version)
    with TritonManager(shop.triton_url, timeout=CALL_TIMEOUT) as triton:
        vector = _output_width(triton, "item_embedding", version, "item_vector")
        text_vector = _output_width(triton, "text_encoder", version, "text_embedding")
        item = _output_width(triton, "new_item", version, "item")
    contract = shop.release.models["recommend"].plan.contract
    own = own_row_count(contract)
    steps = describe_repository(contract, vector=vector, text_vector=text_vector, own_rows=own, item=item)
    is_merged = (repository / "recommend" / version / "model.onnx").exists()
    models = lay_out(steps, "merged" if is_merged else "ensembles")
    graphs = {
        model.name: repository / model.name / version / "model.onnx"
        for model in models
        if not model.is_ensemble and model.backend == "onnxruntime"
    }
    tokenizer = repository / "tokenizer" / version
    missing = [str(path) for path in (*graphs.values(), tokenizer) if not path.exists()]
    if missing:
        raise ConfigurationError(
            f"Triton serves version {version}, whose files are not all in {repository}: {', '.join(missing)}. "
            "The floor needs them in this process; run the benchmark in the home that exported this version."
        )
    return models, graphs, {"tokenizer": tokenizer_of(tokenizer)}


def _output_width(triton: TritonManager, model: str, version: str, name: str) -> int:
    with triton.errors(f"metadata of model {model}"):
        answer = triton.client.get_model_metadata(model, version, client_timeout=CALL_TIMEOUT)
    widths = [int(value.shape[-1]) for value in answer.outputs if value.name == name]
    if not widths:
        raise InferenceUnavailable(f"model {model} version {version} has no output {name}; run `recsys export` again")
    return widths[0]
