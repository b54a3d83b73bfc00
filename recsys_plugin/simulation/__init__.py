"""A simulated shop with a known click model, for what needs the truth: does the loop of logging and retraining pay?"""

from __future__ import annotations

from recsys_plugin.simulation.loop import Arm, LoopOptions, Round, run_arm
from recsys_plugin.simulation.shop import ShopOptions, SimulatedShop

__all__ = ["Arm", "LoopOptions", "Round", "ShopOptions", "SimulatedShop", "run_arm"]
