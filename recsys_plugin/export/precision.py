"""Smaller weights for the ranker and the text encoder, with what they cost measured before they are served.

``fp16`` halves the bytes and is for GPUs: on a CPU onnxruntime computes in 32 bits and converts on the way. ``int8`` of
the text encoder is dynamic quantisation of matrix products and embeddings (Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference"), which CPUs run faster. Of the ranker, the
resident catalogue is reduced and nothing else.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.local import Tokenize
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.frames import Split
from recsys_plugin.training.metrics import ranking_metrics, top_rows
from recsys_plugin.training.zoo.metrics import auc

__all__ = [
    "ranking_loss",
    "reduce_precision",
    "reduced_encoder",
    "reduced_tables",
    "text_loss",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Told what is being made, how much is done, and of how much.
Progress = Callable[[str, int, int], None]

#: The models whose weights are worth it; the others are look-ups and one small tower.
_REDUCED = ("ctr_ranker", "text_encoder")
#: A graph that does not shrink to this share of its bytes stays as it is: there was nothing in it to reduce.
_WORTH = 0.9
#: Elements from which on a table counts as one of the catalogue.
_LEAST_TABLE = 1024
_MOST_USERS = 300
_MOST_TEXTS = 1000
_TIMED_TEXTS = 192
_NEIGHBOURS = 20


def reduce_precision(
    graphs: Mapping[str, Path],
    options: ExportOptions,
    models: TrainedModels,
    split: Split,
    texts: Sequence[str],
    tokenize: Tokenize,
    *,
    candidates: int,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Replace the graphs of ranker and text encoder by reduced ones, after measuring what they lose.

    Args:
        graphs: path of each model's graph, by model name, in 32 bits; the reduced ones take their places.
        options: to what, and how much it may cost.
        models: what the graphs were made of. split: real users and what they then bought.
        texts: real texts of the catalogue.
        tokenize: ``query`` object [B, 1] → ``input_ids`` and ``attention_mask``.
        candidates: how many a user's list holds. clock: seconds, for the time ratio.
        progress: told what is being measured.

    Returns:
        For the manifest: ``precision``, ``most_loss``, and by model the figures of both graphs, their ``bytes``, and
        ``cpu_time_ratio``, the reduced graph's time as a share of the other's. A graph in which there is nothing to
        reduce is left as it was and says so.

    Raises:
        CheckFailed: if a loss is above the bound; no graph is replaced then.
    """
    result: dict[str, Any] = {"precision": options.precision, "most_loss": options.most_loss}
    if options.precision == "fp32":
        return result
    kept: dict[str, Path] = {}
    too_much: list[str] = []
    for done, name in enumerate(_REDUCED):
        progress(f"{options.precision} {name}", done, len(_REDUCED))
        path = graphs[name]
        reduced = path.with_name(f"{options.precision}.onnx")
        (reduced_tables if name == "ctr_ranker" else reduced_encoder)(path, reduced, options.precision)
        sizes = {"fp32": path.stat().st_size, options.precision: reduced.stat().st_size}
        if sizes[options.precision] > _WORTH * sizes["fp32"]:
            reduced.unlink()
            result[name] = {"precision": "fp32", "bytes": sizes["fp32"], "note": "nothing in this graph to reduce"}
            continue
        sessions = _session(path), _session(reduced)
        if name == "ctr_ranker":
            found = ranking_loss(sessions, models, split, candidates=candidates, clock=clock)
        else:
            found = text_loss(sessions, texts, tokenize, clock=clock)
        result[name] = {"precision": options.precision, "bytes": sizes, **found}
        too_much += [
            f"{name} loses {loss:.4f} of {metric}"
            for metric, loss in found["loss"].items()
            if not loss <= options.most_loss
        ]
        kept[name] = reduced
    if too_much:
        for reduced in kept.values():
            reduced.unlink()
        raise CheckFailed(
            f"in {options.precision}, {' and '.join(too_much)} (allowed {options.most_loss:g}); export in another "
            "--precision, or allow more with --most-loss"
        )
    for name, reduced in kept.items():
        reduced.replace(graphs[name])
    return result


def reduced_encoder(source: Path, target: Path, precision: str) -> None:
    """Write a transformer's graph with 16-bit floats or 8-bit integer weights; inputs and outputs keep their types."""
    with _quiet():
        if precision == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
            return
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # Without VNNI instructions, sums of 8-bit products overflow 16 bits in silence; those of 7-bit weights do not.
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["MatMul", "Gather"],
        )


def reduced_tables(source: Path, target: Path, precision: str) -> None:
    """Write a ranker's graph with its resident catalogue in fewer bits; what is computed of it stays in 32 bits.

    The tables of the items are nearly all of such a graph and grow with the catalogue, while its arithmetic is small
    and holds ages in seconds, which 16 bits cannot. 8-bit tables have one scale for each column.
    """
    model = onnx.load(source)
    graph = model.graph
    tables = {
        value.name: numpy_helper.to_array(value)
        for value in graph.initializer
        if value.data_type == TensorProto.FLOAT and np.prod(value.dims) >= _LEAST_TABLE
    }
    readers = {name: [node for node in graph.node if name in node.input] for name in tables}
    nodes: list[onnx.NodeProto] = []
    small: dict[str, list[onnx.TensorProto]] = {}
    for name, table in tables.items():
        # A table that anything but a look-up reads would be widened as a whole on every call.
        if all(node.op_type in ("Gather", "GatherND") and node.input[0] == name for node in readers[name]):
            small[name] = _table(name, table, precision)
    for node in graph.node:
        nodes.append(node)
        if node.op_type not in ("Gather", "GatherND") or node.input[0] not in small:
            continue
        name, wide = node.input[0], node.output[0]
        node.output[0] = f"{wide}_{precision}"
        if precision == "fp16":
            nodes.append(helper.make_node("Cast", [node.output[0]], [wide], to=TensorProto.FLOAT))
        else:
            nodes.append(helper.make_node("DequantizeLinear", [node.output[0], f"{name}_scale"], [wide], axis=-1))
    kept = [value for value in graph.initializer if value.name not in small]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *(value for values in small.values() for value in values)])
    # Types that were inferred for the wide look-ups are those of the widened outputs still, so nothing else changes.
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _table(name: str, table: _Array, precision: str) -> list[onnx.TensorProto]:
    if precision == "fp16":
        return [numpy_helper.from_array(table.astype(np.float16), name)]
    scale = np.maximum(np.abs(table).max(axis=tuple(range(table.ndim - 1))), 1e-12).astype(np.float32) / 127.0
    return [
        numpy_helper.from_array(np.rint(table / scale).astype(np.int8), name),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]


