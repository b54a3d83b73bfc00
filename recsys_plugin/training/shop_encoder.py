"""The text encoder of a shop: fine-tuned on its own baskets and queries, in a folder that any loader reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.training.fine_tuning import fine_tune
from recsys_plugin.training.options import FineTuningOptions
from recsys_plugin.training.shop_pairs import describe_pairs, shop_pairs
from recsys_plugin.training.text import item_texts, load_encoder, save_encoder

__all__ = ["fine_tune_on_shop", "name_in_use"]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


def name_in_use(training: Path, encoder: str, mode: str) -> str:
    """What :func:`~recsys_plugin.training.text.load_encoder` takes after training.

    Args:
        training: the training folder. encoder: what was chosen. mode: ``"frozen"``, ``"lora"`` or ``"full"``.
    """
    return encoder if mode == "frozen" else str(training / "encoder")


def fine_tune_on_shop(
    folder: Path,
    dataset: Dataset,
    items: pd.DataFrame,
    encoder: str,
    options: FineTuningOptions,
    progress: Progress,
    *,
    checkpoints: Path,
) -> Mapping[str, Any]:
    """Fine-tune on what happened before the validation period, and write the encoder.

    Args:
        folder: takes the encoder. dataset: its events. items: the catalogue, as
            :func:`~recsys_plugin.training.text.item_texts` takes it, with ``item_id``.
        encoder: which to begin with. options: how. progress: told what is under way.
        checkpoints: a folder for checkpoints; a run that was interrupted goes on from there.

    Returns:
        The report of :func:`~recsys_plugin.training.fine_tuning.fine_tune`, and how many pairs there were.

    Raises:
        StepFailed: if the shop has neither baskets of two items nor queries.
    """
    columns = ["user_id", "item_id", "event_type", "timestamp", "basket_id", "query"]
    train, validation = shop_pairs(
        dataset.frame("events", columns),
        pd.Series(item_texts(items), index=items["item_id"].to_numpy(object)),
        before=pd.Timestamp(dataset.validation_start),
        most=options.most_pairs,
        seed=options.seed,
    )
    if not train:
        raise StepFailed(
            f"data set {dataset.name!r} has neither baskets with two items nor queries before "
            f"{dataset.validation_start:%Y-%m-%d}, so there is nothing to fine-tune the text encoder on; "
            "use --fine-tune frozen"
        )
    model, tokenizer = load_encoder(encoder)
    if torch.cuda.is_available():
        model.to("cuda")
    report = fine_tune(
        model,
        tokenizer,
        train,
        options,
        validation=validation,
        checkpoints=checkpoints,
        progress=lambda step, steps, loss: progress("fine-tuning the text encoder", step, steps),
    )
    save_encoder(folder, model.to("cpu"), tokenizer)
    return {**report.to_dict(), "pairs": describe_pairs(train), "validation_pairs": describe_pairs(validation)}
