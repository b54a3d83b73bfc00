"""Real requests to ``recommend`` as files, for load tools from outside this project."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from recsys_plugin.bench.shop import CALL_TIMEOUT, Tell, open_shop
from recsys_plugin.bench.stages import open_stage_clock
from recsys_plugin.inference.calls import Infer
from recsys_plugin.inference.messages import infer_message
from recsys_plugin.inference.tensors import datatype_of
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.settings import Settings

__all__ = ["write_requests"]


def write_requests(
    settings: Settings, folder: Path, *, now: float, users: int, candidates: int, seed: int, tell: Tell
) -> dict[str, Path]:
    """Ask for some users, and write what the client sent to Triton.

    Args:
        settings: name the home, whose servers run.
        folder: where to write; made if it does not exist.
        now: the time of every request, unix seconds. users: how many. candidates: how many items are ranked.
        seed: fixes which users. tell: told what is under way.

    Returns:
        ``grpc``: a JSON array of ``ModelInferRequest``; ``protoset``: the protocol's compiled description, which gRPC
        tools need, as Triton does not describe itself; ``http``: the body of each request for Triton's HTTP interface,
        one a line; ``perf_analyzer``: the tensors as NVIDIA's perf_analyzer reads them.

    Raises:
        ServiceUnavailable: if a server does not answer.
    """
    from google.protobuf import json_format

    messages: list[Any] = []
    bodies: list[str] = []
    tensors: list[dict[str, Any]] = []
    with open_shop(settings, now=now, users=users, seed=seed) as shop, open_stage_clock(shop) as clock:
        for done, user_id in enumerate(shop.users, start=1):
            _, call = clock.recorded(partial(clock.recommender.recommend, user_id, candidates=candidates))
            messages.append(json_format.MessageToDict(infer_message(call, CALL_TIMEOUT)))
            inputs = _plain_inputs(call)
            outputs = [{"name": name} for name in call.outputs]
            bodies.append(json.dumps({"inputs": inputs, "outputs": outputs}))
            tensors.append({value["name"]: {"content": value["data"], "shape": value["shape"][1:]} for value in inputs})
            tell("recording requests", done, len(shop.users))
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "grpc": folder / "recommend.grpc.json",
        "protoset": folder / "triton.protoset",
        "http": folder / "recommend.http.jsonl",
        "perf_analyzer": folder / "recommend.perf_analyzer.json",
    }
    atomic_text(files["grpc"], json.dumps(messages))
    files["protoset"].write_bytes(_protoset())
    atomic_text(files["http"], "\n".join(bodies) + "\n")
    atomic_text(files["perf_analyzer"], json.dumps({"data": tensors}))
    return files


def _plain_inputs(call: Infer) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
            "data": [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()],
        }
        for name, array in call.inputs.items()
    ]


def _protoset() -> bytes:
    """A ``FileDescriptorSet`` of the inference protocol with all that it imports, imports first."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from tritonclient.grpc import service_pb2

    found: dict[str, Any] = {}

    def add(file: Any) -> None:
        for imported in file.dependencies:
            add(imported)
        found.setdefault(file.name, file)

    add(service_pb2.DESCRIPTOR)
    files = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(files.file.add())
    content: bytes = files.SerializeToString()
    return content
