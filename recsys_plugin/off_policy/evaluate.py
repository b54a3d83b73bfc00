"""From a log of pages to the value of another exploration policy, by every estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import ConfigurationError, DataError, InvalidInput
from recsys_plugin.off_policy.estimators import Decisions, Estimate, Estimator, Interval, estimate
from recsys_plugin.off_policy.log import ImpressionLog
from recsys_plugin.off_policy.reward_model import CrossFittedRewards, RewardModel, boosted_rewards
from recsys_plugin.policy.exploration import ExplorationPolicy
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.thompson import ThompsonSampling

__all__ = ["PAGE_MODELS", "Evaluation", "EvaluationOptions", "PageModel", "evaluate_policy"]

_Array = NDArray[np.float64]
_Progress = Callable[[str, int, int], None]
PageModel = Literal["item-position", "cascade", "page"]
PAGE_MODELS: tuple[PageModel, ...] = get_args(PageModel)
#: How far a logged propensity may be from what its policy gives for the logged candidates.
_PROPENSITY_ERROR = 1e-3
#: Standard errors by which the mean weight may be below 1 before it is called missing overlap.
_FAR = 4.0


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        model: what a reward depends on. ``item-position``: the item and its position (Li et al. 2018), weights are
            marginal propensities and stay small. ``cascade``: the items above as well (McInerney et al. 2020), weights
            are products down to the position. ``page``: the whole page (standard slate IPS), which large pages make
            useless. Models of rewards, for dr and its like, are made under ``item-position`` alone.
        estimators: which. clip, switch, interval, level, replicates: see :func:`estimate`.
        features: columns of the log that the reward model learns from, besides logit and position.
        folds: of the reward model. seed: of folds, models and the bootstrap.
    """

    model: PageModel = "item-position"
    estimators: tuple[Estimator, ...] = ("ips", "snips", "dr", "sndr")
    clip: float | None = None
    switch: float | None = None
    interval: Interval = "normal"
    level: float = 0.95
    replicates: int = 1000
    features: tuple[str, ...] = ()
    folds: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found.

    Attributes:
        policy: evaluated, as settings name it. reward: the column. logged_value: mean reward of what was shown, under
            the policy that logged it. pages, decisions: how many. estimates: one for each estimator. notes: what must
            be known to read them.
    """

    policy: str
    reward: str
    model: PageModel
    logged_value: float
    pages: int
    decisions: int
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "policy": self.policy,
            "reward": self.reward,
            "model": self.model,
            "logged_value": self.logged_value,
            "pages": self.pages,
            "decisions": self.decisions,
            "estimates": [found.document() for found in self.estimates],
            "notes": list(self.notes),
        }


def evaluate_policy(
    log: ImpressionLog,
    policy: ExplorationPolicy,
    options: EvaluationOptions | None = None,
    *,
    make: Callable[[int], RewardModel] = boosted_rewards,
    tell: _Progress = lambda name, done, total: None,
) -> Evaluation:
    """What ``policy`` would have earned for each item shown, had it chosen from the logged candidates.

    Args:
        log: of pages, with all candidates. policy: evaluated; with a seed, if it is Thompson sampling.
        options: how. make: an untrained reward model for a seed. tell: told the progress.

    Raises:
        DataError: if logged propensities are not those of the logged policy over the logged candidates, or a column
            that is needed is missing.
        NoOverlap: if the policy would have shown nothing that was shown.
        InvalidInput: if an option is wrong.
    """
    chosen = options if options is not None else EvaluationOptions()
    modelled = [name for name in chosen.estimators if name not in ("ips", "snips")]
    if chosen.model not in PAGE_MODELS:
        raise InvalidInput(f"model {chosen.model!r}: there are {', '.join(PAGE_MODELS)}")
    if modelled and chosen.model != "item-position":
        raise InvalidInput(
            f"{modelled[0]} is made under the model item-position; with {chosen.model} take ips or snips"
        )
    rows = log.shown_rows
    if not len(rows):
        raise DataError("nothing was shown", file=log.file, column="position")
    _check_propensities(log)
    distributions: list[_Array] = []
    if chosen.model == "item-position":
        distributions = _marginals(log, policy, tell)
        page_target = [each[: log.shown[page]].diagonal() for page, each in enumerate(distributions)]
        logged, target = _logged_marginals(log, tell)[rows], np.concatenate(page_target)
    else:
        logged, target = np.ones(len(rows)), _product_weights(log, policy, chosen.model, tell)
    groups = np.repeat(np.arange(len(log)), log.shown)
    rewards = log.rewards[rows]
    decisions = Decisions(rewards, logged, target, groups)
    if modelled:
        predicted, expected = _modelled(log, distributions, chosen, make, tell)
        decisions = Decisions(rewards, logged, target, groups, predicted, expected)
    generator = np.random.default_rng(chosen.seed)
    estimates = tuple(
        estimate(
            decisions,
            name,
            clip=chosen.clip,
            switch=chosen.switch if name == "switch" else None,
            interval=chosen.interval,
            level=chosen.level,
            replicates=chosen.replicates,
            generator=generator,
        )
        for name in chosen.estimators
    )
    return Evaluation(
        policy=policy.name,
        reward=log.reward,
        model=chosen.model,
        logged_value=float(rewards.mean()),
        pages=len(log),
        decisions=len(rows),
        estimates=estimates,
        notes=tuple(_notes(decisions.weights, groups)),
    )


def _pages(log: ImpressionLog) -> Sequence[slice]:
    return [slice(start, end) for start, end in zip(log.starts[:-1].tolist(), log.starts[1:].tolist(), strict=True)]


def _features(log: ImpressionLog, policy: ExplorationPolicy) -> _Array | None:
    """What a policy with a last layer takes, from columns of its features' names: float64 ``[n, d]``."""
    if not isinstance(policy, ThompsonSampling):
        return None
    for name in policy.posterior.names:
        if name not in log.table.columns:
            raise DataError(
                f"{policy.name} takes it as a feature, and the column is missing", file=log.file, column=name
            )
    return log.table[list(policy.posterior.names)].to_numpy(dtype=np.float64)


