"""What is popular with everybody and in segments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.policy.popularity import PopularItems, Popularity, nothing_popular

OVERALL = np.array([0.4, 0.3, 0.2, 0.1, 0.0], np.float32)
GERMAN = PopularItems(np.array([3, 0]), np.array([0.5, 0.4], np.float32))
YOUNG = PopularItems(np.array([4]), np.array([0.2], np.float32))
FOUND = Popularity(OVERALL, {("country", "DE"): GERMAN, ("age", "18"): YOUNG})


def test_segments() -> None:
    assert FOUND.attributes == {"country", "age"}
    assert FOUND.known({"country": "DE", "age": "99", "city": "DE"}) == (("country", "DE"),)
    rows, shares = FOUND.best((), 9)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(shares, OVERALL)
    rows, shares = FOUND.best((("country", "DE"),), 9)
    # What the segment does not tell of counts as with everybody.
    assert rows.tolist() == [3, 0, 1, 2, 4]
    np.testing.assert_allclose(shares, [0.5, 0.4, 0.3, 0.2, 0.0], atol=1e-6)
    rows, _ = FOUND.best(FOUND.known({"country": "DE", "age": "18"}), 9)
    # Of several segments the lifts have their geometric mean, of row 3 the square root of 5.
    assert rows[:4].tolist() == [0, 1, 3, 2]
    assert nothing_popular(3).best((), 2)[0].tolist() == [0, 1]


@given(st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_every_row_comes_once_best_first(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shares = generator.random(size).astype(np.float32) * (generator.random(size) < 0.7)
    segments = {}
    for name in "abc":
        count = int(generator.integers(0, size + 1))
        told = -np.sort(-generator.random(count).astype(np.float32)) + np.float32(1e-6)
        segments["letter", name] = PopularItems(generator.permutation(size)[:count], told)
    popularity = Popularity(shares.astype(np.float32), segments)
    for chosen in ((), tuple(segments), *((segment,) for segment in segments)):
        rows, found = popularity.best(chosen, size)
        assert sorted(rows.tolist()) == list(range(size))
        assert (np.diff(found) <= 0).all()
        assert np.isfinite(found).all()
        every = popularity.shares_of(chosen)
        np.testing.assert_array_equal(found, every[rows])
        allowed = generator.random(size) < 0.5
        some, best = popularity.best(chosen, size // 3, allowed)
        assert allowed[some].all()
        np.testing.assert_array_equal(best, -np.sort(-every[allowed])[: size // 3])
