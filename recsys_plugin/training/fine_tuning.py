"""Fine-tuning of a text encoder: frozen, LoRA or full, with checkpoints, early stopping and the cost of each."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.training.checkpoint import Progressed, read_checkpoint, write_checkpoint
from recsys_plugin.training.fine_tuning_tasks import FineTuningTask
from recsys_plugin.training.memory import PeakMemory
from recsys_plugin.training.options import FINE_TUNING_MODES, FineTuningOptions
from recsys_plugin.training.text import TextEncoder, TextKind

__all__ = ["LEARNING_RATES", "FineTuningReport", "fine_tune"]

#: Peak learning rates, tried on an inner split of the search data; low-rank changes start at zero and need more, but
#: three times this one lowered the held-out NDCG.
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}

_WARM_UP, _WEIGHT_DECAY, _LARGEST_GRADIENT = 0.1, 0.01, 1.0
#: Texts of like length are encoded together, about so many at a time: less padding, so less time.
_TOGETHER = 24

#: Told the steps that are done, of how many, and the loss of the last one.
StepProgress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class FineTuningReport:
    """What fine-tuning did and what it cost.

    Attributes:
        mode: what was trained.
        parameters: of the encoder without LoRA's. trainable_parameters: of those trained.
        peak_memory_bytes: the largest memory of the process while training, or of the GPU where it trained on one.
        memory: which of both, ``"process"`` or ``"GPU"``.
        seconds: wall-clock time of this call. steps: optimisation steps, those before a resumed checkpoint included.
        resumed_at: the step that a checkpoint was resumed at; 0 without one.
        training_loss: mean by epoch. validation_loss: by epoch, empty without a validation set.
        best_epoch: whose weights were kept, from 1; the last without a validation set.
        examples: how many there were.
    """

    mode: str
    parameters: int
    trainable_parameters: int
    peak_memory_bytes: int
    memory: str
    seconds: float
    steps: int
    resumed_at: int
    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    examples: int

    @property
    def trainable_share(self) -> float:
        """Trained parameters over the encoder's."""
        return self.trainable_parameters / self.parameters

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "trainable_share": self.trainable_share}


def fine_tune(
    encoder: TextEncoder,
    tokenizer: Any,
    tasks: Sequence[FineTuningTask],
    options: FineTuningOptions,
    *,
    validation: Sequence[FineTuningTask] = (),
    checkpoints: Path | None = None,
    progress: StepProgress = lambda step, steps, loss: None,
    clock: Callable[[], float] = time.perf_counter,
) -> FineTuningReport:
    """Train an encoder in place on all tasks together; LoRA (Hu et al. 2021) is merged into the weights at the end.

    AdamW; the learning rate rises over the first tenth of the steps and falls to zero from there. With a validation
    set the weights of its best epoch are kept, and training stops after ``options.patience`` epochs without a better.

    Args:
        encoder, tokenizer: from :func:`~recsys_plugin.training.text.load_encoder`; on the device to train on.
        tasks: what to learn; the batches of all are mixed. options: how.
        validation: the same of later events or of other queries.
        checkpoints: a folder for checkpoints; a run with the same options and examples that stopped there goes on
            and ends with the weights that it would have had. Kept at the end, for the caller to delete.
        progress: told after every step. clock: seconds.

    Raises:
        ConfigurationError: if the mode is unknown.
        InvalidInput: if there is nothing to learn from.
        StepFailed: if the loss stops being finite.
    """
    if options.mode not in FINE_TUNING_MODES:
        raise ConfigurationError(f"fine-tuning mode {options.mode!r} is none of {', '.join(FINE_TUNING_MODES)}")
    started, parameters = clock(), sum(value.numel() for value in encoder.parameters())
    if options.mode == "frozen":
        return FineTuningReport("frozen", parameters, 0, 0, "process", 0.0, 0, 0, (), (), 0, 0)
    if not any(len(task) for task in tasks):
        raise InvalidInput("there is no example to fine-tune the text encoder on")
    torch.manual_seed(options.seed)
    trained = _trainable(encoder, options)
    run = _Run(encoder, tokenizer, tasks, validation, options, trained)
    with PeakMemory(run.device) as memory, _dropout(encoder, options.dropout):
        progressed, resumed_at = run.train(checkpoints, progress)
    if options.mode == "lora":
        encoder.transformer = encoder.transformer.merge_and_unload()  # type: ignore[operator]
    for value in encoder.parameters():
        value.requires_grad_(True)
    encoder.eval()
    record = progressed.record
    return FineTuningReport(
        mode=options.mode,
        parameters=parameters,
        trainable_parameters=sum(value.numel() for value in trained.values()),
        peak_memory_bytes=memory.peak_bytes,
        memory=memory.of,
        seconds=clock() - started,
        steps=progressed.step,
        resumed_at=resumed_at,
        training_loss=tuple(record["training_loss"]),
        validation_loss=tuple(record["validation_loss"]),
        best_epoch=record["best_epoch"] or len(record["training_loss"]),
        examples=sum(len(task) for task in tasks),
    )


