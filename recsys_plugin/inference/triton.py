"""Triton's gRPC protocol with messages built by hand: no copies through ``InferInput`` objects.

Source: the KServe v2 inference protocol with Triton's extensions, as in tritonclient's own message definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recsys_plugin.errors import DeadlineExceeded, InferenceUnavailable, ReleaseChanged
from recsys_plugin.inference.address import CHANNEL_OPTIONS, TritonAddress
from recsys_plugin.inference.calls import Infer, ModelSettings
from recsys_plugin.inference.tensors import Array, MalformedTensorError, datatype_of, decode_tensor, encode_tensor

__all__ = ["AsyncTritonClient", "TritonClient", "TritonUnreachable"]


class TritonUnreachable(InferenceUnavailable):
    """Triton cannot be reached, or is shutting down; another server may well answer."""


class TritonClient:
    """Calls Triton; safe to share between threads. Each call says how many seconds it may take.

    Raises, from every call:
        DeadlineExceeded: if the answer did not come in time.
        InferenceUnavailable: if Triton cannot be reached, refuses, or answers something else than was asked for.
    """

    def __init__(self, address: TritonAddress) -> None:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        self._address = address
        credentials = address.credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address.target, credentials, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """Call a model; output name → array, each checked against what the call asked for."""
        with _named_errors(f"model {call.model} version {call.version}", self._address, timeout):
            reply = self._stub.ModelInfer(_infer_message(call, timeout), timeout=timeout, metadata=_metadata(call))
        return _checked_outputs(call, reply)

    def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """The versions of a model that are ready, in ascending order."""
        with _named_errors(f"model {model}", self._address, timeout):
            return _versions(self._stub.ModelMetadata(_model_message("ModelMetadata", model), timeout=timeout))

    def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """A model version's configuration."""
        with _named_errors(f"model {model} version {version}", self._address, timeout):
            message = _model_message("ModelConfig", model, version)
            return _settings(self._stub.ModelConfig(message, timeout=timeout))

    def ask_ready(self, done: Callable[[bool], None], *, timeout: float) -> None:
        """Ask whether the server and its models are ready, without waiting for it.

        Args:
            done: told the answer, from another thread; ``False`` if there is none in time.
            timeout: seconds for the answer.
        """
        import grpc
        from tritonclient.grpc import service_pb2

        asked = self._stub.ServerReady.future(service_pb2.ServerReadyRequest(), timeout=timeout)
        asked.add_done_callback(lambda answer: done(answer.code() is grpc.StatusCode.OK and answer.result().ready))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncTritonClient:
    """The same for asyncio; belongs to the event loop it was made in."""

    def __init__(self, address: TritonAddress) -> None:
        import grpc.aio
        from tritonclient.grpc import service_pb2_grpc

        self._address = address
        credentials = address.credentials()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address.target, credentials, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """See :meth:`TritonClient.infer`."""
        with _named_errors(f"model {call.model} version {call.version}", self._address, timeout):
            reply = await self._stub.ModelInfer(
                _infer_message(call, timeout), timeout=timeout, metadata=_metadata(call)
            )
        return _checked_outputs(call, reply)

    async def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """See :meth:`TritonClient.versions`."""
        with _named_errors(f"model {model}", self._address, timeout):
            return _versions(await self._stub.ModelMetadata(_model_message("ModelMetadata", model), timeout=timeout))

    async def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """See :meth:`TritonClient.settings`."""
        with _named_errors(f"model {model} version {version}", self._address, timeout):
            message = _model_message("ModelConfig", model, version)
            return _settings(await self._stub.ModelConfig(message, timeout=timeout))

    async def is_ready(self, *, timeout: float) -> bool:
        """Whether the server and its models are ready; ``False`` if it does not answer in time."""
        import grpc
        from tritonclient.grpc import service_pb2

        try:
            return bool((await self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout)).ready)
        except grpc.RpcError:
            return False

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def _infer_message(call: Infer, timeout: float) -> Any:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=call.model, model_version=str(call.version))
    # Triton drops a request that has waited in its queue for longer than the caller will.
    message.parameters["timeout"].int64_param = int(timeout * 1e6)
    for name, array in call.inputs.items():
        message.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(encode_tensor(array))
    for name in call.outputs:
        message.outputs.add(name=name)
    return message


def _metadata(call: Infer) -> tuple[tuple[str, str], ...] | None:
    """The headers of a call."""
    return None if call.traceparent is None else (("traceparent", call.traceparent),)


def _model_message(method: str, model: str, version: int | None = None) -> Any:
    from tritonclient.grpc import service_pb2

    return getattr(service_pb2, f"{method}Request")(name=model, version="" if version is None else str(version))


def _checked_outputs(call: Infer, reply: Any) -> dict[str, Array]:
    """The arrays of a reply, if it is from the right version and holds all that was asked for."""
    where = f"model {call.model} version {call.version}"
    if reply.model_version != str(call.version):
        raise InferenceUnavailable(f"{where}: the answer came from version {reply.model_version}")
    if len(reply.outputs) != len(reply.raw_output_contents):
        raise InferenceUnavailable(
            f"{where}: {len(reply.outputs)} outputs and {len(reply.raw_output_contents)} contents"
        )
    answered = {
        output.name: (output.datatype, tuple(output.shape), content)
        for output, content in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    arrays = {}
    for name, wanted in call.outputs.items():
        if name not in answered:
            raise InferenceUnavailable(f"{where}: output {name} is missing from the answer")
        datatype, shape, content = answered[name]
        fits = len(shape) == len(wanted.shape) and all(
            want in (-1, got) for want, got in zip(wanted.shape, shape, strict=True)
        )
        if datatype != wanted.datatype or not fits:
            raise InferenceUnavailable(
                f"{where}: output {name} is {datatype} {list(shape)}, expected {wanted.datatype} {list(wanted.shape)}"
            )
        try:
            arrays[name] = decode_tensor(datatype, shape, content)
        except MalformedTensorError as error:
            raise InferenceUnavailable(f"{where}: output {name}: {error}") from error
    return arrays


def _versions(reply: Any) -> tuple[int, ...]:
    return tuple(sorted(int(version) for version in reply.versions))


def _settings(reply: Any) -> ModelSettings:
    parameters = {name: parameter.string_value for name, parameter in reply.config.parameters.items()}
    outputs = tuple(output.name for output in reply.config.output)
    inputs = tuple(value.name for value in reply.config.input)
    return ModelSettings(reply.config.max_batch_size, parameters, outputs, inputs)


@contextmanager
def _named_errors(what: str, address: TritonAddress, timeout: float) -> Iterator[None]:
    """Turn gRPC's errors into this package's, naming the model and the server."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded(f"{what} at {address} did not answer within {timeout * 1000:.0f} ms") from error
        message = f"{what} at {address}: {code.name}: {error.details()}"
        # Triton's words for a version that it no longer serves, or is just taking down.
        if code == grpc.StatusCode.NOT_FOUND or "not at ready state" in (error.details() or ""):
            raise ReleaseChanged(message) from error
        if code == grpc.StatusCode.UNAVAILABLE:
            raise TritonUnreachable(f"{message}. Is Triton running? `recsys up` starts the embedded one") from error
        raise InferenceUnavailable(message) from error
