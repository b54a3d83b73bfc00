"""Triton's messages built and read by hand: no copies through ``InferInput`` objects.

Source: the KServe v2 inference protocol with Triton's extensions, as in tritonclient's own message definitions.
"""

from __future__ import annotations

from typing import Any

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.calls import Infer, ModelSettings
from recsys_plugin.inference.tensors import Array, MalformedTensorError, datatype_of, decode_tensor, encode_tensor

__all__ = ["checked_outputs", "headers", "infer_message", "model_message", "settings_of", "versions_of"]


def infer_message(call: Infer, timeout: float) -> Any:
    """The request of a call that may take so many seconds."""
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


def headers(call: Infer) -> tuple[tuple[str, str], ...] | None:
    """What goes beside the request of a call."""
    return None if call.traceparent is None else (("traceparent", call.traceparent),)


def model_message(method: str, model: str, version: int | None = None) -> Any:
    """The request of a method that takes a model, and perhaps a version of it."""
    from tritonclient.grpc import service_pb2

    return getattr(service_pb2, f"{method}Request")(name=model, version="" if version is None else str(version))


def checked_outputs(call: Infer, reply: Any) -> dict[str, Array]:
    """The arrays of a reply.

    Raises:
        InferenceUnavailable: if it is from another version, or does not hold what was asked for.
    """
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


def versions_of(reply: Any) -> tuple[int, ...]:
    """The versions in a model's metadata, ascending."""
    return tuple(sorted(int(version) for version in reply.versions))


def settings_of(reply: Any) -> ModelSettings:
    """What a client needs of a model's configuration."""
    parameters = {name: parameter.string_value for name, parameter in reply.config.parameters.items()}
    outputs = tuple(output.name for output in reply.config.output)
    inputs = {value.name: tuple(value.dims) for value in reply.config.input}
    return ModelSettings(reply.config.max_batch_size, parameters, outputs, inputs)
