"""A served catalogue of any size with random weights: for measuring speed, memory and exactness, never quality.

The models have the shapes of trained ones and go through the ordinary export, parity check included, so that what is
served differs from a real shop in nothing but its numbers. They are made in a process of their own, whose memory is
gone before anything is measured.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_plugin.bench.shop import Tell
from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec
from recsys_plugin.features.plan import ReadFeatures, ReadPlan
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.runtime.processes import termination_as_interrupt
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.training.artefacts import TrainedModels
    from recsys_plugin.training.packing import UserTensors

__all__ = ["NOW", "CataloguePlan", "ServedCatalogue", "served_catalogue"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: The moment of every request, unix seconds; all features are as old as it.
NOW = 1_750_000_000.0
_DAY = 86_400
_PARITY_USERS = 4
#: Sizes of the items' code vocabularies, and width of the narrowed texts, as trained ones.
_CODE_SIZES, _COMPACT = (200, 500, 1000), 32
#: Width of the ranker's first layer.
_HIDDEN = 64
#: Protocol buffers, and so ONNX files without their weights beside them, hold less than this many bytes.
_PROTOBUF_LIMIT = 1 << 31
_NOUNS = ("lamp", "mug", "scarf", "kettle", "novel", "puzzle", "jacket", "desk", "pillow", "tent")
_BRANDS = 500


@dataclass(frozen=True, slots=True)
class CataloguePlan:
    """What to generate.

    Attributes:
        items: how many. seed: fixes everything.
        users: how many known users the store has.
        neighbours: entries of each item in the ranker's table of neighbours; a trained shop has at most 100.
        text_width: width of the items' text vectors; 384 takes the packaged encoder, another width a random one.

    Raises:
        InvalidInput: if the graph of a single step would not fit into one protocol buffer.
    """

    items: int
    seed: int = 0
    users: int = 64
    neighbours: int = 100
    text_width: int = 384

    def __post_init__(self) -> None:
        texts = 4 * self.text_width * self.items
        ranker = (4 * (_COMPACT + _HIDDEN) + 8 + 12 * self.neighbours) * self.items
        for what, size, cure in (
            ("the index of texts", texts, "a smaller text width"),
            ("the ranker", ranker, "fewer neighbours"),
        ):
            if size >= _PROTOBUF_LIMIT:
                raise InvalidInput(
                    f"{self.items:,} items: {what} alone would take {size / 1e9:.1f} GB, and a step is "
                    f"written as one protocol buffer, which ends at {_PROTOBUF_LIMIT / 1e9:.1f} GB, before its weights "
                    f"go to a file of their own; take {cure}, or fewer items"
                )


@dataclass(frozen=True, slots=True)
class ServedCatalogue:
    """A generated catalogue on servers of its own.

    Attributes:
        plan: what was generated. settings: name the temporary home, which :func:`open_shop` opens like any other.
        vectors: float32 [N, 64], the items' unit vectors in row order.
    """

    plan: CataloguePlan
    settings: Settings
    vectors: _Array


@contextmanager
def served_catalogue(
    settings: Settings, plan: CataloguePlan, *, scratch: Path | None, tell: Tell
) -> Iterator[ServedCatalogue]:
    """Generate, export and serve a catalogue in a temporary home; everything is stopped and removed in the end.

    Args:
        settings: name the home whose model configurations give the feature contract, and Triton's interpreter.
        plan: what to generate.
        scratch: where the temporary home is made; the system's place for temporary files if None.
        tell: told what is under way.

    Raises:
        ConfigurationError: if the home has no model configurations, or a server cannot be started here.
        StepFailed: if the export failed; what it printed says why.
        ServiceUnavailable: if a server does not start.
    """
    contract = _contract(settings)
    home = Path(tempfile.mkdtemp(prefix="recsys-catalogue-", dir=scratch))
    own = replace(settings, home=home, redis_url=None, triton_url=None, as_of=None)
    services = Services(own)
    # Somebody who ends the benchmark must not leave servers behind.
    with termination_as_interrupt(), ExitStack() as undo:
        undo.callback(shutil.rmtree, home, ignore_errors=True)
        undo.callback(services.down)
        with services.redis.process.lock():
            services.redis.start()
        tell(f"generating and exporting {plan.items:,} items", 0, 0)
        # Spawned, so that torch's memory is gone when it ends, and none of ours is counted as its own.
        process = multiprocessing.get_context("spawn").Process(
            target=_generate, args=(own, plan, contract.to_json(), services.redis_url)
        )
        process.start()
        undo.callback(process.terminate)
        process.join()
        if process.exitcode != 0:
            raise StepFailed(
                f"exporting {plan.items:,} items ended with exit code {process.exitcode}; what it printed above says "
                "why. A minus number is a signal: -9 is what the system sends when memory runs out."
            )
        tell(f"starting Triton with {plan.items:,} items", 0, 0)
        services.up()
        yield ServedCatalogue(plan, own, np.load(home / "vectors.npy", mmap_mode="r", allow_pickle=False))


def _contract(settings: Settings) -> FeatureContract:
    """The feature contract in the home's configuration of ``recommend``, which is tracked with the code."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    path = settings.model_repository / "recommend" / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist; run in the checkout, or set RECSYS_HOME to it") from error
    return FeatureContract.from_json(config.parameters["feature_contract"].string_value)


