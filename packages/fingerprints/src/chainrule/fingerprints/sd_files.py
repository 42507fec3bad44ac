"""SD files: records of a drawn structure and its properties, read one after the other.

One can
- take a file apart (`records`), and have RDKit read the structures (`structures`).

Source: BIOVIA, CTfile formats, chapter "SDFiles".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

TITLE = "_Name"  # the first line of a structure, under RDKit's name for it
_PROPERTY = re.compile(r">.*?<(.*)>")


class Record(NamedTuple):
    structure: str  # the lines of a molfile
    properties: dict[str, str]


def records(lines: Iterable[str]) -> Iterator[Record]:
    """The records of a file, in order; the last one may lack its end."""
    record: list[str] = []
    for line in lines:
        line = line.rstrip("\r\n")
        if line.startswith("$$$$"):
            yield _record(record)
            record = []
        else:
            record.append(line)
    if any(line.strip() for line in record):
        yield _record(record)


def _record(lines: Sequence[str]) -> Record:
    ends = (i + after for mark, after in (("M  END", 1), (">", 0)) for i in _starting(lines, mark))
    end = next(ends, len(lines))
    properties = {TITLE: lines[0].strip()} if lines and end else {}
    rest = iter(lines[end:])
    for line in rest:
        if header := _PROPERTY.match(line):
            value = []
            for part in rest:  # up to an empty line
                if not part.strip():
                    break
                value.append(part)
            properties[header[1]] = "\n".join(value)
    return Record("\n".join(lines[:end]), properties)


def _starting(lines: Sequence[str], mark: str) -> Iterator[int]:
    return (i for i, line in enumerate(lines) if line.startswith(mark))


def structures(chunk: Iterable[Record]) -> list[str]:
    """SMILES of the structures; '' where there is none that RDKit can read.

    One by one: a reader of whole files passes over some records that are empty.
    """
    from chainrule.fingerprints.smiles import of_molfile, quiet

    with quiet():
        return [of_molfile(record.structure) for record in chunk]
