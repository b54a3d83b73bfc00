"""Training that was interrupted goes on where it stood: weights, optimiser, random numbers and progress in one folder.

Tensors are kept as safetensors and all else as JSON, so that no code runs when a checkpoint is read. Each checkpoint is
written whole before it takes the place of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline.workspace import atomic_folder

__all__ = ["Progressed", "read_checkpoint", "write_checkpoint"]

_TENSORS, _PROGRESS = "tensors.safetensors", "progress.json"


@dataclass(slots=True)
class Progressed:
    """How far training has come, besides weights and optimiser.

    Attributes:
        run: what identifies the run (a digest of options and examples); a checkpoint of another run is no help.
        step: optimisation steps that are done.
        record: anything JSON can hold: the losses so far, the best validation.
        tensors: further tensors, by name: the best weights so far.
    """

    run: str
    step: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def write_checkpoint(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, progressed: Progressed
) -> None:
    """Write weights, the optimiser's state, the state of torch's random numbers and the progress.

    Args:
        folder: takes the files; an earlier checkpoint there is replaced.
        parameters: what is trained, by name, in the order in which the optimiser was given it.
        optimiser: the optimiser. progressed: how far it is.
    """
    state = optimiser.state_dict()
    tensors = {f"weight.{name}": value.detach() for name, value in parameters.items()}
    for number, entries in state["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    tensors |= {f"more.{name}": value.detach() for name, value in progressed.tensors.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    described = {
        "run": progressed.run,
        "step": progressed.step,
        "record": progressed.record,
        "groups": state["param_groups"],
    }
    with atomic_folder(folder) as draft:
        # Copies: weights that share memory cannot be written.
        save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, draft / _TENSORS)
        (draft / _PROGRESS).write_text(json.dumps(described), encoding="utf-8")


def read_checkpoint(
    folder: Path, run: str, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> Progressed | None:
    """Put weights, the optimiser's state and the random numbers back as they were.

    Args:
        folder: where :func:`write_checkpoint` wrote. run: what identifies the run.
        parameters, optimiser: as they were given to :func:`write_checkpoint`; changed in place.

    Returns:
        How far the run had come; None if there is no checkpoint or it is another run's, and then nothing is changed.

    Raises:
        StepFailed: if the checkpoint is of this run but holds other weights.
    """
    if not (folder / _PROGRESS).exists():
        return None
    described = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    if described["run"] != run:
        return None
    tensors = load_file(folder / _TENSORS)
    shapes = {name.removeprefix("weight."): v.shape for name, v in tensors.items() if name.startswith("weight.")}
    if shapes != {name: value.shape for name, value in parameters.items()}:
        raise StepFailed(f"the checkpoint in {folder} holds other weights than this run trains; delete the folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, entry = name.split(".", 2)
            state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": described["groups"]})
    torch.set_rng_state(tensors["random"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    more = {name.removeprefix("more."): value for name, value in tensors.items() if name.startswith("more.")}
    return Progressed(run, described["step"], described["record"], more)
