"""What diversity costs and brings: pages of the test's users re-ranked with growing strength, by the trained models.

Candidates are those that the exported index would propose, scored as the exported ranker scores them; the purchases
after the split are the truth. Each user's page is made once without diversity and once with each method and strength,
so that differences are between pages of the same user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from recsys_plugin.bench.machine import describe_machine, load_average, package_versions
from recsys_plugin.bench.report import Report
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS
from recsys_plugin.policy.diversity import DiversityMethod, diversified, intra_list_distance
from recsys_plugin.settings import Settings
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.evaluation import score_candidates
from recsys_plugin.training.metrics import ranking_values
from recsys_plugin.training.ranker import HEADS

__all__ = ["Curve", "Pages", "add_figures", "draw_curves", "measure_diversity", "read_pages", "reranked"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Told what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]

#: Bootstrap samples of users for the interval of a difference.
_SAMPLES = 1000
_COLOURS = {"mmr": "#0072B2", "dpp": "#D55E00"}


@dataclass(frozen=True, slots=True)
class Pages:
    """Scored candidates of users with purchases after the split."""

    rows: _Array
    """int64 ``[users, n]``, best first."""
    scores: _Array
    """float32 ``[users, n]``."""
    truth: Any
    """Contexts of the same users."""
    vectors: _Array
    """float32 ``[N, D]``, unit vectors of the catalogue."""
    categories: _Array
    """int64 ``[N]``: number of each item's category, -1 where it is not known."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One method at growing strength; each column is float64 ``[strengths, users]``."""

    strengths: tuple[float, ...]
    ndcg: _Array
    recall: _Array
    distance: _Array
    """Intra-list distance of each page."""
    categories: _Array
    """Distinct categories on each page."""
    catalogue_share: _Array
    """float64 ``[strengths]``: share of the catalogue's categories that are on any page."""


def read_pages(settings: Settings, users: int, pool: int, tell: Progress) -> Pages:
    """Score the candidates of the test's users with the trained models.

    Args:
        settings: a home with trained models; no server is needed.
        users: how many at most, drawn with a fixed seed. pool: how many of each user's best candidates are kept.
        tell: told what is under way.

    Raises:
        ConfigurationError: if nothing is trained, or the test has no user.
    """
    from recsys_plugin.pipeline.steps import TRAIN_STEP, selected_model
    from recsys_plugin.pipeline.training_run import training_run
    from recsys_plugin.pipeline.workspace import Workspace
    from recsys_plugin.training.options import training_options_of

    trained = Workspace(settings.state).finished(TRAIN_STEP)
    if trained is None:
        raise ConfigurationError("nothing is trained; run `recsys train`")
    options = training_options_of(trained.info["options"])
    dataset = load_dataset(settings)
    run = training_run(settings, dataset, options, tell)
    frames = run.frames()
    split = frames.test
    having = np.array([index for index in range(len(split.contexts)) if len(split.contexts.positives(index))], np.int64)
    if not having.size:
        raise ConfigurationError("the test has no user with a purchase; there is nothing to compare")
    if len(having) > users:
        having = np.sort(np.random.default_rng(0).choice(having, users, replace=False))
    # The snapshot of the split: what the models knew when the truth was still to come.
    models = run.models_at(selected_model(settings, trained), -2)
    chosen = split.users.take(having)
    tell("candidates", 0, 0)
    rows, _ = candidate_rows(models.towers, chosen, options.candidates)
    tell("scores", 0, 0)
    logits = score_candidates(models.ranker, models.towers, models.items, chosen, rows)
    rates = 1.0 / (1.0 + np.exp(-logits))
    scores = np.stack([SCORE_WEIGHTS[head] * rates[..., HEADS.index(head)] for head in models.heads]).sum(axis=0)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :pool]
    items = dataset.frame("items", ["item_id", "category"]).set_index("item_id")["category"].reindex(models.item_ids)
    categories = items.astype("category").cat.codes.to_numpy(np.int64)
    return Pages(
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(scores, order, axis=1).astype(np.float32),
        split.contexts.take(having),
        models.towers.item_vectors()[1],
        categories,
    )


def reranked(
    pages: Pages, method: DiversityMethod, strengths: Sequence[float], k: int, tell: Progress = lambda *_: None
) -> Curve:
    """Pages of k items of one method at each strength, and their figures."""
    found: dict[str, list[_Array]] = {name: [] for name in ("ndcg", "recall", "distance", "categories")}
    shares: list[float] = []
    every = len(np.unique(pages.categories[pages.categories >= 0]))
    for number, strength in enumerate(strengths):
        tell(method, number, len(strengths))
        ranked = np.full((len(pages.rows), k), -1, np.int64)
        for user, (rows, scores) in enumerate(zip(pages.rows, pages.scores, strict=True)):
            able = rows >= 0
            rows = rows[able]
            order = diversified(method, scores[able], pages.vectors[rows], k, strength=strength)
            ranked[user, : len(order)] = rows[order]
        values = ranking_values(ranked, pages.truth, k=k)
        found["ndcg"].append(values[f"ndcg@{k}"])
        found["recall"].append(values[f"recall@{k}"])
        found["distance"].append(np.array([intra_list_distance(pages.vectors[page[page >= 0]]) for page in ranked]))
        shown = [np.unique(pages.categories[page[page >= 0]]) for page in ranked]
        found["categories"].append(np.array([float((codes >= 0).sum()) for codes in shown]))
        seen = np.unique(np.concatenate(shown)) if shown else np.empty(0)
        shares.append(float((seen >= 0).sum() / max(every, 1)))
    tell(method, len(strengths), len(strengths))
    columns = {name: np.stack(values) for name, values in found.items()}
    return Curve(tuple(strengths), **columns, catalogue_share=np.array(shares))


