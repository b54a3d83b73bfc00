"""Self-attention over a user's history, and the next-item model that is trained with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.history import HistoryEncoder

WIDTH, ITEMS, LENGTH = 8, 20, 6


def _encoder(*, ages: bool = True, event_types: int = 6, layers: int = 2, causal: bool = True) -> HistoryEncoder:
    torch.manual_seed(0)
    encoder = HistoryEncoder(
        WIDTH, layers=layers, heads=2, length=LENGTH, ages=ages, event_types=event_types, causal=causal
    )
    # Biases start at zero; move them, so that the tests see what they do.
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


@pytest.fixture(scope="module")
def table() -> Tensor:
    return torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))


def _inputs(lines: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, ITEMS, (lines, LENGTH), generator=generator)
    rows[torch.arange(LENGTH) >= torch.randint(0, LENGTH + 1, (lines, 1), generator=generator)] = -1
    rows[0] = -1
    ages = torch.rand(lines, LENGTH, generator=generator).cumsum(1) * 30.0
    return rows, ages, torch.randint(0, 6, (lines, LENGTH), generator=generator)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_result_is_the_state_of_the_newest_event(table: Tensor, layers: int, causal: bool) -> None:
    encoder = _encoder(layers=layers, causal=causal)
    rows, ages, types = _inputs()
    states = encoder.states(table, rows, ages, types)[:, 0]
    known = rows[:, 0] >= 0
    torch.testing.assert_close(encoder(table, rows, ages, types)[known], states[known], atol=1e-5, rtol=1e-5)


def test_a_user_without_history_has_the_learned_vector(table: Tensor) -> None:
    encoder = _encoder()
    rows, ages, types = _inputs()
    found = encoder(table, rows, torch.where(rows >= 0, ages, torch.nan), types)
    torch.testing.assert_close(found[0], encoder.nobody.detach())
    encoder.train()
    encoder(table, rows, ages, types)[0].sum().backward()
    assert encoder.nobody.grad is not None
    assert torch.equal(encoder.nobody.grad, torch.ones(WIDTH))
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=LENGTH),
    before=st.integers(0, LENGTH),
    after=st.integers(0, LENGTH),
)
def test_padding_on_either_side_changes_nothing(rows: list[int], before: int, after: int) -> None:
    encoder = _encoder()
    table = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))
    before = min(before, LENGTH - len(rows))
    after = min(after, LENGTH - len(rows) - before)
    ages = [float(index) for index in range(len(rows))]
    bare = encoder(table, torch.tensor([rows]), torch.tensor([ages]), torch.ones(1, len(rows), dtype=torch.int64))
    padded = [-1] * before + rows + [-1] * after
    padded_ages = [torch.nan] * before + ages + [torch.inf] * after
    types = torch.full((1, len(padded)), 1)
    torch.testing.assert_close(
        encoder(table, torch.tensor([padded]), torch.tensor([padded_ages]), types), bare, atol=1e-5, rtol=1e-4
    )


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=LENGTH))
def test_causal_states_are_those_of_each_shorter_history(rows: list[int]) -> None:
    encoder = _encoder(ages=False, event_types=0)
    table = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))
    states = encoder.states(table, torch.tensor([rows]))[0]
    for place in range(len(rows)):
        alone = encoder(table, torch.tensor([rows[place:]]))[0]
        torch.testing.assert_close(states[place], alone, atol=1e-5, rtol=1e-4)


def test_order_gaps_and_types_matter(table: Tensor) -> None:
    encoder = _encoder()
    rows, ages, types = torch.tensor([[3, 5, 7]]), torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 2]])
    base = encoder(table, rows, ages, types)
    assert not torch.allclose(encoder(table, torch.tensor([[3, 7, 5]]), ages, types), base)
    assert not torch.allclose(encoder(table, rows, torch.tensor([[1.0, 2.0, 300.0]]), types), base)
    assert not torch.allclose(encoder(table, rows, ages, torch.tensor([[0, 1, 3]])), base)


@pytest.mark.parametrize("age", [torch.nan, torch.inf, -torch.inf])
def test_an_age_that_is_no_number_means_unknown(table: Tensor, age: float) -> None:
    encoder = _encoder()
    rows, types = torch.tensor([[3, 5]]), torch.tensor([[0, 1]])
    found = encoder(table, rows, torch.tensor([[1.0, age]]), types)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, encoder(table, rows, torch.tensor([[1.0, torch.nan]]), types))
    assert not torch.allclose(found, encoder(table, rows, torch.tensor([[1.0, 1.0]]), types))


def test_negative_ages_and_unknown_types_take_the_nearest(table: Tensor) -> None:
    encoder = _encoder()
    rows = torch.tensor([[3]])
    torch.testing.assert_close(
        encoder(table, rows, torch.tensor([[-5.0]]), torch.tensor([[99]])),
        encoder(table, rows, torch.tensor([[0.0]]), torch.tensor([[5]])),
    )


def test_what_the_encoder_was_not_built_for_is_refused(table: Tensor) -> None:
    rows, ages, types = _inputs()
    with pytest.raises(InvalidInput, match="built with ages_days"):
        _encoder()(table, rows, None, types)
    with pytest.raises(InvalidInput, match="built without types"):
        _encoder(event_types=0)(table, rows, ages, types)
    with pytest.raises(InvalidInput, match="7 events a line"):
        _encoder()(table, torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7), torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="multiple of 3 heads"):
        HistoryEncoder(8, heads=3)
    with pytest.raises(InvalidInput, match="at least 1"):
        HistoryEncoder(8, layers=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_exported_graph_agrees_for_any_batch(table: Tensor, tmp_path: Path) -> None:
    encoder = _encoder()
    rows, ages, types = _inputs(lines=5)
    ages[1, 0] = torch.nan
    items, batch = torch.export.Dim("items"), torch.export.Dim("batch")
    program = torch.onnx.export(
        encoder,
        (table, rows, ages, types),
        dynamo=True,
        verbose=False,
        input_names=["table", "rows", "ages_days", "types"],
        dynamic_shapes=({0: items}, {0: batch}, {0: batch}, {0: batch}),
    )
    assert program is not None
    program.save(str(tmp_path / "history.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "history.onnx", providers=["CPUExecutionProvider"])
    for lines in (1, 5, 9):
        rows, ages, types = _inputs(lines)
        more = torch.cat([table, table + 1.0])
        feeds = dict(zip(("table", "rows", "ages_days", "types"), (more, rows, ages, types), strict=True))
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        with torch.no_grad():
            wanted = encoder(more, rows, ages, types).numpy()
        assert np.abs(found - wanted).max() < 1e-4
