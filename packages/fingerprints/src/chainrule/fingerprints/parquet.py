"""Parquet files, read as text and written with numbers, by pyarrow, the extra [parquet].

One can
- read the cells of a file as text (`read`), and write columns chunk by chunk (`ParquetWriter`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}; Parquet needs it: pip install 'chainrule-fingerprints[parquet]'"
    ) from None


def read(file: io.BufferedIOBase, name: str, *, rows: int) -> tuple[list[str], Iterator[Sequence[str]]]:
    """The names of the columns, and the cells of every row as text, '' for null.

    Args:
        name: of the file, for messages.
        rows: read at a time.

    Raises:
        ValueError: it is no such file.
    """
    try:
        # gzip goes back only by beginning anew, and Parquet is read from its end
        found = pq.ParquetFile(file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read()))
    except pa.ArrowException as error:
        raise ValueError(f"{name} cannot be read as Parquet: {error}") from None

    def cells() -> Iterator[Sequence[str]]:
        for batch in found.iter_batches(batch_size=rows):
            yield from zip(*map(_texts, batch.columns), strict=True)

    return list(found.schema_arrow.names), cells()


def _texts(column: pa.Array) -> list[str]:
    if not pa.types.is_nested(column.type):
        column = pc.cast(column, pa.string())
    return ["" if cell is None else str(cell) for cell in column.to_pylist()]


class ParquetWriter(contextlib.ExitStack):
    """Lists become columns of text, arrays of numbers, arrays of two axes of lists of equal length."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__()
        self.file = file
        self.writer: pq.ParquetWriter | None = None

    def write(
        self, columns: Mapping[str, Sequence[str] | np.ndarray], valid: Bool[np.ndarray, " rows"]
    ) -> None:
        """Add rows; where they are not valid, the arrays are null."""
        table = pa.table({name: _column(column, valid) for name, column in columns.items()})
        if self.writer is None:
            self.writer = self.enter_context(pq.ParquetWriter(self.file, table.schema))
        self.writer.write_table(table)

    def finish(self) -> None:
        self.close()


def _column(column: Sequence[str] | np.ndarray, valid: np.ndarray) -> pa.Array:
    if not isinstance(column, np.ndarray):
        return pa.array(column, pa.string())
    if column.ndim == 1:
        return pa.array(column, mask=~valid)
    flat = pa.array(column.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=pa.array(~valid))
