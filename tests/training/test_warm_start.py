"""Weights that go on: the same answers over a wider catalogue, learning from there, a test of differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_zoo import QUICK, frame, quiet

from recsys_plugin.training.carry import WeightsMisfit, carried, code_rows, extended, item_code_rows, item_rows
from recsys_plugin.training.comparison import Difference, paired_difference, verdict
from recsys_plugin.training.inputs import Vocabulary
from recsys_plugin.training.options import TrainingOptions, WarmStart, training_options_of
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.registry import FRAME_MODELS, new_model


def wider(old: CtrFrame) -> tuple[CtrFrame, list[np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """The same lines in other codes: two new values in each column, the second of the old ones moved to the end."""
    rows = []
    columns = []
    for column, size in enumerate(old.code_sizes):
        where = np.r_[np.delete(np.arange(size), 1), 0, 1]
        rows.append(where)
        place = np.empty(size, np.int64)
        place[0] = 0
        for new, before in enumerate(where):
            if before:
                place[before] = new
        columns.append(place[old.codes[:, column]])
    history = old.history
    assert history is not None
    # Items of a history are coded as the last column is, less one.
    last, size = rows[-1], old.code_sizes[-1]
    back = np.zeros(size, np.int64)
    for new, before in enumerate(last):
        if before:
            back[before] = new
    return (
        replace(
            old,
            codes=np.stack(columns, axis=1),
            code_sizes=tuple(size + 1 for size in old.code_sizes),
            history=replace(
                history,
                items=np.where(history.items >= 0, back[np.minimum(history.items, size - 2) + 1] - 1, -1),
                target=np.where(history.target >= 0, back[np.minimum(history.target, size - 2) + 1] - 1, -1),
                size=size,
            ),
        ),
        rows,
    )


@pytest.mark.parametrize("name", FRAME_MODELS)
def test_a_model_answers_the_same_over_wider_codes(name: str) -> None:
    train = frame()
    history = train.history
    assert history is not None
    # The history's items are those of the last code column, as in a shop.
    train = replace(
        train,
        history=replace(
            history,
            items=np.minimum(history.items, train.code_sizes[-1] - 2),
            target=np.minimum(history.target, train.code_sizes[-1] - 2),
            size=train.code_sizes[-1] - 1,
        ),
    )
    model = new_model(name)
    model.fit(train, train.take(np.arange(200)), QUICK, 0, quiet)
    other, rows = wider(train)
    moved = model.onto(other.layout(), rows)
    np.testing.assert_allclose(moved.predict(other), model.predict(train), atol=1e-6)
    # Where learning begins shows: with a rate of nothing it stays there, for networks; trees keep how many they are.
    again = new_model(name)
    still = replace(QUICK, learning_rate=1e-12)
    again.fit(other, other.take(np.empty(0, np.int64)), still, 1, quiet, start=moved)
    if name == "lightgbm":
        # Leaves move towards the examples, which are the same; splits and their number stay.
        assert again.parameters == model.parameters
        near = np.corrcoef(again.logits(other)[:, 0], model.logits(train)[:, 0])[0, 1]
        assert near > 0.9
    else:
        np.testing.assert_allclose(again.logits(other), model.logits(train), atol=1e-5)


def test_other_columns_do_not_fit() -> None:
    train = frame()
    for name in ("logistic", "lightgbm"):
        model = new_model(name)
        model.fit(train, train.take(np.arange(200)), QUICK, 0, quiet)
        other = replace(train, numbers=train.numbers[:, :2], number_names=train.number_names[:2])
        with pytest.raises(WeightsMisfit):
            model.onto(other.layout(), [np.arange(size) for size in train.code_sizes])


def test_tables_find_their_rows() -> None:
    old, new = Vocabulary(("red", "blue")), extended(Vocabulary(("red", "blue")), Vocabulary(("green", "blue")))
    assert new.values == ("red", "blue", "green")
    assert code_rows(old, new).tolist() == [0, 1, 2, 0]
    rows = item_rows(pd.Index(["a", "c"]), pd.Index(["a", "b", "c"]))
    assert rows.tolist() == [0, -1, 1]
    assert item_code_rows(rows).tolist() == [0, 1, 0, 2]
    table, fresh = torch.tensor([[1.0], [2.0]]), torch.tensor([[7.0], [8.0], [9.0]])
    made = carried({"t": table, "w": table}, {"t": fresh, "w": table * 0}, {"t": rows})
    assert made["t"].tolist() == [[1.0], [8.0], [2.0]]
    assert made["w"].tolist() == table.tolist()
    assert carried({"t": table}, {"t": fresh}, {"t": rows}, blank_new=True)["t"].tolist() == [[1.0], [0.0], [2.0]]
    with pytest.raises(WeightsMisfit, match="the weights lack w"):
        carried({"t": table}, {"t": fresh, "w": table}, {"t": rows})
    with pytest.raises(WeightsMisfit, match=r"w has shape \[2, 1\], and \[3, 1\] is wanted"):
        carried({"w": table}, {"w": fresh}, {})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.sampled_from([-0.2, 0.0, 0.2]))
def test_the_interval_holds_the_shift(seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    serving = generator.uniform(size=400)
    new = serving + shift + generator.normal(scale=0.1, size=400)
    serving[::50] = np.nan
    found = paired_difference(serving, new, draws=400, seed=seed)
    assert found.users == 392
    assert found.low <= found.difference <= found.high
    # Four standard errors: chance does not reach so far.
    assert abs(found.difference - shift) < 4 * 0.1 / np.sqrt(392)
    assert verdict(found, 0.05) == {-0.2: "worse", 0.0: "not worse", 0.2: "better"}[shift] or (
        shift == 0.0 and verdict(found, 0.05) == "better"
    )


def test_verdicts() -> None:
    def said(difference: float, low: float, high: float) -> str:
        return verdict(Difference(0.5, 0.5 + difference, difference, low, high, 100), 0.01)

    assert said(0.02, 0.01, 0.03) == "better"
    assert said(0.0, -0.005, 0.005) == "not worse"
    assert said(0.0, -0.05, 0.05) == "undecided"
    assert said(-0.02, -0.05, 0.01) == "worse"
    assert said(-0.005, -0.03, -0.001) == "worse"
    nobody = paired_difference(np.full(3, np.nan), np.zeros(3))
    assert (nobody.users, verdict(nobody, 0.01)) == (0, "undecided")


def test_options_survive_json() -> None:
    import json
    from dataclasses import asdict

    options = TrainingOptions(leave_out=("text",), warm_start=WarmStart(3, "ab"))
    assert training_options_of(json.loads(json.dumps(asdict(options)))) == options
