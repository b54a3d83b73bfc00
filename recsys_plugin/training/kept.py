"""What is kept of the weights behind each exported version: to begin the next training with, and to compare with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights

from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.workspace import atomic_folder
from recsys_plugin.training.artefacts import (
    CATALOGUE_BUFFERS,
    TrainedModels,
    code_sizes,
    new_ranker,
    new_two_tower,
    read_vocabularies,
    write_ranker,
    write_two_tower,
)
from recsys_plugin.training.carry import WeightsMisfit, carried, code_rows, item_code_rows, item_rows
from recsys_plugin.training.ctr import ranker_folder
from recsys_plugin.training.inputs import ItemInputs, UserInputs, Vocabulary, item_inputs
from recsys_plugin.training.modalities import ItemModalities, TextAxes, compact_along
from recsys_plugin.training.neighbours import Neighbours
from recsys_plugin.training.ranker import CandidateRanker, Ranker
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.model import CtrModel
from recsys_plugin.training.zoo.registry import load_model
from recsys_plugin.training.zoo.shop import FrameRanker, ShopColumns, shop_layout

__all__ = ["KeptModels", "keep_models", "kept_folder"]

_Array = np.ndarray[Any, np.dtype[Any]]


def kept_folder(state: Path) -> Path:
    """Where the weights of exported versions are kept: one folder for each."""
    return state / "export" / "trained"


def keep_models(
    root: Path,
    version: int,
    models: TrainedModels,
    modalities: ItemModalities,
    *,
    encoder: str,
    fine_tuning: str,
    leave_out: Sequence[str],
    further: Sequence[CandidateRanker] = (),
    others: Sequence[int] = (),
) -> None:
    """Keep the weights of an exported version, since the next training overwrites those of the training folder.

    Args:
        root: what :func:`kept_folder` gives. version: as exported. models: of it. modalities: of its catalogue.
        encoder: of its texts. fine_tuning: what of that was trained. leave_out: what it was trained without.
        further: rankers besides the one that it serves, for the next training to go on from.
        others: further versions to keep; the rest is removed.
    """
    with atomic_folder(root / str(version)) as draft:
        (draft / "two_tower").mkdir()
        write_two_tower(draft / "two_tower", models.towers, models.contract, models.vocabularies)
        for ranker in (models.ranker, *further):
            (draft / ranker_folder(ranker.name)).mkdir()
            write_ranker(draft / ranker_folder(ranker.name), ranker, models.heads)
        save_file(
            {"centre": modalities.axes.centre, "directions": modalities.axes.directions}, draft / "axes.safetensors"
        )
        document = {
            "ctr_model": models.ranker.name,
            "encoder": encoder,
            "fine_tuning": fine_tuning,
            "leave_out": list(leave_out),
            "version": version,
            "sources": list(modalities.sources),
            "item_ids": list(models.item_ids),
            "heads": list(models.heads),
        }
        (draft / "about.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    for folder in root.glob("[0-9]*"):
        if int(folder.name) not in (version, *others):
            shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class KeptModels:
    """The weights of an exported version.

    Attributes:
        folder: where they are. version: which. ctr_model: the CTR model that it serves.
        encoder: of texts; fine_tuning: what of it was trained. leave_out: what it was trained without.
        item_ids: its catalogue in row order. sources: of its texts. axes: of its compact text vectors.
        heads: those that were trained.
    """

    folder: Path
    version: int
    ctr_model: str
    encoder: str
    fine_tuning: str
    leave_out: tuple[str, ...]
    item_ids: pd.Index[str]
    sources: tuple[str, ...]
    axes: TextAxes
    heads: tuple[str, ...]

    @classmethod
    def read(cls, root: Path, version: int) -> KeptModels | None:
        """What was kept of a version; None if nothing was."""
        folder = root / str(version)
        if not (folder / "about.json").is_file():
            return None
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            version=version,
            ctr_model=about["ctr_model"],
            encoder=about["encoder"],
            fine_tuning=about["fine_tuning"],
            leave_out=tuple(about["leave_out"]),
            item_ids=pd.Index(np.array(about["item_ids"], object), dtype=object),
            sources=tuple(about["sources"]),
            axes=TextAxes(**load_file(folder / "axes.safetensors")),
            heads=tuple(about["heads"]),
        )

    def digest(self) -> str:
        """SHA-256 over every kept file."""
        digest = sha256()
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(self.folder)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    @property
    def contract(self) -> FeatureContract:
        """The feature contract that they were trained on."""
        return FeatureContract.from_json(json.dumps(self._document()["contract"]))

    def user_vocabularies(self) -> dict[str, Vocabulary]:
        """Of the users' texts."""
        return read_vocabularies(self._document()["user_vocabularies"])

    def item_vocabularies(self) -> dict[str, Vocabulary]:
        """Of the items' codes."""
        return read_vocabularies(self._document()["item_vocabularies"])

    def load_towers(self, towers: TwoTower, item_ids: pd.Index[str], vocabularies: Mapping[str, Vocabulary]) -> None:
        """Put the weights into a two-tower of another catalogue and of wider vocabularies.

        Items that are new keep the id embedding that they have; what is known of them speaks through their texts.

        Args:
            towers: as new. item_ids: its catalogue. vocabularies: of its item codes.

        Raises:
            WeightsMisfit: if they do not fit.
        """
        self._fill(towers, item_ids, vocabularies, blank_new=False)

    def load_ranker(self, ranker: Ranker, vocabularies: Mapping[str, Vocabulary]) -> None:
        """Put the weights into a split ranker with wider vocabularies.

        Raises:
            WeightsMisfit: if they do not fit.
        """
        rows = self._user_rows(ranker.inputs, "inputs.embeddings")
        rows |= self._code_rows(vocabularies, "code_part")
        old = load_weights(self.folder / ranker_folder(Ranker.name) / "ranker.safetensors")
        ranker.load_state_dict(carried(old, ranker.state_dict(), rows))

    def ctr_model_on(self, name: str, shop: ShopColumns, item_ids: pd.Index[str]) -> CtrModel:
        """A member of the zoo with its tables laid out for other columns.

        Raises:
            WeightsMisfit: if it was not kept, or does not fit.
        """
        folder = self.folder / ranker_folder(name)
        if not folder.is_dir():
            raise WeightsMisfit(f"of {name} no weights were kept: version {self.version} serves {self.ctr_model}")
        user, item = self.user_vocabularies(), self.item_vocabularies()
        rows = [code_rows(user[spec.reference], shop.inputs.vocabularies[spec.reference]) for spec in shop.inputs.texts]
        sizes = shop.code_sizes[len(rows) : -1]
        for old, size in zip(item.values(), sizes, strict=True):
            if size < len(old):
                raise WeightsMisfit("the item vocabularies became shorter")
            rows.append(np.where(np.arange(size) < len(old), np.arange(size), 0))
        rows.append(item_code_rows(item_rows(self.item_ids, item_ids)))
        return load_model(folder).onto(shop_layout(shop), rows)

    def modalities_on(self, modalities: ItemModalities) -> ItemModalities:
        """The same texts with compact vectors along the axes that the kept models know."""
        return replace(
            modalities, compact=compact_along(modalities.texts, modalities.has_text, self.axes), axes=self.axes
        )

    def models_on(
        self, snapshot: pd.DataFrame, neighbours: Neighbours, item_ids: pd.Index[str], modalities: ItemModalities
    ) -> TrainedModels:
        """The kept models on another catalogue's snapshot, as they would serve it: a new item has no id embedding.

        Args:
            snapshot: item features, one row per item of the catalogue. neighbours: what is bought together then.
            item_ids: the catalogue in row order. modalities: of its items.

        Raises:
            WeightsMisfit: if they do not fit.
        """
        vocabularies = self.item_vocabularies()
        known = self.modalities_on(modalities)
        items, _ = item_inputs(snapshot, known, vocabularies, neighbours=neighbours)
        contract = self.contract
        towers = new_two_tower(UserInputs(contract, self.user_vocabularies()), items, code_sizes(vocabularies))
        self._fill(towers, item_ids, vocabularies, blank_new=True)
        ranker = self._served_ranker(towers.eval(), items, item_ids, vocabularies)
        return TrainedModels(contract, item_ids, towers, ranker, items, self.heads, vocabularies)

    def _served_ranker(
        self, towers: TwoTower, items: ItemInputs, item_ids: pd.Index[str], vocabularies: Mapping[str, Vocabulary]
    ) -> CandidateRanker:
        inputs = UserInputs(towers.user.inputs.contract, towers.user.inputs.vocabularies)
        sizes = code_sizes(vocabularies)
        if self.ctr_model == Ranker.name:
            ranker = new_ranker(inputs, items, sizes)
            self.load_ranker(ranker, vocabularies)
            return ranker.eval()
        inputs.load_state_dict(towers.user.inputs.state_dict())
        numbers = items.numbers.shape[1]
        model = self.ctr_model_on(self.ctr_model, ShopColumns(inputs, numbers, sizes, len(item_ids)), item_ids)
        return FrameRanker(model, inputs, numbers, sizes, len(item_ids)).eval()

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "two_tower" / "two_tower.json").read_text("utf-8"))
        return document

    def _fill(
        self, towers: TwoTower, item_ids: pd.Index[str], vocabularies: Mapping[str, Vocabulary], *, blank_new: bool
    ) -> None:
        rows = self._user_rows(towers.user.inputs, "user.inputs.embeddings")
        rows |= self._code_rows(vocabularies, "item.from_codes")
        rows["item.from_id.weight"] = item_rows(self.item_ids, item_ids)
        fresh = {name: value for name, value in towers.state_dict().items() if name not in CATALOGUE_BUFFERS}
        old = load_weights(self.folder / "two_tower" / "two_tower.safetensors")
        towers.load_state_dict(carried(old, fresh, rows, blank_new=blank_new), strict=False)

    def _user_rows(self, inputs: UserInputs, prefix: str) -> dict[str, _Array]:
        old = self.user_vocabularies()
        return {
            f"{prefix}.{number}.weight": code_rows(old[spec.reference], inputs.vocabularies[spec.reference])
            for number, spec in enumerate(inputs.texts)
        }

    def _code_rows(self, vocabularies: Mapping[str, Vocabulary], prefix: str) -> dict[str, _Array]:
        old = self.item_vocabularies()
        return {
            f"{prefix}.{number}.weight": code_rows(old[name], vocabulary)
            for number, (name, vocabulary) in enumerate(vocabularies.items())
        }