def _marginals(log: ImpressionLog, policy: ExplorationPolicy, tell: _Progress) -> list[_Array]:
    """For each page, P(candidate at position): float64 ``[pool, k]``."""
    features = _features(log, policy)
    found = []
    for page, rows in enumerate(_pages(log)):
        if page % 100 == 0:
            tell(f"propensities of {policy.name}", page, len(log))
        beside = None if features is None else features[rows]
        found.append(policy.marginals(log.logits[rows], int(log.shown[page]), features=beside))
    return found


def _logged_marginals(log: ImpressionLog, tell: _Progress) -> _Array:
    """P(shown item at its position) under the policy that logged it: float64 ``[n]``, NaN if not shown."""
    if log.position_propensities is not None:
        return log.position_propensities
    first = log.shown <= 1
    result = np.full(len(log.logits), np.nan)
    if first.all():  # at the first position both propensities are the same
        return log.propensities
    if log.policies is None:
        raise DataError(
            "the model item-position needs it, or the column policy to compute it from; with cascade it is not needed",
            file=log.file,
            column="position_propensity",
        )
    policies = {name: _logged_policy(name, log) for name in dict.fromkeys(log.policies)}
    features = {name: _features(log, policy) for name, policy in policies.items()}
    for page, rows in enumerate(_pages(log)):
        if page % 100 == 0:
            tell("propensities as logged", page, len(log))
        name, count = log.policies[page], int(log.shown[page])
        beside = features[name]
        found = policies[name].marginals(log.logits[rows], count, features=None if beside is None else beside[rows])
        result[rows.start : rows.start + count] = found[:count].diagonal()
    return result


def _logged_policy(name: str, log: ImpressionLog) -> ExplorationPolicy:
    try:
        return parse_exploration(name)
    except ConfigurationError as error:
        raise DataError(f"no policy to compute propensities from: {error}", file=log.file, column="policy") from error


def _product_weights(log: ImpressionLog, policy: ExplorationPolicy, model: PageModel, tell: _Progress) -> _Array:
    """For each item shown, the weight of the page down to it, or of the whole page."""
    features = _features(log, policy)
    found = []
    for page, rows in enumerate(_pages(log)):
        if page % 100 == 0:
            tell(f"propensities of {policy.name}", page, len(log))
        count = int(log.shown[page])
        beside = None if features is None else features[rows]
        theirs = policy.propensities(log.logits[rows], np.arange(count), features=beside)
        down = np.cumprod(theirs / log.propensities[rows][:count])
        found.append(down if model == "cascade" else np.full(count, down[-1] if count else 0.0))
    return np.concatenate(found)


