"""Trying a model version on live traffic: who gets it, what is counted, and when it is taken back by itself."""

from recsys_plugin.trials.operations import Trials
from recsys_plugin.trials.trial import MalformedTrial, Thresholds, Trial

__all__ = ["MalformedTrial", "Thresholds", "Trial", "Trials"]