def ranking_loss(
    sessions: tuple[Any, Any], models: TrainedModels, split: Split, *, candidates: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """NDCG@20 and AUC of two graphs of the ranker on the candidate lists of real users.

    Returns:
        ``ndcg@20`` and ``auc`` as pairs (32 bits, reduced), ``loss`` of both, ``users`` and ``cpu_time_ratio``.
    """
    drawn = np.arange(min(_MOST_USERS, len(split.users)))
    users, truth = split.users.take(drawn), split.contexts.take(drawn)
    rows, _ = candidate_rows(models.towers, users, candidates)
    feed = {
        "user_float": users.user_float,
        "user_int": users.user_int,
        "user_string": users.user_string,
        "user_vector": models.towers.user_vectors(users),
        "candidate_rows": rows,
    }
    head = "purchase" if "purchase" in models.heads else models.heads[0]
    scores, ratio = _answers(sessions, feed, f"{head}_probability", clock)
    labels = np.stack([np.isin(line, truth.positives(index)) for index, line in enumerate(rows)]).astype(np.float64)
    ranked = [np.take_along_axis(rows, np.argsort(-score, axis=1, kind="stable"), axis=1) for score in scores]
    figures = {
        "ndcg@20": [ranking_metrics(each, truth)["ndcg@20"] for each in ranked],
        "auc": [auc(labels.ravel(), score.ravel()) for score in scores],
    }
    loss = {metric: whole - reduced for metric, (whole, reduced) in figures.items()}
    return {**figures, "loss": loss, "users": len(drawn), "cpu_time_ratio": ratio}


def text_loss(
    sessions: tuple[Any, Any], texts: Sequence[str], tokenize: Tokenize, *, clock: Callable[[], float]
) -> dict[str, Any]:
    """How far two graphs of the text encoder agree on real texts.

    Returns:
        ``cosine`` (mean and least) of a text's two vectors; ``ndcg@20`` of each text's neighbours by the reduced
        vectors, the 20 nearest by the others being the truth; ``loss`` (one less the mean cosine); ``texts`` and
        ``cpu_time_ratio``.
    """
    asked = list(dict.fromkeys(texts))[:_MOST_TEXTS]
    parts: tuple[list[_Array], list[_Array]] = ([], [])
    ratios: list[float] = []
    for start in range(0, len(asked), 64):
        feed = tokenize(np.array(asked[start : start + 64], object)[:, None])
        # A few blocks tell the time; the others are asked once.
        turns = 4 if start < _TIMED_TEXTS else 1
        found, ratio = _answers(sessions, feed, "text_embedding", clock, turns=turns)
        for kept, vectors in zip(parts, found, strict=True):
            kept.append(vectors)
        ratios += [ratio] if turns > 1 else []
    whole, reduced = (np.concatenate(part) for part in parts)
    cosine = (whole * reduced).sum(1) / (np.linalg.norm(whole, axis=1) * np.linalg.norm(reduced, axis=1))
    figures: dict[str, Any] = {"cosine": {"mean": float(cosine.mean()), "least": float(cosine.min())}}
    if len(asked) > 1:
        nearest = [top_rows(_alike(vectors), _NEIGHBOURS) for vectors in (whole, reduced)]
        offsets = np.arange(len(asked) + 1, dtype=np.int64) * nearest[0].shape[1]
        figures["ndcg@20"] = ranking_metrics(
            nearest[1], Contexts(_no_entities(len(asked)), offsets, nearest[0].ravel())
        )["ndcg@20"]
    return {
        **figures,
        "loss": {"cosine": 1.0 - float(cosine.mean())},
        "texts": len(asked),
        "cpu_time_ratio": float(np.median(ratios)),
    }


def _no_entities(count: int) -> Any:
    import pandas as pd

    return pd.DataFrame(index=range(count))


def _alike(vectors: _Array) -> _Array:
    """Inner products, a text being no neighbour of its own."""
    products: _Array = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    return products


def _answers(
    sessions: tuple[Any, Any], feed: Mapping[str, _Array], output: str, clock: Callable[[], float], *, turns: int = 4
) -> tuple[tuple[_Array, _Array], float]:
    """What both graphs answer, and the second's time as a share of the first's: medians of alternating calls."""
    times: tuple[list[float], list[float]] = ([], [])
    answers: list[_Array] = []
    for turn in range(turns):
        for session, taken in zip(sessions, times, strict=True):
            given = {value.name: feed[value.name] for value in session.get_inputs()}
            started = clock()
            answer = session.run([output], given)[0]
            taken.append(clock() - started)
            if turn == 0:
                answers.append(answer)
    # The first call of each allocates, which a served model does once.
    first, second = (float(np.median(taken[1:] or taken)) for taken in times)
    return (answers[0], answers[1]), second / first


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Both converters advise on the root logger what has no bearing here: pre-processing, and values near zero."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
