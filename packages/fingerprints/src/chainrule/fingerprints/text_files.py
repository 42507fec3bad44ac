"""The text of a file: plain, compressed or from a pipe, in some encoding; errors name the line and the byte.

One can
- open the bytes of a file (`opened`) and go through their lines (`TextFile`).
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

PIPE = "-"  # the path of stdin and stdout


@contextlib.contextmanager
def opened(path: str | Path, *, seekable: bool = False) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, decompressed if it ends in .gz; "-" is stdin.

    Args:
        seekable: one wants to go back; what comes from stdin is then first put into a temporary file.
    """
    if str(path) != PIPE:
        path = Path(path).expanduser()
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    elif seekable:
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.seek(0)
            yield file
    else:
        yield cast(io.BufferedIOBase, sys.stdin.buffer)


class TextFile(io.BufferedIOBase):
    """A file that knows how far it was read."""

    def __init__(self, file: io.BufferedIOBase, name: str, encoding: str):
        """
        Raises:
            ValueError: there is no such encoding.
        """
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"encoding {encoding!r} is unknown; try utf-8 or latin-1 (--encoding)") from None
        self.file, self.name, self.encoding = file, name, encoding
        self.bytes_read = self.lines_read = 0

    def lines(self) -> Iterator[str]:
        """Every line with its end.

        Raises:
            ValueError: here the file is not in this encoding, or not whole.
        """
        text = io.TextIOWrapper(self, encoding=self.encoding, newline="")
        try:
            yield from text
        except UnicodeDecodeError as error:  # its object is what was read last
            at = self.bytes_read - len(error.object) + error.start
            line = self.lines_read - error.object.count(b"\n", error.start) + 1
            raise ValueError(
                f"{self.name} is not {self.encoding}: line {line} has the byte "
                f"0x{error.object[error.start]:02x}, number {at} of the file. Save it as UTF-8, or give its "
                "encoding, such as encoding='latin-1' (--encoding latin-1)"
            ) from None

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        try:
            found = self.file.read1(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{self.name} is no whole gzip file: {error}") from None
        self.bytes_read += len(found)
        self.lines_read += found.count(b"\n")
        return found

    def read(self, size: int | None = -1, /) -> bytes:
        return self.read1(-1 if size is None else size)
