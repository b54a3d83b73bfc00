"""The neural members of the zoo: how they are trained, kept and read."""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.carry import carried
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.model import (
    CtrModel,
    CtrOptions,
    Fitted,
    Progress,
    check_layout,
    options_document,
    options_of,
)
from recsys_plugin.training.zoo.networks import (
    CrossNetwork,
    CtrNetwork,
    InterestNetwork,
    LinearNetwork,
    MultiTaskNetwork,
)

__all__ = ["CrossModel", "GatedExperts", "InterestModel", "LogisticRegression", "NeuralModel", "ProgressiveExperts"]

_Array = np.ndarray[Any, np.dtype[Any]]


class NeuralModel(CtrModel):
    """A network, or several whose logits are averaged; see :class:`CtrOptions`."""

    needs_history: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.options = CtrOptions()
        self.networks = nn.ModuleList()

    @abstractmethod
    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """An untrained network for a frame's layout."""

    def fit(
        self,
        train: CtrFrame,
        validation: CtrFrame,
        options: CtrOptions,
        seed: int,
        tell: Progress,
        *,
        start: CtrModel | None = None,
    ) -> Fitted:
        """Train with Adam on the weighted log loss of the known labels; see :meth:`CtrModel.fit`."""
        self._begin(train, validation)
        if self.needs_history and train.history is None:
            raise InvalidInput(f"{self.name} learns from histories, and the frame has none")
        self.options = options
        self.networks = nn.ModuleList()
        epochs: list[int] = []
        first: list[float] = []
        for number in range(options.copies):
            first_weights = start.networks[number].state_dict() if isinstance(start, NeuralModel) else None
            network, kept, losses = self._train(train, validation, seed + 7919 * number, number, tell, first_weights)
            self.networks.append(network)
            epochs.append(kept)
            first = first or losses
        self._calibrate(validation)
        return Fitted(self.heads, tuple(epochs), tuple(first), self.calibration.calibrated)

    def _train(
        self,
        train: CtrFrame,
        validation: CtrFrame,
        seed: int,
        number: int,
        tell: Progress,
        first_weights: Mapping[str, Tensor] | None,
    ) -> tuple[CtrNetwork, int, list[float]]:
        options = self.options
        generator = np.random.default_rng(seed)
        torch.manual_seed(seed)
        network = self.build(self.layout, options)
        columns = _tensors(train)
        network.set_scales(columns["numbers"])
        if first_weights is not None:
            network.load_state_dict(first_weights)  # with their scales, which they were learned for
        labels, weights = torch.from_numpy(train.labels), torch.from_numpy(train.weights)
        trained = torch.tensor([head in self.heads for head in train.heads])
        tables = [p for name, p in network.named_parameters() if p.ndim == 2 and _is_table(network, name)]
        others = [p for p in network.parameters() if all(p is not table for table in tables)]
        groups: list[dict[str, Any]] = [
            {"params": tables, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], options.learning_rate)
        best: tuple[float, int, dict[str, Tensor]] | None = None
        losses: list[float] = []
        what = self.name if options.copies == 1 else f"{self.name}, copy {number + 1}"
        for epoch in range(options.epochs):
            tell(what, epoch, options.epochs)
            network.train()
            order = generator.permutation(len(train))
            for start in range(0, len(order), options.batch):
                lines = torch.from_numpy(order[start : start + options.batch])
                batch = {name: column[lines] for name, column in columns.items()}
                _forget(batch, options.unknown, generator)
                loss = _loss(network(**batch), labels[lines], weights[lines], trained)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            network.eval()
            if not len(validation):
                continue
            with torch.inference_mode():
                found = torch.from_numpy(_run(network, validation, options.batch))
                known = torch.from_numpy(validation.labels)
                losses.append(float(_loss(found, known, torch.from_numpy(validation.weights), trained)))
            if best is None or losses[-1] < best[0]:
                best = (losses[-1], epoch, copy.deepcopy(network.state_dict()))
            elif epoch - best[1] >= options.patience:
                break
        tell(what, options.epochs, options.epochs)
        if best is not None:
            network.load_state_dict(best[2])
        return network.eval(), (best[1] if best else options.epochs - 1) + 1, losses

    def onto(self, layout: dict[str, Any], rows: Sequence[_Array]) -> CtrModel:
        """See :meth:`CtrModel.onto`; tables are known by their names."""
        moved = type(self)()
        moved.options, moved.heads, moved.calibration = self.options, self.heads, self.calibration
        moved.layout = layout
        moved.networks = nn.ModuleList(self.build(layout, self.options) for _ in self.networks)
        fresh = moved.networks.state_dict()
        places = {name: rows[column] for name in fresh if (column := _code_column(name, len(rows))) is not None}
        moved.networks.load_state_dict(carried(self.networks.state_dict(), fresh, places))
        moved.networks.eval()
        return moved

    def logits(self, frame: CtrFrame) -> _Array:
        """Logits float32 [n, H], the mean of the copies; NaN for heads that were not trained."""
        check_layout(self.layout, frame)
        parts = [_run(network, frame, self.options.batch) for network in self.networks]
        found: _Array = np.mean(parts, axis=0).astype(np.float32)
        found[:, [head not in self.heads for head in frame.heads]] = np.nan
        return found

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(parameter.numel() for parameter in self.networks.parameters())

    def _save(self, folder: Path) -> dict[str, Any]:
        save_file(
            {name: value.contiguous() for name, value in self.networks.state_dict().items()},
            folder / "weights.safetensors",
        )
        return {"options": options_document(self.options)}

    @classmethod
    def _load(cls, folder: Path, layout: dict[str, Any], document: dict[str, Any]) -> CtrModel:
        model = cls()
        model.options = options_of(document["options"])
        model.networks = nn.ModuleList(model.build(layout, model.options) for _ in range(model.options.copies))
        model.networks.load_state_dict(load_file(folder / "weights.safetensors"))
        model.networks.eval()
        return model