class _Run:
    """The training loop of one call."""

    def __init__(
        self,
        encoder: TextEncoder,
        tokenizer: Any,
        tasks: Sequence[FineTuningTask],
        validation: Sequence[FineTuningTask],
        options: FineTuningOptions,
        trained: Mapping[str, nn.Parameter],
    ) -> None:
        self._encoder, self._tokenizer, self._options = encoder, tokenizer, options
        self._tasks = [task for task in tasks if len(task)]
        self._validation = [task for task in validation if len(task)]
        self._trained = trained
        self.device = next(encoder.parameters()).device
        self._peak = options.learning_rate or LEARNING_RATES[options.mode]
        self._optimiser = torch.optim.AdamW(trained.values(), lr=self._peak, weight_decay=_WEIGHT_DECAY)
        described = [asdict(options), [task.digest() for task in self._tasks + self._validation], sorted(trained)]
        self._name = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def train(self, checkpoints: Path | None, progress: StepProgress) -> tuple[Progressed, int]:
        """Run all epochs; how far it came, and the step at which it was resumed."""
        options = self._options
        state = Progressed(self._name, record=_new_record())
        if checkpoints is not None:
            state = read_checkpoint(checkpoints, self._name, self._trained, self._optimiser) or state
        resumed_at, done = state.step, 0
        steps = options.epochs * len(self._batches(0))
        for epoch in range(options.epochs):
            if state.record["stopped"]:
                break
            batches = self._batches(epoch)
            for task, rows in batches[max(0, state.step - done) :]:
                loss = self._step(task, rows, state.step, steps)
                state.step += 1
                state.record["epoch_loss"] += loss / len(batches)
                if state.step == done + len(batches):
                    self._end_epoch(state, epoch + 1)
                elif checkpoints is not None and state.step % options.checkpoint_every == 0:
                    write_checkpoint(checkpoints, self._trained, self._optimiser, state)
                progress(state.step, steps, loss)
            done += len(batches)
            if checkpoints is not None and state.step == done > resumed_at:
                write_checkpoint(checkpoints, self._trained, self._optimiser, state)
        with torch.no_grad():
            for name, best in state.tensors.items():
                self._trained[name].copy_(best)
        return state, resumed_at

    def _batches(self, epoch: int) -> list[tuple[FineTuningTask, np.ndarray[Any, np.dtype[Any]]]]:
        """The batches of all tasks in random order, which depends on seed and epoch alone."""
        generator = np.random.default_rng([self._options.seed, epoch])
        batches = [(task, rows) for task in self._tasks for rows in task.batches(self._options.batch, generator)]
        return [batches[number] for number in generator.permutation(len(batches))]

    def _step(self, task: FineTuningTask, rows: Any, step: int, steps: int) -> float:
        warm = max(1.0, _WARM_UP * steps)
        rate = self._peak * min((step + 1) / warm, (steps - step) / max(1.0, steps - warm))
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._encoder.train()
        loss = task.loss(self._embed, rows)
        if not torch.isfinite(loss):
            raise StepFailed(
                f"the loss of fine-tuning became {loss.item()} at step {step + 1}; "
                f"choose a learning rate below {self._peak:g}"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained.values(), _LARGEST_GRADIENT)
        self._optimiser.step()
        return float(loss.detach())

    def _end_epoch(self, state: Progressed, epoch: int) -> None:
        """Record the losses, keep the weights if they are the best so far, and decide whether to stop."""
        record = state.record
        record["training_loss"].append(record["epoch_loss"])
        record["epoch_loss"] = 0.0
        if not self._validation:
            return
        loss = self._validation_loss()
        record["validation_loss"].append(loss)
        if record["best_epoch"] == 0 or loss < record["validation_loss"][record["best_epoch"] - 1]:
            record["best_epoch"] = epoch
            state.tensors = {name: value.detach().clone() for name, value in self._trained.items()}
        record["stopped"] = epoch - record["best_epoch"] >= self._options.patience

    def _validation_loss(self) -> float:
        """The mean loss of the validation batches, which are cut the same way every time."""
        self._encoder.eval()
        generator = np.random.default_rng(self._options.seed)
        with torch.no_grad():
            losses = [
                float(task.loss(self._embed, rows))
                for task in self._validation
                for rows in task.batches(self._options.batch, generator)
            ]
        if not losses:
            raise InvalidInput("the validation set is too small to make a batch; give two pairs at least, or none")
        return float(np.mean(losses))

    def _embed(self, texts: Sequence[str], kind: TextKind) -> Tensor:
        """Unit vectors with gradient, [texts, dimensions]; texts of like length are encoded together."""
        prefix = self._encoder.prefixes.of(kind)
        ids = self._tokenizer([prefix + text for text in texts], truncation=True, max_length=self._options.max_tokens)[
            "input_ids"
        ]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        groups = np.array_split(np.array(order), max(1, round(len(order) / _TOGETHER)))
        vectors = []
        mixed = self._options.mixed_precision and self.device.type == "cuda"
        for group in groups:
            tokens = self._tokenizer.pad({"input_ids": [ids[row] for row in group]}, return_tensors="pt")
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                vectors.append(
                    self._encoder(tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device))
                )
        back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
        return torch.cat(vectors).float()[back]


def _new_record() -> dict[str, Any]:
    return {"training_loss": [], "validation_loss": [], "best_epoch": 0, "epoch_loss": 0.0, "stopped": False}


def _trainable(encoder: TextEncoder, options: FineTuningOptions) -> dict[str, nn.Parameter]:
    """Choose what is trained and freeze the rest; adds LoRA's parameters to the encoder."""
    if options.mode == "lora":
        from peft import LoraConfig, get_peft_model

        changes = LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            # The pooler is no part of the mean of token states.
            exclude_modules=r".*pooler.*",
        )
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 for an attribute by its old name.
            warnings.simplefilter("ignore", FutureWarning)
            encoder.transformer = get_peft_model(encoder.transformer, changes)
    else:
        # A row of the token table is touched by few examples and moves away from rows that none touches.
        tokens = encoder.transformer.get_input_embeddings().weight  # type: ignore[operator]
        for name, value in encoder.named_parameters():
            value.requires_grad_(value is not tokens and ".pooler." not in name)
    return {name: value for name, value in encoder.named_parameters() if value.requires_grad}


@contextmanager
def _dropout(encoder: nn.Module, share: float) -> Iterator[None]:
    """Give every dropout layer this share for a while."""
    layers = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    before = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = share
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p
