"""Off-policy evaluation: what another policy would have earned on the pages that were logged."""

from __future__ import annotations

from recsys_plugin.off_policy.estimators import ESTIMATORS, Decisions, Estimate, Estimator, Interval, estimate
from recsys_plugin.off_policy.evaluate import Evaluation, EvaluationOptions, evaluate_policy
from recsys_plugin.off_policy.log import ImpressionLog, read_log
from recsys_plugin.off_policy.reward_model import CrossFittedRewards, RewardModel, boosted_rewards

__all__ = [
    "ESTIMATORS",
    "CrossFittedRewards",
    "Decisions",
    "Estimate",
    "Estimator",
    "Evaluation",
    "EvaluationOptions",
    "ImpressionLog",
    "Interval",
    "RewardModel",
    "boosted_rewards",
    "estimate",
    "evaluate_policy",
    "read_log",
]
