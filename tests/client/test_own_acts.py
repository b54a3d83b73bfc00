"""What reasons are made of: the user's own acts, and the words that are said of them."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_plugin.client.explanation import REASON_TEXTS, Reason, english_date, reason_text
from recsys_plugin.client.own_acts import OwnActs, own_acts
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.features.plan import FeatureTensors

MAY, CLICK, CART, PURCHASE, RETURN = 1_493_800_000.0, 2, 3, 4, 5  # 3 May 2017

CONTRACT = FeatureContract(
    (
        FeatureSpec("user_profile:country", "STRING", ""),
        FeatureSpec("user_statistics:purchases_30d", "FLOAT", 0.0),
        FeatureSpec("user_statistics:favourite_items", "STRING_LIST", -1, encoding=Encoding.ROW, length=3),
        FeatureSpec("user_recent_items:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=6),
        FeatureSpec("user_recent_items:event_type_codes", "INT64_LIST", 0, length=6),
        FeatureSpec("user_recent_items:timestamps", "UNIX_TIMESTAMP_LIST", 0, length=6),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    )
)


def packed(favourites: list[int], recent: list[tuple[int, int, float]]) -> FeatureTensors:
    """One user: the rows of favourites, and of recent acts row, type and moment."""
    columns = [*favourites, *[-1] * (3 - len(favourites))]
    for number, padding in enumerate((-1, 0, 0)):
        values = [int(act[number]) for act in recent]
        columns += [*values, *[padding] * (6 - len(recent))]
    return FeatureTensors(
        np.zeros((1, 1), np.float32), np.array([[*columns, int(MAY)]], np.int64), np.array([[b""]], object)
    )


def test_the_weightiest_act_is_told() -> None:
    recent = [
        (7, CLICK, MAY),
        (7, PURCHASE, MAY - 86_400),
        (7, PURCHASE, MAY - 2 * 86_400),
        (8, CLICK, MAY),
        (8, CART, MAY - 60),
        (9, RETURN, MAY),
    ]
    assert own_acts(CONTRACT, packed([5, 7], recent), 0) == {
        5: OwnActs("bought_before"),
        7: OwnActs("bought", MAY - 86_400, 2),
        8: OwnActs("in_cart", MAY - 60, 1),
    }


def test_what_was_bought_long_ago_stays_bought() -> None:
    assert own_acts(CONTRACT, packed([5], [(5, CLICK, MAY)]), 0) == {5: OwnActs("bought_before")}
    assert own_acts(CONTRACT, packed([], [(5, CLICK, MAY), (-1, PURCHASE, MAY)]), 0) == {
        5: OwnActs("looked_at", MAY, 1)
    }


def test_nobody_did_nothing() -> None:
    assert own_acts(CONTRACT, packed([], []), 0) == {}


def test_a_contract_without_acts_tells_none() -> None:
    few = FeatureContract(
        (
            FeatureSpec("a:b", "FLOAT", 0.0),
            FeatureSpec("a:c", "STRING", ""),
            FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
        )
    )
    assert own_acts(few, packed([5], [(5, CLICK, MAY)]), 0) == {}


def test_dates_have_their_year_when_it_is_another() -> None:
    assert english_date(MAY, MAY + 86_400) == "3 May"
    assert english_date(MAY, MAY + 400 * 86_400) == "3 May 2017"
    assert english_date(0.0, MAY) == "1 January 1970"


@pytest.mark.parametrize("kind", REASON_TEXTS)
def test_every_kind_is_said(kind: str) -> None:
    title = "Tea {title} – 茶 $1\n'; DROP"
    reason = Reason(kind, "", "item", title, MAY, 3, "Tea", 2)
    said = reason_text(reason, "3 May")
    assert said
    assert "None" not in said
    if kind.startswith(("goes_with", "like")):
        assert title in said
    assert reason_text(reason, "3. Mai", {kind: "{title} ({date})"}) == f"{title} (3. Mai)"
