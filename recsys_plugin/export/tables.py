"""The models that are tables, which clients load with a version and keep: the items, and what is popular."""

from __future__ import annotations

from recsys_plugin.export.description import Model, Tensor

__all__ = ["table_models"]


def table_models() -> tuple[Model, ...]:
    """Describe them. They are asked for by their version, page by page, and say none themselves."""
    return (
        Model(
            "catalogue",
            "The items built into this version, page by page; an item's row number is its position.",
            (
                Tensor("offset", "INT64", (1,), "first row of the page"),
                Tensor("count", "INT64", (1,), "rows of the page, at most"),
            ),
            (
                Tensor("item_ids", "STRING", (-1,), "item ids"),
                Tensor("titles", "STRING", (-1,), "titles"),
                Tensor("categories", "STRING", (-1,), "categories, empty where unknown"),
                Tensor("subcategories", "STRING", (-1,), "finer categories, empty where unknown"),
                Tensor("brands", "STRING", (-1,), "brands, empty where unknown"),
                Tensor("prices", "FP32", (-1,), "prices, NaN where unknown"),
                Tensor("available_since", "INT64", (-1,), "when each came up for sale, unix seconds, 0 where unknown"),
                Tensor("size", "INT64", (1,), "items in all"),
            ),
            max_batch=0,
        ),
        Model(
            "popularity",
            "What is popular with everybody and in segments of users, line by line, for clients to keep.",
            (
                Tensor("offset", "INT64", (1,), "first line of the page"),
                Tensor("count", "INT64", (1,), "lines of the page, at most"),
            ),
            (
                Tensor("segments", "INT64", (-1,), "whom a line tells of: 0 is everybody"),
                Tensor("rows", "INT64", (-1,), "catalogue rows"),
                Tensor("shares", "FP32", (-1,), "share of the recent purchases"),
                Tensor("attributes", "STRING", (-1,), "of each segment, what tells it from others: age_group"),
                Tensor("values", "STRING", (-1,), "of each segment: 25-34"),
                Tensor("size", "INT64", (1,), "lines in all"),
            ),
            max_batch=0,
        ),
    )