def add_figures(report: Report, curves: dict[str, Curve], k: int, *, seed: int = 0) -> None:
    """Means over users at each strength, and NDCG's difference from strength 0 with an interval of 95 %."""
    draw = np.random.default_rng(seed)
    for method, curve in curves.items():
        lost = curve.ndcg - curve.ndcg[0]
        samples = draw.integers(0, lost.shape[1], (_SAMPLES, lost.shape[1]))
        for number, strength in enumerate(curve.strengths):
            name = f"{method}.strength_{round(100 * strength):03d}"
            report.add(f"{name}.ndcg_{k}", float(curve.ndcg[number].mean()))
            report.add(f"{name}.recall_{k}", float(curve.recall[number].mean()))
            report.add(f"{name}.distance", float(curve.distance[number].mean()))
            report.add(f"{name}.categories", float(curve.categories[number].mean()))
            report.add(f"{name}.catalogue_categories", float(curve.catalogue_share[number]))
            if number:
                means = lost[number][samples].mean(axis=1)
                report.add(f"{name}.ndcg_change", float(lost[number].mean()))
                low, high = np.percentile(means, (2.5, 97.5))
                report.add(f"{name}.ndcg_change_low", float(low))
                report.add(f"{name}.ndcg_change_high", float(high))


def measure_diversity(
    settings: Settings, *, strengths: Sequence[float], users: int, pool: int, k: int, tell: Progress
) -> tuple[Report, dict[str, Curve]]:
    """The whole benchmark: every method at every strength; the first strength is 0.

    Raises:
        ConfigurationError: as :func:`read_pages`.
    """
    machine = {**describe_machine(), "load_average_before": load_average()}
    report = Report(f"Diversity: pages of {k}", machine, package_versions("torch"))
    pages = read_pages(settings, users, pool, tell)
    chosen = (0.0, *(strength for strength in sorted(set(strengths)) if strength > 0))
    curves = {method: reranked(pages, method, chosen, k, tell) for method in get_args(DiversityMethod)}
    report.add("users", len(pages.rows))
    add_figures(report, curves, k)
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"pages of {k} of the {pool} best of each user's candidates; truth: purchases after the test's split",
        "distance is the mean of 1 - cosine over the pairs of a page, of the vectors that similarity is taken from; "
        "categories are distinct ones on a page; catalogue_categories is the share of all that are on any page",
        "ndcg_change is against strength 0 on the same users, with a bootstrap interval of 95 %",
    ]
    return report, curves


def draw_curves(path: Path, curves: dict[str, Curve], k: int) -> None:
    """NDCG against intra-list distance and against categories on a page, a point for each strength.

    Args:
        path: a file that :func:`~recsys_plugin.bench.plot.check_plot` has accepted.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    users = next(iter(curves.values())).ndcg.shape[1]
    figure.suptitle(f"What diversity costs and brings\n{users:,} users of the test, pages of {k}", fontsize=10)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, column, label in zip(
        panels, ("distance", "categories"), ("intra-list distance", "categories on a page"), strict=True
    ):
        for method, curve in curves.items():
            x, y = getattr(curve, column).mean(axis=1), curve.ndcg.mean(axis=1)
            panel.plot(x, y, color=_COLOURS[method], marker="o", label=method.upper())
            # Points close to each other share the first one's label.
            labelled = -np.inf
            for at, strength in enumerate(curve.strengths):
                if x[at] - labelled < 0.06 * (x.max() - x.min()):
                    continue
                labelled = x[at]
                above = method == "mmr"
                panel.annotate(
                    f"{strength:g}", (x[at], y[at]), textcoords="offset points", xytext=(3, 6 if above else -12),
                    fontsize=7, color=_COLOURS[method],
                )  # fmt: skip
        panel.set_xlabel(label)
        panel.grid(visible=True, alpha=0.25)
    panels[0].set_ylabel(f"NDCG@{k}")
    panels[0].set_ylim(0, 1.15 * max(curve.ndcg.mean(axis=1).max() for curve in curves.values()))
    panels[0].legend(frameon=False, title="strength beside each point", title_fontsize=8)
    figure.savefig(path, dpi=150)