def _generate(settings: Settings, plan: CataloguePlan, contract_json: str, redis_url: str) -> None:
    """Write users to Redis, and everything else into the home."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys_plugin.export.export import ExportMaterial, export_repository

    contract = FeatureContract.from_json(contract_json)
    draw = np.random.default_rng(plan.seed)
    item_ids = pd.Index([f"i{number:09d}" for number in range(plan.items)], dtype=object)
    user_ids = [f"u{number:06d}" for number in range(plan.users)]
    users = _write_users(contract, user_ids, item_ids.to_numpy(object), redis_url, draw)
    settings.tables.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": user_ids}), settings.tables / "users.parquet")
    models = _random_models(contract, item_ids, plan, draw)
    nouns = np.array(_NOUNS, object)
    catalogue = pd.DataFrame(
        {
            "item_id": item_ids,
            "title": [f"{nouns[number % len(nouns)]} number {number}" for number in range(plan.items)],
            "category": nouns[np.arange(plan.items) % len(nouns)],
            "subcategory": "",
            "brand": [f"brand {number % _BRANDS}" for number in range(plan.items)],
            "price": draw.gamma(2.0, 10.0, size=plan.items).round(2),
            "available_since": pd.Timestamp(NOW, unit="s", tz="UTC")
            - pd.to_timedelta(np.arange(plan.items) % 700, unit="D"),
        }
    )
    material = ExportMaterial(
        models=models,
        catalogue=catalogue,
        text_vectors=_unit(draw, plan.items, plan.text_width),
        users=users,
        encoder=_encoder(settings.state, plan),
        candidates=min(500, plan.items),
    )
    export_repository(
        settings.model_repository,
        settings.state,
        material,
        progress=lambda what, done, total: None,
        key=settings.model_key,
    )
    np.save(settings.home / "vectors.npy", models.towers.item_vectors()[1], allow_pickle=False)


def _random_models(contract: FeatureContract, item_ids: Any, plan: CataloguePlan, draw: np.random.Generator) -> Any:
    """Untrained models of the shapes that training makes.

    The item tower is no network but its result, drawn at random: it is not served, and run over millions of items it
    would take several times the memory of all that is.
    """
    import torch

    from recsys_plugin.features.contract import TensorName
    from recsys_plugin.training.artefacts import TrainedModels, new_ranker
    from recsys_plugin.training.inputs import ITEM_NUMBERS, ItemInputs, UserInputs, Vocabulary
    from recsys_plugin.training.modalities import ItemModalities, TextAxes
    from recsys_plugin.training.neighbours import Neighbours, no_neighbours
    from recsys_plugin.training.ranker import HEADS
    from recsys_plugin.training.two_tower import DIMENSIONS, ItemTower, TwoTower, UserTower

    class DrawnItems(ItemTower):
        """A tower of one item, for those that are new; of the catalogue's N it answers float32 [N, 64] twice, drawn."""

        def __init__(self, one: ItemInputs, embedded: _Array, vectors: _Array) -> None:
            super().__init__(one, _CODE_SIZES)
            self.register_buffer("embedded", torch.from_numpy(embedded))
            self.register_buffer("vectors", torch.from_numpy(vectors))

        def forward(self, id_kept: Any = None) -> tuple[Any, Any]:
            """History embeddings and unit vectors."""
            return self.embedded, self.vectors

    size = plan.items
    torch.manual_seed(plan.seed)

    def modalities(count: int) -> ItemModalities:
        return ItemModalities(
            sources=("title",),
            # Nobody reads the catalogue's own here, so all items share the same zeros.
            texts=np.broadcast_to(np.zeros((1, 1, 1), np.float32), (count, 1, plan.text_width)),
            has_text=np.broadcast_to(np.zeros((1, 1), np.bool_), (count, 1)),
            images=np.zeros((count, 0), np.float32),
            has_image=np.zeros(count, np.bool_),
            compact=_unit(draw, count, _COMPACT),
            axes=TextAxes(np.zeros(plan.text_width, np.float32), _unit(draw, plan.text_width, _COMPACT)),
        )

    items = ItemInputs(
        modalities=modalities(size),
        codes=np.stack([draw.integers(1, most, size=size) for most in _CODE_SIZES], axis=1),
        numbers=draw.standard_normal((size, ITEM_NUMBERS), dtype=np.float32),
        neighbours=Neighbours(
            draw.integers(size, size=(size, plan.neighbours)),
            draw.random((size, plan.neighbours), dtype=np.float32),
        ),
    )
    texts = [spec for spec in contract.features if spec.tensor is TensorName.STRING]
    vocabularies = {spec.reference: Vocabulary(tuple(f"value {number}" for number in range(50))) for spec in texts}
    alone = modalities(1)
    alone = replace(alone, texts=alone.texts.copy(), has_text=alone.has_text.copy())
    one = ItemInputs(alone, items.codes[:1], items.numbers[:1], no_neighbours(1))
    drawn = DrawnItems(one, _unit(draw, size, DIMENSIONS), _unit(draw, size, DIMENSIONS))
    towers = TwoTower(UserTower(UserInputs(contract, vocabularies)), drawn)
    ranker = new_ranker(UserInputs(contract, vocabularies), items, _CODE_SIZES)
    codes = {
        f"item_catalogue__{name}": Vocabulary(tuple(f"{name} {number}" for number in range(count - 1)))
        for name, count in zip(("category", "subcategory", "brand"), _CODE_SIZES, strict=True)
    }
    models: TrainedModels = TrainedModels(contract, item_ids, towers.eval(), ranker.eval(), items, HEADS, codes)
    return models


