"""An exported repository, and how it runs in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.export.description import Model, describe_repository, own_row_count
from recsys_plugin.export.export import ExportMaterial
from recsys_plugin.export.local import TOKENIZERS, LocalRepository, tokenizer_of
from recsys_plugin.export.merged import lay_out
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH

__all__ = ["Exported", "no_progress"]


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Exported:
    """An exported repository."""

    repository: Path
    state: Path
    material: ExportMaterial
    manifest: Any

    @property
    def described(self) -> tuple[Model, ...]:
        contract = self.material.models.contract
        steps = describe_repository(
            contract, vector=64, text_vector=384, own_rows=own_row_count(contract), item=PACKED_WIDTH
        )
        return lay_out(steps, self.manifest["graphs"])

    @property
    def graphs(self) -> dict[str, Path]:
        return {path.parents[1].name: path for path in self.repository.glob(f"*/{self.version}/model.onnx")}

    @property
    def version(self) -> int:
        return int(self.manifest["version"])

    @property
    def tokenizers(self) -> dict[str, Path]:
        return {name: self.repository / name / str(self.version) for name in TOKENIZERS}

    @property
    def tokenizer(self) -> Path:
        return self.tokenizers["tokenizer"]

    def copy(self, staging: Path) -> dict[str, Path]:
        """What the slow part of an export makes, copied instead; the paths of the graphs."""
        copies = {name: staging / name / "model.onnx" for name in self.graphs}
        for name, graph in self.graphs.items():
            shutil.copytree(graph.parent, staging / name)
        for name, folder in self.tokenizers.items():
            shutil.copytree(folder, staging / name)
        return copies

    def local(self, **replaced: Path) -> LocalRepository:
        """The exported models in this process, some graphs replaced."""
        tokenizers = {name: tokenizer_of(folder) for name, folder in self.tokenizers.items()}
        return LocalRepository(self.described, self.graphs | replaced, tokenizers)
