"""Triton's answers are checked against what was asked for, on a real server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from tiny_shop import CONTRACT, TinyShop

from recsys_plugin.errors import DeadlineExceeded, InferenceUnavailable
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.models import SERVED_MODELS, contract_text, serving_version
from recsys_plugin.inference.triton import AsyncTritonClient, TritonClient


@pytest.fixture
def triton(tiny: TinyShop) -> Iterator[TritonClient]:
    client = TritonClient(TritonAddress.parse(tiny.triton_url))
    yield client
    client.close()


def similar(version: int = 1, **outputs: OutputSpec) -> Infer:
    inputs = {
        "item_row": np.array([[3]], dtype=np.int64),
        "excluded_rows": np.array([[-1]], dtype=np.int64),
        "counts": np.array([[2, 2]], dtype=np.int64),
    }
    return Infer("similar", version, inputs, outputs)


def test_versions_settings_and_contract(triton: TritonClient) -> None:
    assert {model: triton.versions(model, timeout=5) for model in SERVED_MODELS} == dict.fromkeys(SERVED_MODELS, (1,))
    settings = triton.settings("recommend", 1, timeout=5)
    assert settings.max_batch_size == 64
    assert contract_text("recommend", 1, settings) == CONTRACT.to_json()
    own = {**settings.parameters, "feature_contract.1": "of its own"}
    assert contract_text("recommend", 1, type(settings)(64, own)) == "of its own"


def test_outputs_come_in_any_open_length(triton: TritonClient) -> None:
    call = similar(rows=OutputSpec("INT64", (1, -1)), similarity=OutputSpec("FP32", (1, 2)))
    answer = triton.infer(call, timeout=5)
    assert answer["rows"][0, 0] == 3
    assert answer["similarity"].tolist() == [[0, -1]]


@pytest.mark.parametrize(
    "call, message",
    [
        (similar(rows=OutputSpec("FP32", (1, -1))), "rows is INT64 [1, 2], expected FP32 [1, -1]"),
        (similar(rows=OutputSpec("INT64", (1, 3))), "rows is INT64 [1, 2], expected INT64 [1, 3]"),
        (similar(rows=OutputSpec("INT64", (1,))), "expected INT64 [1]"),
        (similar(none=OutputSpec("INT64", (1, 2))), "none"),
        (similar(2, rows=OutputSpec("INT64", (1, -1))), "model similar version 2 at grpc://127.0.0.1:"),
        (Infer("similar", 1, {}, {}), "INVALID_ARGUMENT"),
        (Infer("nothing", 1, {}, {}), "model nothing version 1"),
    ],
)
async def test_what_was_not_asked_for_is_refused_by_name(
    triton: TritonClient, tiny: TinyShop, call: Infer, message: str
) -> None:
    with pytest.raises(InferenceUnavailable) as caught:
        triton.infer(call, timeout=5)
    assert message in str(caught.value)
    client = AsyncTritonClient(TritonAddress.parse(tiny.triton_url))
    with pytest.raises(InferenceUnavailable) as caught:
        await client.infer(call, timeout=5)
    assert message in str(caught.value)
    await client.close()


async def test_deadline(triton: TritonClient, tiny: TinyShop) -> None:
    call = similar(rows=OutputSpec("INT64", (1, -1)))
    with pytest.raises(DeadlineExceeded, match="model similar version 1 at grpc"):
        triton.infer(call, timeout=-1)
    client = AsyncTritonClient(TritonAddress.parse(tiny.triton_url))
    with pytest.raises(DeadlineExceeded, match="model similar version 1 at grpc"):
        await client.infer(call, timeout=-1)
    await client.close()


def test_no_common_version_says_what_each_model_has() -> None:
    answers = dict.fromkeys(SERVED_MODELS, (2,)) | {"recommend": (1, 2), "search": (2, 3), "similar": ()}
    with pytest.raises(InferenceUnavailable, match=r"search has \[2, 3\]; similar has none; .*recsys export"):
        chosen(answers, None)


@pytest.mark.parametrize(("promoted", "version"), [(None, 3), (2, 2), (3, 3), (1, 3), (9, 3)])
def test_the_promoted_version_serves_if_it_is_ready(promoted: int | None, version: int) -> None:
    answers = dict.fromkeys(SERVED_MODELS, (2, 3)) | {"recommend": (1, 2, 3)}
    assert chosen(answers, promoted) == version


def chosen(ready: Mapping[str, tuple[int, ...]], promoted: int | None) -> int:
    """Which version is chosen where each model has these ready."""
    flow = serving_version(promoted)
    call = next(flow)
    while True:
        try:
            call = flow.send(ready[call.model])
        except StopIteration as end:
            return int(end.value)
