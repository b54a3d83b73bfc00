"""Training in these tests is as ``recsys train`` does it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_order_of_sums() -> Iterator[None]:
    """Else the threads of PyTorch add up gradients in an order of their own, and no seed gives the same model twice."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
