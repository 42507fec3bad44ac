"""Rows of a table: which ones are meant, and where the items of each are.

One can
- take numbers or a mask for rows, or refuse them (`as_rows`),
- find all items of some rows in a concatenated table (`gather_ranges`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def as_rows(rows: Sequence[int] | np.ndarray, n: int) -> Int[np.ndarray, " chosen"]:
    """Row numbers of a table of n rows, from numbers or from a mask of length n.

    Raises:
        ValueError: a mask of another length, numbers that are not whole, or a row that is not there.
    """
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise ValueError(f"a mask of shape {rows.shape} cannot choose among {n} rows")
        return np.flatnonzero(rows)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows are a list of whole numbers or a mask, not {rows.dtype}{rows.shape}")
    if rows.min() < 0 or rows.max() >= n:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise ValueError(f"row {wrong} is not there; the rows are 0 to {n - 1}")
    return rows.astype(np.int64)


def gather_ranges(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all items of `rows`, where row i owns offsets[i] .. offsets[i+1]; and new offsets."""
    counts = offsets[rows + 1] - offsets[rows]
    new = np.concatenate([[0], np.cumsum(counts)])
    return np.repeat(offsets[rows] - new[:-1], counts) + np.arange(new[-1]), new
