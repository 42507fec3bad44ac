"""Files that are there whole or not at all, whenever the process is killed.

One can
- replace a file of text or bytes (`write_whole`),
- replace a table, given by columns or by rows (`write_columns`, `write_rows`),
- read one to which a line was added at a time, but for what a kill cut off (`read_json_lines`).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> Path:
    """The file has the old content or the new; its folder is made. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
    return path


def write_columns(path: Path, columns: Mapping[str, Iterable[Any]]) -> Path:
    """A CSV file of columns of one length, by their names, which tell the unit. Returns the path."""
    return write_rows(path, [*columns], zip(*columns.values(), strict=True))


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Iterable[Any]]) -> Path:
    """A CSV file of rows under these names. Returns the path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return write_whole(path, text.getvalue())


def read_json_lines(path: Path) -> list[Any]:
    """The objects in a file of JSON lines; a last line that a kill cut off is left out.

    Raises:
        ValueError: if another line is no JSON.
    """
    found = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
            continue
        if number < len(lines) - 1:
            raise ValueError(f"line {number + 1} of {path} is no JSON: give another --out")
    return found
