"""NumPy's .npz and .npy, written row by row, in a memory that does not grow with the rows.

One can
- write columns chunk by chunk (`ArchiveWriter`), and read an .npz back (`read_archive`).

In an .npz, an array has the name of its column. Text of any length is the bytes of all cells, in UTF-8, and
in `name.ends` the place where each cell ends. `valid` says of which rows the arrays speak, `settings` how
they were made (JSON).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from chainrule.fingerprints.text_files import opened

VALID, SETTINGS, ENDS = "valid", "settings", ".ends"


class Texts:
    """A column of text, of which a cell is read when it is asked for."""

    def __init__(self, text: bytes, ends: Int[np.ndarray, " rows"]):
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]  # from the end too; or an error, as for a list
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].decode()


class Archive(NamedTuple):
    """What is in an .npz of ours."""

    columns: dict[str, Texts | np.ndarray]
    valid: Bool[np.ndarray, " rows"]  # of which rows the arrays speak
    settings: dict[str, Any]


def read_archive(path: str | Path) -> Archive:
    """All of a file that `ArchiveWriter` wrote, decompressed if it ends in .gz.

    Raises:
        ValueError: it is another file, or damaged.
    """
    try:
        with opened(path) as file:
            # gzip goes back only by beginning anew, and an archive is read from its end
            whole = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())
            with np.load(whole, allow_pickle=False) as stored:
                arrays = dict(stored)
        valid, settings = arrays.pop(VALID), json.loads(str(arrays.pop(SETTINGS)))
        if not isinstance(settings, dict):
            raise ValueError(f"{SETTINGS} is {settings!r}, not names with values")
        return Archive(_columns(arrays, valid), valid, settings)
    except (
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        zlib.error,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"{path} is no .npz that the command `fingerprint` wrote, or is damaged: {error}"
        ) from None


def _columns(arrays: Mapping[str, np.ndarray], valid: np.ndarray) -> dict[str, Texts | np.ndarray]:
    """
    Raises:
        ValueError: the arrays do not fit together.
    """
    if valid.dtype != bool or valid.ndim != 1:
        raise ValueError(f"{VALID} is {valid.dtype}{list(valid.shape)}, not bool[rows]")
    columns: dict[str, Texts | np.ndarray] = {}
    for name, array in arrays.items():
        if f"{name}{ENDS}" in arrays:
            ends = arrays[f"{name}{ENDS}"]
            places = np.concatenate([[0], ends])
            if ends.dtype != np.int64 or np.any(np.diff(places) < 0) or array.shape != (places[-1],):
                raise ValueError(f"{name} ends at other places than its cells")
            columns[name] = Texts(array.tobytes(), ends)
        elif not name.endswith(ENDS):
            if not array.ndim:
                raise ValueError(f"{name} has no rows")
            columns[name] = array
        else:
            continue
        if len(columns[name]) != len(valid):
            raise ValueError(f"{name} has {len(columns[name])} rows, and there are {len(valid)}")
    return columns


class ArchiveWriter(contextlib.ExitStack):
    """An .npz of all columns, or an .npy of the one array among them (`alone`)."""

    def __init__(
        self, file: io.BufferedIOBase, settings: Mapping[str, Any], *, folder: Path | None, alone: bool
    ):
        """
        Args:
            folder: for temporary files as large as the result.
        """
        super().__init__()
        self.file, self.settings, self.folder, self.alone = file, settings, folder, alone
        self.spools: dict[str, _Spool] = {}

    def write(
        self, columns: Mapping[str, Sequence[str] | np.ndarray], valid: Bool[np.ndarray, " rows"]
    ) -> None:
        """Add rows.

        Raises:
            ValueError: a name is taken; or not all rows are valid, or there are several arrays, for which
                .npy has no place.
        """
        if self.alone and not valid.all():
            raise ValueError(
                ".npy has no place to say that a row has no result: give --on-invalid drop, or write .npz"
            )
        for name in columns:
            if name in (VALID, SETTINGS) or name.endswith(ENDS):
                raise ValueError(f"a column named {name!r} cannot be written to .npz; rename it")
        arrays = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
        if self.alone and len(arrays) != 1:
            raise ValueError(f".npy holds one array and here are {', '.join(arrays)}: write .npz")
        for name, column in columns.items():
            if name not in arrays and not self.alone:
                cells = [cell.encode() for cell in column]
                before = self.spools[name].rows if name in self.spools else 0
                ends = np.cumsum([len(cell) for cell in cells], dtype=np.int64) + before
                arrays |= {name: np.frombuffer(b"".join(cells), np.uint8), f"{name}{ENDS}": ends}
        for name, array in (arrays if self.alone else arrays | {VALID: valid}).items():
            if name not in self.spools:
                file = self.enter_context(tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115
                self.spools[name] = _Spool(file, array)
            self.spools[name].add(array)

    def finish(self) -> None:
        if self.alone:
            (spool,) = self.spools.values()
            spool.copy_to(self.file)
            return
        file = _OneWay(self.file) if isinstance(self.file, gzip.GzipFile) else self.file
        with zipfile.ZipFile(file, "w") as archive:
            for name, spool in self.spools.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    spool.copy_to(member)
            with archive.open(f"{SETTINGS}.npy", "w") as member:
                np.save(member, np.array(json.dumps(self.settings)))


class _OneWay(io.RawIOBase):
    """A file that is only added to: `zipfile` would go back, as gzip cannot, to note how long a part was."""

    def __init__(self, file: io.BufferedIOBase):
        self.file = file

    def write(self, part: Any, /) -> int:
        return self.file.write(part)


class _Spool:
    """An array that grows in a file, for only at the end is it known how long it is."""

    def __init__(self, file: io.BufferedIOBase, like: np.ndarray):
        self.file, self.dtype, self.shape, self.rows = file, like.dtype, like.shape[1:], 0

    def add(self, array: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.rows += len(array)

    def copy_to(self, file: Any) -> None:
        descr, shape = np.lib.format.dtype_to_descr(self.dtype), (self.rows, *self.shape)
        np.lib.format.write_array_header_2_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        self.file.seek(0)
        shutil.copyfileobj(self.file, file)
