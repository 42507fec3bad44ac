"""Files of results: rows with what was computed for them, written whole or not at all.

One can
- write columns of text and of numbers chunk by chunk (`output`), to CSV, TSV, Parquet, or NumPy's .npz
  and .npy, in a memory that does not grow with the rows.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from jaxtyping import Bool

from chainrule.fingerprints.text_files import PIPE

OutputFormat = Literal["csv", "tsv", "parquet", "npz", "npy"]
STREAMS = ("csv", "tsv")  # what can be read before it is whole
Columns = Mapping[str, Sequence[str] | np.ndarray]


class Output(Protocol):
    """Where rows go, in order. All chunks have the same columns."""

    def write(self, columns: Columns, valid: Bool[np.ndarray, " rows"]) -> None:
        """Add rows: lists of text, and arrays of numbers, which say nothing where a row is not valid."""

    def finish(self) -> None:
        """Nothing more comes."""


def output_format(path: str | Path, format: OutputFormat | None = None) -> OutputFormat:
    """`format`, or by default what the suffix says, and CSV for "-".

    Raises:
        ValueError: the suffix says nothing.
    """
    if format is not None or str(path) == PIPE:
        return format or "csv"
    suffixes = [suffix[1:].lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    known = {name: name for name in get_args(OutputFormat)} | {"tab": "tsv", "pq": "parquet"}
    if suffixes and suffixes[-1] in known:
        return known[suffixes[-1]]
    raise ValueError(
        f"--out {path}: results are written as {', '.join(f'.{name}' for name in get_args(OutputFormat))}; "
        "take one of these suffixes, or say what to write (--output-format)"
    )


@contextlib.contextmanager
def output(
    path: str | Path,
    format: OutputFormat | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    whole: bool = False,
) -> Iterator[Output]:
    """A file that appears, complete, at the end of the block; if the block fails, nothing changes.

    In CSV an array of two axes takes a column for each of its numbers, name0, name1 and so on; in Parquet it
    is a list. An .npz has everything as `archives` says, an .npy nothing but the only array.

    Args:
        path: a name that ends in one of the formats, then perhaps .gz; or "-" for stdout, where CSV and TSV
            appear as they are written.
        settings: how the results were made; kept in .npz.
        whole: to stdout too, all or nothing.

    Raises:
        ValueError: no such format; .npy cannot say that a row is not valid.
    """
    format = output_format(path, format)
    compress = str(path).lower().endswith(".gz")
    with (
        _destination(path, whole or format not in STREAMS) as (file, folder),
        contextlib.ExitStack() as stack,
    ):
        if compress:  # without a time in it: the same results are the same file
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        if format == "parquet":
            from chainrule.fingerprints.parquet import ParquetWriter

            writer: Output = stack.enter_context(ParquetWriter(file))
        elif format in STREAMS:
            writer = _TextWriter(file, "," if format == "csv" else "\t")
        else:
            from chainrule.fingerprints.archives import ArchiveWriter

            archive = ArchiveWriter(file, settings or {}, folder=folder, alone=format == "npy")
            writer = stack.enter_context(archive)
        yield writer
        writer.finish()


@contextlib.contextmanager
def _destination(path: str | Path, whole: bool) -> Iterator[tuple[io.BufferedIOBase, Path | None]]:
    """The file to write to, and the folder for temporary ones."""
    target = Path(path).expanduser().resolve()
    is_device = target.exists() and not target.is_file()  # as /dev/null; not to be replaced by a file
    if str(path) == PIPE or is_device:
        with open(sys.stdout.fileno() if str(path) == PIPE else target, "wb", closefd=is_device) as stream:
            if whole:
                with tempfile.TemporaryFile() as part:
                    yield part, None
                    part.seek(0)
                    shutil.copyfileobj(part, stream)
            else:
                yield stream, None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file, target.parent
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


class _TextWriter:
    """CSV or TSV."""

    def __init__(self, file: io.BufferedIOBase, delimiter: str):
        self.file, self.delimiter, self.is_begun = file, delimiter, False

    def write(self, columns: Columns, valid: Bool[np.ndarray, " rows"]) -> None:
        text = _Lines(newline="")
        rows = csv.writer(text, delimiter=self.delimiter, lineterminator=text.QUOTED)
        if not self.is_begun:
            names = list(itertools.chain(*(_names(name, column) for name, column in columns.items())))
            for name in columns:
                if names.count(name) > 1:
                    raise ValueError(f"the input has a column {name!r}, as the results have; rename it there")
            rows.writerow(names)
            self.is_begun = True
        cells = [_cells(column, valid) for column in columns.values()]
        rows.writerows(itertools.chain(*row) for row in zip(*cells, strict=True))
        self.file.write(text.getvalue().encode())
        self.file.flush()  # a pipe's reader waits for it

    def finish(self) -> None:
        """Everything is written already."""


class _Lines(io.StringIO):
    """Where `csv` writes row by row; every line ends in \\n.

    Python 3.11 puts into quotes what ends lines in its own output, and no other end of a line.
    """

    QUOTED = "\r\n"

    def write(self, line: str, /) -> int:
        return super().write(line.removesuffix(self.QUOTED) + "\n")


def _names(name: str, column: Sequence[str] | np.ndarray) -> list[str]:
    if isinstance(column, np.ndarray) and column.ndim == 2:
        return [f"{name}{i}" for i in range(column.shape[1])]
    return [name]


def _cells(column: Sequence[str] | np.ndarray, valid: np.ndarray) -> list[list[Any]]:
    """What each row has in this column, or in these."""
    if not isinstance(column, np.ndarray):
        return [[text] for text in column]
    values = column if column.ndim == 2 else column[:, None]
    if values.dtype == np.float32:
        values = values.astype(str)  # the shortest text that is this number; as a float64 it has 17 digits
    nothing = [""] * values.shape[1]
    return [row if is_valid else nothing for row, is_valid in zip(values.tolist(), valid, strict=True)]
