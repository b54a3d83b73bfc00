"""Our estimates beside those of Open Bandit Pipeline, on the Open Bandit data that it carries, in one run.

Open Bandit data (Saito et al. 2021): clicks on a fashion shop's pages of three places, logged once by a random policy
and once by Bernoulli Thompson sampling. Each is evaluated on what the other logged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from obp.dataset import OpenBanditDataset
from obp.ope import (
    DoublyRobust,
    InverseProbabilityWeighting,
    OffPolicyEvaluation,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
)
from obp.policy import BernoulliTS, Random
from sklearn.linear_model import LogisticRegression

from recsys_plugin.off_policy import CrossFittedRewards, Decisions, Estimate, estimate

OTHER = {"random": "bts", "bts": "random"}
THEIRS = {"ips": "ipw", "snips": "snipw", "dr": "dr"}


class BundledData(OpenBanditDataset):  # type: ignore[misc]
    """The bundled sample, read with a pandas that takes no positional axis; its documentation invites the override."""

    def pre_process(self) -> None:
        users = self.data.loc[:, self.data.columns.str.contains("user_feature")]
        self.context = pd.get_dummies(users, drop_first=True).to_numpy(float)
        kinds = self.item_context.drop(columns="item_feature_0").apply(lambda column: pd.factorize(column)[0])
        self.action_context = np.column_stack([kinds, self.item_context["item_feature_0"]]).astype(float)


def evaluated_policy(name: str, data: Any) -> NDArray[np.float64]:
    """P(action at position), which knows no context, as the library computes it: ``[actions, positions]``."""
    options = {"n_actions": data.n_actions, "len_list": data.len_list, "random_state": 12345}
    if name == "random":
        found: NDArray[np.float64] = Random(**options).compute_batch_action_dist(n_rounds=1)[0]
    else:
        thompson = BernoulliTS(**options, is_zozotown_prior=True, campaign="all")
        found = thompson.compute_batch_action_dist(n_rounds=1, n_sim=20_000)[0]
    return found


@pytest.fixture(scope="module", params=["random", "bts"])
def both(request: pytest.FixtureRequest) -> tuple[dict[str, Estimate], pd.DataFrame, float]:
    """Our estimates, theirs with intervals, and what the evaluated policy earned when it served itself."""
    behaviour: str = request.param
    data = BundledData(behavior_policy=behaviour, campaign="all")
    log = data.obtain_batch_bandit_feedback()
    target = evaluated_policy(OTHER[behaviour], data)
    rounds, actions = log["n_rounds"], log["n_actions"]
    action, position, reward = log["action"], log["position"], log["reward"].astype(np.float64)
    distribution = np.broadcast_to(target, (rounds, *target.shape))

    regression = RegressionModel(
        n_actions=actions,
        len_list=data.len_list,
        action_context=log["action_context"],
        base_model=LogisticRegression(max_iter=1000, C=0.1),
    )
    predicted = regression.fit_predict(
        **{name: log[name] for name in ("context", "action", "reward", "position", "pscore")},
        action_dist=distribution,
        n_folds=3,
        random_state=12345,
    )
    evaluation = OffPolicyEvaluation(
        bandit_feedback=log,
        ope_estimators=[
            InverseProbabilityWeighting(),
            SelfNormalizedInverseProbabilityWeighting(),
            DoublyRobust(),
        ],
    )
    values, intervals = evaluation.summarize_off_policy_estimates(
        action_dist=distribution,
        estimated_rewards_by_reg_model=predicted,
        n_bootstrap_samples=500,
        random_state=12345,
    )
    theirs = intervals.join(values)

    def features(chosen: NDArray[np.int64], at: NDArray[np.int64], context: NDArray[np.float64]) -> Any:
        return np.column_stack([log["action_context"][chosen], at, context])

    groups = np.arange(rounds)
    model = CrossFittedRewards(features(action, position, log["context"]), reward, groups, folds=3, seed=0)
    every = features(
        np.tile(np.arange(actions), rounds), np.repeat(position, actions), np.repeat(log["context"], actions, axis=0)
    )
    offered = model.predict(every, np.repeat(groups, actions)).reshape(rounds, actions)
    decisions = Decisions(
        rewards=reward,
        logged=log["pscore"],
        target=target[action, position],
        groups=groups,
        predicted=offered[groups, action],
        expected=(offered * target[:, position].T).sum(axis=1),
    )
    ours = {name: estimate(decisions, name) for name in ("ips", "snips", "dr")}
    earned = BundledData.calc_on_policy_policy_value_estimate(behavior_policy=OTHER[behaviour], campaign="all")
    print(f"\n{behaviour} → {OTHER[behaviour]} (served itself: {earned:.5f})")
    for name, mine in ours.items():
        row = theirs.loc[THEIRS[name]]
        print(
            f"  {name}: ours {mine.value:.6f} [{mine.low:.5f}, {mine.high:.5f}], theirs "
            f"{row['estimated_policy_value']:.6f} [{row['95.0% CI (lower)']:.5f}, {row['95.0% CI (upper)']:.5f}]; "
            f"effective sample {mine.effective_sample_size:.0f}, mean weight {mine.mean_weight:.3f}"
        )
    return ours, theirs, float(earned)


@pytest.mark.parametrize("name", THEIRS)
def test_our_estimate_lies_within_the_librarys_interval(
    both: tuple[dict[str, Estimate], pd.DataFrame, float], name: str
) -> None:
    ours, theirs, _ = both
    row = theirs.loc[THEIRS[name]]
    assert row["95.0% CI (lower)"] <= ours[name].value <= row["95.0% CI (upper)"]


@pytest.mark.parametrize("name", ["ips", "snips"])
def test_what_needs_no_model_is_the_librarys_figure(
    both: tuple[dict[str, Estimate], pd.DataFrame, float], name: str
) -> None:
    ours, theirs, _ = both
    assert ours[name].value == pytest.approx(theirs.loc[THEIRS[name], "estimated_policy_value"], rel=1e-9)


@pytest.mark.parametrize("name", THEIRS)
def test_our_interval_holds_what_the_policy_earned_itself(
    both: tuple[dict[str, Estimate], pd.DataFrame, float], name: str
) -> None:
    ours, _, earned = both
    assert ours[name].low <= earned <= ours[name].high
