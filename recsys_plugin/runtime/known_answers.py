"""Known answers: inputs and outputs recorded at export, sent through the server before it counts as ready.

A server can be up and wrong: a Python backend under an unsuited numpy returns empty tensors without an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_plugin.errors import CheckFailed, StepFailed
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = ["KnownAnswer", "KnownAnswers", "check_known_answers", "load_known_answers"]

_DTYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """One request to one model and what must come back."""

    model: str
    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]
    tolerance: float
    """Absolute and relative, for floats; everything else must be equal."""


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """All known answers of one exported version."""

    version: int
    answers: tuple[KnownAnswer, ...]


def load_known_answers(path: Path) -> KnownAnswers:
    """Read the file that the export wrote.

    Raises:
        StepFailed: if it is missing or malformed; says where.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StepFailed(f"{path} is missing, so no server can be checked; run `recsys export`") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StepFailed(f"{path} is not JSON ({error}); run `recsys export` again") from error
    try:
        answers = tuple(
            KnownAnswer(
                model=entry["model"],
                inputs={name: _tensor(value) for name, value in entry["inputs"].items()},
                outputs={name: _tensor(value) for name, value in entry["outputs"].items()},
                tolerance=float(entry["tolerance"]),
            )
            for entry in document["answers"]
        )
        return KnownAnswers(int(document["version"]), answers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StepFailed(f"{path} is malformed ({error!r}); run `recsys export` again") from error


def _tensor(value: dict[str, Any]) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[value["datatype"]])
    data = value["data"]
    if dtype == np.object_:
        data = [item.encode() for item in data]
    elif np.issubdtype(dtype, np.floating):
        # JSON has no NaN or infinity; null and strings stand for them, whichever the writer chose.
        data = [np.nan if item is None else float(item) for item in data]
    flat = np.empty(len(data), dtype=dtype)
    flat[:] = data
    return flat.reshape(value["shape"])


def check_known_answers(url: str, known: KnownAnswers, *, timeout: float = 30.0) -> None:
    """Send every known request to the server and compare.

    Args:
        url: ``grpc://host:port`` of any Triton server.
        known: what :func:`load_known_answers` returned.
        timeout: seconds for each request; the first one of a model may include its warm-up.

    Raises:
        InferenceUnavailable: if the server does not answer.
        CheckFailed: naming model, output, position, what was wanted and what came.
    """
    with TritonManager(url, timeout=timeout) as triton:
        for answer in known.answers:
            _check(triton, answer, known.version)


def _check(triton: TritonManager, answer: KnownAnswer, version: int) -> None:
    from tritonclient.grpc import InferInput, InferRequestedOutput
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, values in answer.inputs.items():
        tensor = InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    where = f"{answer.model} version {version}"
    with triton.errors(where):
        reply = triton.client.infer(
            answer.model,
            inputs,
            model_version=str(version),
            outputs=[InferRequestedOutput(name) for name in answer.outputs],
            client_timeout=triton.timeout,
        )
    served = reply.get_response().model_version
    if served != str(version):
        raise CheckFailed(f"{where} at {triton.url}: version {served} answered")
    for name, wanted in answer.outputs.items():
        difference = _difference(wanted, reply.as_numpy(name), answer.tolerance)
        if difference:
            raise CheckFailed(
                f"{where} at {triton.url} answers wrongly: output {name!r}{difference}. "
                "`recsys doctor` looks for the cause; `recsys export` records the answers anew"
            )


def _difference(wanted: npt.NDArray[Any], got: npt.NDArray[Any] | None, tolerance: float) -> str:
    """The first difference in words, empty when there is none."""
    if got is None:
        return " is missing"
    if got.dtype != wanted.dtype:
        return f" is {got.dtype}, wanted {wanted.dtype}"
    if got.shape != wanted.shape:
        return f" has shape {list(got.shape)}, wanted {list(wanted.shape)}"
    if np.issubdtype(wanted.dtype, np.floating):
        equal = np.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        equal = np.asarray(got == wanted)
    if bool(equal.all()):
        return ""
    position = tuple(int(index[0]) for index in np.nonzero(~equal))
    count = int((~equal).sum())
    return (
        f" at position {list(position)} is {got[position]!r}, wanted {wanted[position]!r} "
        f"({count} of {wanted.size} values differ)"
    )
