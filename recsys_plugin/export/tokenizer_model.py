"""Triton Python model: text to tokens. Runs inside the server, with the package ``tokenizers`` and none of ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """``query`` STRING [n, 1] → ``input_ids``, ``attention_mask`` INT64 [n, tokens], padded to the longest."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``tokenizer.json`` and the longest length from beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length=options["max_tokens"])
        self._tokenizer.enable_padding(pad_id=options["pad_id"], pad_token=options["pad_token"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize each request; a text that is not UTF-8 fails that request alone."""
        responses = []
        for request in requests:
            queries = pb_utils.get_input_tensor_by_name(request, "query").as_numpy().reshape(-1)
            try:
                encoded = self._tokenizer.encode_batch([query.decode("utf-8") for query in queries])
            except UnicodeDecodeError as error:
                failure = pb_utils.TritonError(f"query is not UTF-8: {error}")
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=failure))
                continue
            ids = np.array([line.ids for line in encoded], dtype=np.int64)
            mask = np.array([line.attention_mask for line in encoded], dtype=np.int64)
            outputs = [pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