def _encoder(state: Path, plan: CataloguePlan) -> str:
    """The name of a text encoder of the wanted width."""
    from recsys_plugin.training.text import DEFAULT_ENCODER, TextEncoder, load_encoder, save_encoder

    encoder, tokenizer = load_encoder(DEFAULT_ENCODER)
    if encoder.width == plan.text_width:
        return DEFAULT_ENCODER
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.text_width,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=2 * plan.text_width,
    )
    folder = state / "encoder"
    folder.mkdir(parents=True)
    save_encoder(folder, TextEncoder(BertModel(config), plan.text_width), tokenizer)
    return str(folder)


def _write_users(
    contract: FeatureContract, user_ids: list[str], item_ids: _Array, redis_url: str, draw: np.random.Generator
) -> UserTensors:
    """Write users with every feature set; the packed tensors of the first, read back as a request would."""
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    from recsys_plugin.training.packing import UserTensors

    plan = ReadPlan(contract)
    stamp = Timestamp(seconds=int(NOW)).SerializeToString()
    address = RedisAddress.parse(redis_url)
    client: Any = address.connect(30.0)
    try:
        for user_id in user_ids:
            values: list[bytes] = []
            for spec in contract.stored_features:
                value, name = Value(), f"{spec.dtype.lower()}_val"
                content = _drawn(spec, item_ids, draw)
                if spec.is_list:
                    getattr(value, name).val.extend(content)
                else:
                    setattr(value, name, content[0])
                values.append(value.SerializeToString())
            values += [stamp] * (len(plan.fields) - len(values))
            client.hset(plan.key(user_id), mapping=dict(zip(plan.fields, values, strict=True)))
    finally:
        client.close()
    reader = FeatureReader(address, timeout=30.0)
    try:
        some = user_ids[:_PARITY_USERS]
        replies = reader.read(ReadFeatures([plan.key(user_id) for user_id in some], plan.fields), timeout=30.0)
    finally:
        reader.close()
    rows = {item_id: row for row, item_id in enumerate(item_ids.tolist())}
    tensors, _ = plan.decode(some, replies, now=NOW, rows=rows)
    texts = np.array([[text.decode() for text in line] for line in tensors.user_string], dtype=object)
    return UserTensors(tensors.user_float, tensors.user_int, texts)


def _drawn(spec: FeatureSpec, item_ids: _Array, draw: np.random.Generator) -> list[Any]:
    """A list's length of values, one of a scalar."""
    count = spec.length or 1
    if spec.encoding is Encoding.ROW:
        return list(item_ids[draw.integers(len(item_ids), size=count)])
    if spec.element in ("FLOAT", "DOUBLE"):
        return list(draw.exponential(size=count))
    if spec.element == "UNIX_TIMESTAMP":
        return [int(NOW) - int(age) for age in draw.integers(90 * _DAY, size=count)]
    if spec.element == "BOOL":
        return [bool(value) for value in draw.integers(2, size=count)]
    if spec.element in ("STRING", "BYTES"):
        texts = [f"value {number}" for number in draw.integers(50, size=count)]
        return texts if spec.element == "STRING" else [text.encode() for text in texts]
    return [int(value) for value in draw.integers(6, size=count)]


def _unit(draw: np.random.Generator, rows: int, width: int) -> _Array:
    """Random unit vectors, float32 [rows, width]."""
    vectors = draw.standard_normal((rows, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
