"""Run the exported repository in this process: the same graphs through onnxruntime, as the ensembles say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from recsys_plugin.export.description import KNOWN_EMBEDDING, Model
from recsys_plugin.export.merged import unpacked
from recsys_plugin.training.text import TextKind

__all__ = ["TOKENIZERS", "LocalRepository", "tokenizer_of"]

_Array = np.ndarray[Any, np.dtype[Any]]
Tokenize = Callable[[_Array], dict[str, _Array]]
#: The models that make tokens of texts, and of which kind of text.
TOKENIZERS: Mapping[str, TextKind] = {"tokenizer": "query", "item_tokenizer": "passage"}


class LocalRepository:
    """One version of a model repository, run without a server.

    Args:
        models: the description.
        graphs: the folder of each ONNX model's ``model.onnx``, by model name.
        tokenizers: ``query`` object [B, 1] → ``input_ids`` and ``attention_mask``, by model name.
    """

    def __init__(
        self, models: tuple[Model, ...], graphs: Mapping[str, Path], tokenizers: Mapping[str, Tokenize]
    ) -> None:
        self._models = {model.name: model for model in models}
        self._tokenizers = tokenizers
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in graphs.items()
        }

    def named(self, name: str, inputs: Mapping[str, _Array]) -> dict[str, _Array]:
        """:meth:`run` with packed values taken apart, so that both layouts answer alike."""
        return unpacked(self._models[name], self.run(name, inputs))

    def run(self, name: str, inputs: Mapping[str, _Array]) -> dict[str, _Array]:
        """Run a model or an ensemble; texts are ``str`` in object arrays.

        A merged graph that takes tokens may be given the ``query`` instead.
        """
        model = self._models[name]
        if not model.is_ensemble:
            if name in self._tokenizers:
                return self._tokenizers[name](inputs["query"])
            session = self._sessions[name]
            wanted = [output.name for output in model.outputs]
            given = dict(inputs)
            if "query" in given and "query" not in {tensor.name for tensor in model.inputs}:
                given |= self._tokenizers["tokenizer"](given["query"])
                given |= {
                    tensor.name: np.zeros((len(given["query"]), *tensor.dims), np.float32)
                    for tensor in model.inputs
                    if tensor.name == KNOWN_EMBEDDING
                }
            feed = {value.name: given[value.name] for value in session.get_inputs()}
            return dict(zip(wanted, session.run(wanted, feed), strict=True))
        known = dict(inputs)
        for step in model.steps:
            outputs = self.run(step.model, {name: known[source] for name, source in step.inputs.items()})
            known.update({target: outputs[source] for source, target in step.outputs.items()})
        return {output.name: known[output.name] for output in model.outputs}


def tokenizer_of(folder: Path) -> Tokenize:
    """The tokenizer that the served tokenizer model loads, from the same two files."""
    from tokenizers import Tokenizer

    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=options["max_tokens"])
    tokenizer.enable_padding(pad_id=options["pad_id"], pad_token=options["pad_token"])

    def tokenize(queries: _Array) -> dict[str, _Array]:
        encoded = tokenizer.encode_batch([str(query) for query in queries.reshape(-1)])
        return {
            "input_ids": np.array([line.ids for line in encoded], np.int64),
            "attention_mask": np.array([line.attention_mask for line in encoded], np.int64),
        }

    return tokenize
