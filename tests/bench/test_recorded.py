"""Recorded requests are answered by the served model as a load tool would send them, knowing nothing but the files."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from shops import Shop

from recsys_plugin.runtime.services import Services


def test_requests(small_shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "recorded"
    small_shop.command.run("bench", "requests", str(folder), "--users", "3", "--candidates", "20")
    rows = rows_by_grpc(folder, small_shop.triton_url.removeprefix("grpc://"))
    bodies = (folder / "recommend.http.jsonl").read_text().splitlines()
    assert len(rows) == len(bodies) == 3
    url = f"{Services(small_shop.settings).triton.http_url}/v2/models/recommend/infer"
    for body, wanted in zip(bodies, rows, strict=True):
        assert rows_by_http(url, body) == wanted
    tensors = json.loads((folder / "recommend.perf_analyzer.json").read_text())["data"]
    assert len(tensors) == 3
    for value in tensors[0].values():
        assert len(value["content"]) == np.prod(value["shape"])


def rows_by_grpc(folder: Path, target: str) -> list[list[int]]:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString((folder / "triton.protoset").read_bytes()).file:
        pool.Add(file)
    request: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
    reply: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferResponse"))
    found = []
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        for document in json.loads((folder / "recommend.grpc.json").read_text()):
            answer = ask(json_format.ParseDict(document, request()), timeout=10)
            position = [output.name for output in answer.outputs].index("rows")
            found.append(np.frombuffer(answer.raw_output_contents[position], np.int64).tolist())
    assert all(len(set(rows)) == 20 for rows in found)
    return found


def rows_by_http(url: str, body: str) -> list[int]:
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST"), timeout=10) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    rows: list[int] = outputs["rows"]
    return rows
