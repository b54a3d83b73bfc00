"""The log of a shop's own pages for off-policy evaluation: archived candidates with what came of those shown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys_plugin.errors import DataError

__all__ = ["served_log"]

_SQL = """
WITH pages AS (
    SELECT * FROM read_parquet($pages, union_by_name = true) WHERE candidates IS NOT NULL AND model = $model
    QUALIFY row_number() OVER (PARTITION BY request_id, user_id ORDER BY entry) = 1
), candidates AS (
    SELECT request_id, user_id, policy, unnest(candidates) AS item_id, unnest(candidate_scores) AS score FROM pages
)
SELECT c.request_id || ' ' || coalesce(c.user_id, '') AS request_id, c.user_id, c.item_id, o.position, o.propensity,
    c.score, c.policy, o.clicked::DOUBLE AS click, o.carted::DOUBLE AS cart, o.purchased::DOUBLE AS purchase,
    o.served_at AS timestamp, o.model_version
FROM candidates c
LEFT JOIN read_parquet($outcomes) o ON o.request_id = c.request_id AND o.user_id IS NOT DISTINCT FROM c.user_id
    AND o.item_id = c.item_id AND o.model = $model
WHERE EXISTS (SELECT 1 FROM read_parquet($outcomes) s
              WHERE s.request_id = c.request_id AND s.user_id IS NOT DISTINCT FROM c.user_id AND s.model = $model)
ORDER BY c.request_id, c.user_id, o.position NULLS LAST, c.score DESC
"""


def served_log(pages: Path, outcomes: Path, *, model: str = "recommend") -> pd.DataFrame:
    """One row for each candidate of each archived page, as :mod:`recsys_plugin.off_policy.log` describes it.

    Pages count whose candidates were logged (``ImpressionLog(candidates_sample=…)``) and whose outcomes were joined.

    Args:
        pages: folder of archived pages (``recsys events archive``).
        outcomes: folder of items shown with their outcomes (``recsys events join``).
        model: of which requests.

    Raises:
        DataError: if there are none; the message says which command makes them.
    """
    import duckdb

    for folder, command in ((pages, "recsys events archive"), (outcomes, "recsys events join")):
        if not any(folder.glob("day=*/*.parquet")):
            raise DataError(f"there are no tables; run `{command}`", file=str(folder))
    with duckdb.connect() as database:
        table: pd.DataFrame = database.execute(
            _SQL,
            {"pages": f"{pages}/day=*/*.parquet", "outcomes": f"{outcomes}/day=*/*.parquet", "model": model},
        ).df()
    if table.empty:
        raise DataError(
            "no page has its candidates and its outcomes; serve with ImpressionLog(candidates_sample=1.0), or wait",
            file=str(pages),
        )
    return table
