"""``recsys train``: text vectors, point-in-time frames, two-tower, ranker, report and vectors, each kept on its own."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from recsys_plugin.impressions.join import outcomes_digest
from recsys_plugin.inference.new_items import item_text
from recsys_plugin.pipeline.feast_repository import contract_of
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace, atomic_folder
from recsys_plugin.report.html import write_report
from recsys_plugin.training.frames import build_frames
from recsys_plugin.training.options import CTR_MODELS
from recsys_plugin.training.parts import (
    collect_shown_pages,
    encode_catalogue,
    fit_ctr_model,
    fit_ranker,
    fit_two_tower,
)
from recsys_plugin.training.reporting import training_report
from recsys_plugin.training.run import TrainingRun
from recsys_plugin.training.shop_encoder import fine_tune_on_shop
from recsys_plugin.training.vectors import write_vectors

__all__ = ["Training"]


class Training:
    """Runs the parts of a training run that are not current.

    Args:
        run: what the parts share. state: the state folder, which remembers what is current.
        applied: fingerprint of the feature tables and definitions that the store holds.
    """

    def __init__(self, run: TrainingRun, state: Path, *, applied: str) -> None:
        self._run, self._applied = run, applied
        self._workspace = Workspace(state)

    def run(self, *, force: bool = False) -> StepResult:
        """Run every part that is not current, vectors and report included, and return the report's result."""
        encoder, members, towers = self.fit(force=force)
        vectors = Step(
            "train.vectors",
            inputs={"towers": towers.fingerprint},
            outputs=[self._run.feature_data / f"{name}.parquet" for name in ("user_embedding", "item_embedding")],
            sources=("training/vectors",),
        )
        self._workspace.run(vectors, functools.partial(write_vectors, self._run), force=force)
        report = Step(
            "train.report",
            inputs={"ctr_models": {name: member.fingerprint for name, member in members.items()}},
            outputs=[self._run.folder / "report.json"],
            sources=(
                "training/evaluation",
                "training/metrics",
                "training/segments",
                "training/importance",
                "training/reporting",
            ),
        )
        done = self._workspace.run(
            report,
            lambda: training_report(
                self._run,
                {name: member.info for name, member in members.items()},
                fine_tuning=encoder.info if encoder else None,
            ),
            force=force,
        )
        page = Step("train.html", {"report": done.fingerprint}, [self._run.folder / "report.html"], ("report",))
        self._workspace.run(page, self._write_page, force=force or not done.current)
        return done

    def fit(self, *, force: bool = False) -> tuple[StepResult | None, dict[str, StepResult], StepResult]:
        """Run what makes models: the fine-tuned encoder if any, the CTR models by name, and the two-tower."""
        options = self._run.options
        self._run.tracker.parameters(asdict(options))
        torch.use_deterministic_algorithms(True)
        contract = contract_of(self._run.store)
        encoder = self._fine_tuned(force=force)
        axes = self._run.text_axes()
        warm = None if options.warm_start is None else asdict(options.warm_start)
        text = self._part(
            "text",
            functools.partial(encode_catalogue, self._run),
            {
                "items": self._run.dataset.sha256["items"],
                "texts": self._run.dataset.sha256.get("texts"),
                "before": self._run.dataset.validation_start.isoformat(),
                "encoder": options.encoder,
                "fine_tuned": encoder.fingerprint if encoder else None,
                # Its module is the client's as well, whose other lines change nothing here.
                "item_text": item_text("title", "category", "brand"),
                "axes": None if axes is None else sha256(axes.directions.tobytes() + axes.centre.tobytes()).hexdigest(),
            },
            ("training/text", "training/modalities", "training/user_texts"),
            tables=("user_text",),
            force=force,
        )
        frames = self._part(
            "frames",
            lambda folder: build_frames(
                folder,
                self._run.dataset,
                self._run.store,
                contract,
                most_contexts=options.most_contexts,
                weeks=options.weeks,
                seed=options.seed,
                most_evaluated=options.most_evaluated,
                most_pages=options.ranker_contexts,
                progress=self._run.progress,
            ),
            {
                "applied": self._applied,
                "text": text.fingerprint,
                "options": [
                    options.most_contexts,
                    options.weeks,
                    options.seed,
                    options.most_evaluated,
                    options.ranker_contexts,
                ],
            },
            (
                "training/frames",
                "training/contexts",
                "training/packing",
                "training/pages",
                "training/neighbours",
                "training/baselines",
                "pipeline/feast_repository",
            ),
            force=force,
        )
        shown = self._part(
            "shown_pages",
            lambda folder: collect_shown_pages(self._run, folder, contract),
            {
                "frames": frames.fingerprint,
                "outcomes": outcomes_digest(self._run.outcome_files()),
                "options": [options.shown_pages, options.shown_window, options.seed],
            },
            ("training/impressions", "training/packing", "pipeline/feast_repository"),
            force=force,
        )
        towers = self._part(
            "two_tower",
            functools.partial(fit_two_tower, self._run),
            {
                "text": text.fingerprint,
                "frames": frames.fingerprint,
                "options": asdict(options.two_tower),
                "leave_out": options.leave_out,
                "warm_start": warm,
            },
            (
                "training/two_tower",
                "training/history",
                "training/inputs",
                "training/artefacts",
                "training/carry",
                "training/kept",
                "training/parts",
            ),
            force=force,
        )
        ranker = self._part(
            "ranker",
            functools.partial(fit_ranker, self._run),
            {
                "towers": towers.fingerprint,
                "shown_pages": shown.fingerprint,
                "options": [asdict(options.ranker), options.candidates, options.seed],
            },
            ("training/ranker", "training/pair_features", "training/candidates", "training/ctr", "training/parts"),
            force=force,
        )
        members = {"split_mlp": ranker}
        for name in CTR_MODELS[1:]:
            if name in options.ctr_models:
                members[name] = self._part(
                    f"ctr_{name}",
                    functools.partial(fit_ctr_model, self._run, name),
                    {"ranker": ranker.fingerprint},
                    ("training/zoo", "training/ctr", "training/parts"),
                    force=force,
                )
        return encoder, members, towers

    def _part(
        self,
        name: str,
        make: Callable[[Path], Mapping[str, Any]],
        inputs: Mapping[str, Any],
        sources: tuple[str, ...],
        *,
        tables: Sequence[str] = (),
        force: bool = False,
    ) -> StepResult:
        """Run one part into a folder of its own, and into feature tables, unless it is current."""
        folder = self._run.folder / name

        outputs = [folder, *(self._run.feature_data / f"{table}.parquet" for table in tables)]

        def action() -> Mapping[str, Any]:
            started = self._run.clock()
            with atomic_folder(folder) as draft:
                made = make(draft)
            return {**made, "seconds": round(self._run.clock() - started, 1)}

        return self._workspace.run(Step(f"train.{name}", inputs, outputs, sources), action, force=force)

    def _fine_tuned(self, *, force: bool = False) -> StepResult | None:
        """The fine-tuned text encoder; None if it is to stay as it is."""
        options = self._run.options
        if options.fine_tuning.mode == "frozen":
            return None
        checkpoints = self._run.folder / "encoder_checkpoint"
        result = self._part(
            "encoder",
            lambda folder: fine_tune_on_shop(
                folder,
                self._run.dataset,
                self._run.items,
                options.encoder,
                options.fine_tuning,
                self._run.progress,
                checkpoints=checkpoints,
            ),
            {
                "tables": [self._run.dataset.sha256[name] for name in ("items", "events")],
                "before": self._run.dataset.validation_start.isoformat(),
                "encoder": options.encoder,
                "options": asdict(options.fine_tuning),
            },
            (
                *(f"training/fine_tuning{part}" for part in ("", "_tasks")),
                *(f"training/{name}" for name in ("checkpoint", "shop_encoder", "shop_pairs", "text")),
            ),
            force=force,
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
        return result

    def _write_page(self) -> Mapping[str, Any]:
        path = write_report(self._run.folder.parent)
        self._run.tracker.artefact(path)
        return {"bytes": path.stat().st_size}
