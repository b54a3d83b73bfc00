"""Text columns as numbers and the few texts that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["dictionary_frame"]

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def dictionary_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow to pandas, text columns becoming categories in order of their code points."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_string(column.type):
            encoded = pa.chunked_array(column.dictionary_encode().unify_dictionaries().chunks, _DICTIONARY)
            values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.string())
            order = pc.sort_indices(values).to_numpy()
            rank = np.empty(len(order) + 1, np.int32)
            rank[order], rank[-1] = np.arange(len(order)), -1
            codes = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
            flat = rank[np.concatenate(codes)] if codes else np.empty(0, np.int32)
            categories = pd.Index(values.to_numpy(zero_copy_only=False)[order], dtype=object)
            columns[name] = pd.Series(pd.Categorical.from_codes(flat, categories))
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))
