"""Loading a catalogue in pages, driven by hand."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.catalogue import PAGE_ROWS, UNKNOWN_STOCK, Catalogue, load_catalogue


def page(first: int, count: int, size: int, **changes: Any) -> dict[str, Any]:
    def texts(prefix: str) -> Any:
        array = np.empty(count, dtype=object)
        array[:] = [f"{prefix}{row}".encode() for row in range(first, first + count)]
        return array

    columns = {name: texts(name) for name in ("item_ids", "titles", "categories", "subcategories", "brands")}
    numbers = {"prices": np.full(count, 1.5, np.float32), "available_since": np.full(count, 7, np.int64)}
    return {**columns, **numbers, "size": np.array([size], dtype=np.int64), **changes}


def load(*pages: dict[str, Any]) -> tuple[Catalogue, list[int]]:
    flow = load_catalogue(3)
    offsets = []
    try:
        call = next(flow)
        for answer in pages:
            offsets.append(int(call.inputs["offset"][0]))
            assert (call.model, call.version) == ("catalogue", 3)
            call = flow.send(answer)
    except StopIteration as end:
        return end.value, offsets
    pytest.fail("the catalogue asked for another page")


def test_pages_add_up() -> None:
    catalogue, offsets = load(page(0, PAGE_ROWS, PAGE_ROWS + 2), page(PAGE_ROWS, 2, PAGE_ROWS + 2))
    assert offsets == [0, PAGE_ROWS]
    assert len(catalogue) == PAGE_ROWS + 2
    assert catalogue.rows[f"item_ids{PAGE_ROWS}"] == PAGE_ROWS
    assert catalogue.titles[PAGE_ROWS + 1] == f"titles{PAGE_ROWS + 1}"
    assert catalogue.brands[PAGE_ROWS] == f"brands{PAGE_ROWS}"
    assert catalogue.prices.shape == catalogue.available_since.shape == catalogue.stock.shape == (PAGE_ROWS + 2,)
    assert (catalogue.stock == UNKNOWN_STOCK).all()


def test_no_page_is_long_work() -> None:
    """Requests of the same event loop wait for each step; the last one, which puts all pages together, is one too."""
    pages = [page(first, PAGE_ROWS, 50 * PAGE_ROWS) for first in range(0, 50 * PAGE_ROWS, PAGE_ROWS)]
    middles, lasts = [], []
    for _ in range(3):
        flow, took = load_catalogue(3), []
        next(flow)
        for answer in pages:
            began = time.thread_time()
            with suppress(StopIteration):
                flow.send(answer)
            took.append(time.thread_time() - began)
        middles.append(statistics.median(took))
        lasts.append(took[-1])
    # Others on the same processor make the same work take longer now and then.
    assert min(middles) < 0.005
    assert min(lasts) < 0.02


def test_what_is_shown_of_an_item_may_change() -> None:
    catalogue, _ = load(page(0, 3, 3))
    catalogue.show(1, title="Cup", category="categories0", subcategory="", brand="clay", price=2.5)
    assert catalogue.categories[:] == ["categories0", "categories0", "categories2"]
    assert catalogue.categories.codes[0] == catalogue.categories.codes[1]
    assert (catalogue.titles[1], catalogue.brands[1], catalogue.prices[1]) == ("Cup", "clay", 2.5)
    assert catalogue.brands.known("brands1") is not None
    assert catalogue.brands.known("unheard of") is None


def test_prices_read_as_the_shop_wrote_them() -> None:
    """0.79 travels as FP32; on the page it must not become 0.7900000214576721."""
    catalogue, _ = load(page(0, 2, 2, prices=np.array([0.79, np.nan], dtype=np.float32)))
    assert catalogue.prices[0] == 0.79
    assert np.isnan(catalogue.prices[1])


def test_an_empty_catalogue_is_one() -> None:
    catalogue, _ = load(page(0, 0, 0))
    assert len(catalogue) == 0


@pytest.mark.parametrize(
    "pages, message",
    [
        ([page(0, 2, 4), page(2, 0, 4)], "0 rows at row 2 of 4"),
        ([page(0, 3, 2)], "3 rows at row 0 of 2"),
        ([page(0, 2, 2, prices=np.zeros(1, dtype=np.float32))], "columns of different length"),
        ([page(0, 2, 4), page(0, 2, 4)], "2 item ids come more than once"),
        ([page(0, 1, 1, titles=np.array([b"\xff"], dtype=object))], "titles holds text that is not UTF-8"),
    ],
)
def test_pages_that_do_not_add_up_are_refused(pages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InferenceUnavailable, match=f"model catalogue version 3: {message}"):
        load(*pages)