def _check_propensities(log: ImpressionLog) -> None:
    """Make sure that the pool of a page is the one that was chosen from, where the policy can tell.

    A log without the candidates that were not shown would give every item a propensity that is too high, in silence.
    """
    if log.policies is None:
        return
    policies: dict[str, ExplorationPolicy] = {}
    for name in dict.fromkeys(log.policies):
        # A last layer may have been updated since, so what is in its file now says nothing.
        if not name.startswith("thompson"):
            policies[name] = _logged_policy(name, log)
    for page, rows in enumerate(_pages(log)):
        policy = policies.get(log.policies[page])
        if policy is None:
            continue
        count = int(log.shown[page])
        expected, logged = policy.propensities(log.logits[rows], np.arange(count)), log.propensities[rows][:count]
        apart = np.abs(expected - logged) > _PROPENSITY_ERROR * np.maximum(expected, logged)
        if apart.any():
            place = int(np.flatnonzero(apart)[0])
            raise DataError(
                f"request {log.request_ids[page]}, position {place + 1}: logged is {logged[place]:.6g}, but "
                f"{policy.name} gives {expected[place]:.6g} over the {rows.stop - rows.start} candidates logged; all "
                "candidates must be in the log, with the logits that the policy was given",
                file=log.file,
                column="propensity",
            )


def _modelled(
    log: ImpressionLog,
    distributions: Sequence[_Array],
    options: EvaluationOptions,
    make: Callable[[int], RewardModel],
    tell: _Progress,
) -> tuple[_Array, _Array]:
    """Predicted rewards of what was shown, and of what the policy would have shown at that position."""
    for name in options.features:
        if name not in log.table.columns:
            raise DataError(
                "the column is missing, and the reward model was to learn from it", file=log.file, column=name
            )
    columns = np.column_stack([log.logits, *(log.table[name].to_numpy(np.float64) for name in options.features)])
    rows = log.shown_rows
    groups = np.repeat(np.arange(len(log)), log.shown)
    position = np.concatenate([np.arange(count) for count in log.shown])
    model = CrossFittedRewards(
        np.column_stack([columns[rows], position]),
        log.rewards[rows],
        groups,
        make=make,
        folds=options.folds,
        seed=options.seed,
        tell=tell,
    )
    predicted = model.predict(np.column_stack([columns[rows], position]), groups)
    expected = np.empty(len(rows))
    start = 0
    for block in np.array_split(np.arange(len(log)), max(1, len(log) // 500)):
        tell("expected rewards", int(block[0]), len(log))
        offered, at, page_of, chances = [], [], [], []
        for page in block.tolist():
            pool = np.arange(log.starts[page], log.starts[page + 1])
            count = int(log.shown[page])
            offered.append(np.repeat(pool, count))
            at.append(np.tile(np.arange(count), len(pool)))
            page_of.append(np.full(len(pool) * count, page))
            chances.append(distributions[page].ravel())
        chance = np.concatenate(chances)
        likely = chance > 0.0
        places, positions, pages = (np.concatenate(part)[likely] for part in (offered, at, page_of))
        value = model.predict(np.column_stack([columns[places], positions]), pages) * chance[likely]
        first = np.concatenate([[0], np.cumsum(log.shown[block])])
        total = np.bincount(first[pages - block[0]] + positions, value, minlength=int(first[-1]))
        expected[start : start + len(total)] = total
        start += len(total)
    return predicted, expected


def _notes(weights: _Array, groups: NDArray[np.int64]) -> list[str]:
    notes = ["values are for each item shown; intervals count pages, not items, as independent"]
    pages = np.bincount(groups, weights - 1.0)
    error = float(np.sqrt((pages**2).sum())) / len(weights)
    mean = float(weights.mean())
    if mean < 1.0 - _FAR * error:
        notes.append(
            f"the mean weight is {mean:.3f}, clearly below 1: the logging policy never shows some of what this policy "
            "would, whose worth is unknown; ips counts it as nothing, snips as like the rest"
        )
    return notes