def _is_table(network: nn.Module, name: str) -> bool:
    owner = network.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Embedding)


def _code_column(name: str, columns: int) -> int | None:
    """The code column of a table; the items of a history are coded as those of the last column."""
    found = re.search(r"(?:^|\.)(?:tables|codes)\.(\d+)\.weight$", name)
    if found:
        return int(found[1])
    return columns - 1 if re.search(r"^\d+\.items\.weight$", name) else None


def _tensors(frame: CtrFrame) -> dict[str, Tensor]:
    """The frame's columns under the networks' argument names; without a history its tensors have no width."""
    history = frame.history
    nothing = np.empty((len(frame), 0), np.int64)
    return {
        "numbers": torch.from_numpy(np.ascontiguousarray(frame.numbers)),
        "codes": torch.from_numpy(np.ascontiguousarray(frame.codes)),
        "items": torch.from_numpy(nothing if history is None else np.ascontiguousarray(history.items)),
        "types": torch.from_numpy(nothing if history is None else np.ascontiguousarray(history.types)),
        "ages": torch.from_numpy(nothing.astype(np.float32) if history is None else np.ascontiguousarray(history.ages)),
        "target": torch.from_numpy(
            np.full(len(frame), -1) if history is None else np.ascontiguousarray(history.target)
        ),
    }


def _run(network: nn.Module, frame: CtrFrame, batch: int) -> _Array:
    parts = []
    columns = _tensors(frame)
    with torch.inference_mode():
        for start in range(0, len(frame), batch):
            part = {name: column[start : start + batch] for name, column in columns.items()}
            parts.append(network(**part).numpy())
    return np.concatenate(parts) if parts else np.empty((0, len(frame.heads)), np.float32)


def _forget(batch: dict[str, Tensor], share: float, generator: np.random.Generator) -> None:
    """Blank some codes, targets and histories in place, as if they were new to the shop."""
    if share <= 0.0:
        return
    codes, lines = batch["codes"], len(batch["codes"])
    batch["codes"] = codes * torch.from_numpy(generator.random(codes.shape) >= share)
    target = torch.from_numpy(generator.random(lines) < share)
    batch["target"] = batch["target"].masked_fill(target, -1)
    history = torch.from_numpy(generator.random((lines, 1)) < share)
    batch["items"] = batch["items"].masked_fill(history, -1)


def _loss(logits: Tensor, labels: Tensor, weights: Tensor, trained: Tensor) -> Tensor:
    """Weighted mean log loss of each trained head over its known labels, summed over the heads."""
    known = ~torch.isnan(labels) & trained
    each = F.binary_cross_entropy_with_logits(logits, torch.where(known, labels, 0.0), reduction="none")
    mass = weights.unsqueeze(1) * known
    return ((each * mass).sum(0) / mass.sum(0).clamp(min=1e-6)).sum()


class LogisticRegression(NeuralModel):
    """One weight for each number and code."""

    name = "logistic"

    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """See :class:`LinearNetwork`."""
        return LinearNetwork(layout, options)


class CrossModel(NeuralModel):
    """DCN-v2."""

    name = "dcn"

    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """See :class:`CrossNetwork`."""
        return CrossNetwork(layout, options)


class InterestModel(NeuralModel):
    """DIN."""

    name = "din"
    needs_history = True

    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """See :class:`InterestNetwork`."""
        return InterestNetwork(layout, options)


class GatedExperts(NeuralModel):
    """Multi-task, MMoE."""

    name = "mmoe"

    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """See :class:`MultiTaskNetwork`."""
        return MultiTaskNetwork(layout, options, shared=4)


class ProgressiveExperts(NeuralModel):
    """Multi-task, PLE."""

    name = "ple"

    def build(self, layout: Mapping[str, Any], options: CtrOptions) -> CtrNetwork:
        """See :class:`MultiTaskNetwork`."""
        return MultiTaskNetwork(layout, options, shared=2, own=2)
