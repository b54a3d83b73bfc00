"""A text encoder of two layers with random weights, and a tokenizer of whole words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from recsys_plugin.training.text import TextEncoder, TextPrefixes

__all__ = ["COLOURS", "THINGS", "tiny_encoder"]

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
THINGS = ("mug", "lamp", "chair", "coat", "kettle", "rug", "clock", "plate")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tiny_encoder(
    words: Sequence[str] = (*COLOURS, *THINGS, "query", "passage", ":"),
    *,
    seed: int = 0,
    prefixes: TextPrefixes | None = None,
) -> tuple[TextEncoder, Any]:
    """An encoder with 16 dimensions, and its tokenizer."""
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = BertModel(config)
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    return TextEncoder(model, 16, prefixes).eval(), loaded
