"""Tables of molecules: CSV, TSV, Parquet, SD files and lists of SMILES, compressed or from a pipe.

One can
- read a table in chunks, in a memory that does not grow with its rows (`read_chunks`), or whole
  (`read_table`), every row in its place and every cell as text,
- turn its SMILES into graphs (`Table.molecules`).

What is no table (another encoding, a quote that is not closed, a row with a cell too many) is an error that
names the file and the line.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from chainrule.fingerprints.sd_files import records, structures
from chainrule.fingerprints.text_files import PIPE, TextFile, opened

if TYPE_CHECKING:
    from chainrule.fingerprints.molecules import Molecules

Format = Literal["csv", "tsv", "smi", "sdf", "parquet"]

CHUNK = 4096  # rows; their fingerprints of 2048 numbers take 32 MB
SUFFIXES: dict[str, Format] = {
    **{".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".smi": "smi", ".smiles": "smi"},
    **{".sdf": "sdf", ".sd": "sdf", ".parquet": "parquet", ".pq": "parquet"},
}
# Of these the first that there is, in any case, with a blank or a hyphen for the underscore.
SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "structure_smiles", "structure")


@dataclass(frozen=True)
class Table:
    """Consecutive rows of a file, every cell as text, '' where there is none."""

    source: str  # the file, for messages
    first_row: int  # where these rows begin in the file, whose first row is 0
    columns: dict[str, list[str]]  # by name, in the file's order
    smiles_column: str
    drawn: bool = False  # the SMILES are RDKit's, of drawn structures

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def smiles(self) -> list[str]:
        return self.columns[self.smiles_column]

    def molecules(self) -> Molecules:
        """The graphs of all rows, see `featurize`."""
        from chainrule.fingerprints.molecules import featurize

        found = featurize(self.smiles)
        if not self.drawn:
            return found
        reasons = [
            reason if smiles else "this record has no structure that RDKit can read"
            for smiles, reason in zip(self.smiles, found.reasons, strict=True)
        ]
        return found.with_reasons(reasons, found.valid)


def read_table(
    path: str | Path,
    *,
    smiles_column: str | None = None,
    columns: Sequence[str] = (),
    format: Format | None = None,
    encoding: str = "utf-8-sig",
) -> Table:
    """A whole table; see `read_chunks` for the arguments and errors."""
    (table,) = read_chunks(
        path,
        smiles_column=smiles_column,
        columns=columns,
        format=format,
        encoding=encoding,
        rows=sys.maxsize,
    )
    return table


def read_chunks(
    path: str | Path,
    *,
    smiles_column: str | None = None,
    columns: Sequence[str] = (),
    format: Format | None = None,
    encoding: str = "utf-8-sig",
    rows: int = CHUNK,
) -> Iterator[Table]:
    """A table in chunks of at most `rows` rows; at least one, without rows if the file has none.

    A list of SMILES has the columns smiles and name, the rest of the line. An SD file has the column smiles,
    RDKit's for the structures, _Name, their titles, and one for each property; it is gone through twice,
    first for the names of the properties.

    Args:
        path: a file, compressed if it ends in .gz, or "-" for stdin.
        smiles_column: default: the column named smiles, canonical_smiles, structure or the like.
        columns: others that must be there.
        format: default: by the suffix, and CSV for stdin.
        encoding: of the text; the default is UTF-8 with or without a byte order mark.

    Raises:
        ValueError: a column is missing, or two have one name; the file is empty, not of this format or not
            in this encoding. Says where.
        ModuleNotFoundError: Parquet needs pyarrow.
    """
    source = "stdin" if str(path) == PIPE else str(path)
    format = format or _format(path)
    with opened(path, seekable=format in ("sdf", "parquet")) as file:
        names, cells = _READERS[format](TextFile(file, source, encoding))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{source} has more than one column {name!r}; rename all but one")
        # The first column of an SD file is ours; a property of the same kind may follow.
        chosen = smiles_column or (names[0] if format == "sdf" else _smiles_column(source, names))
        for name in (chosen, *columns):
            if name not in names:
                raise ValueError(f"{source} has no column {name!r}; it has {', '.join(names)}")
        drawn = format == "sdf" and chosen == names[0]
        for first in itertools.count(0, rows):
            chunk = list(itertools.islice(cells, rows))
            if chunk or first == 0:
                by_column = map(list, zip(*chunk, strict=True)) if chunk else ([] for _ in names)
                yield Table(source, first, dict(zip(names, by_column, strict=True)), chosen, drawn)
            if len(chunk) < rows:
                return


def _format(path: str | Path) -> Format:
    if str(path) == PIPE:
        return "csv"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in SUFFIXES:
        return SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"{path} is none of {', '.join(SUFFIXES)}, with or without .gz: say what it is (--format "
        f"{'|'.join(get_args(Format))})"
    )


def _smiles_column(source: str, names: Sequence[str]) -> str:
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    for candidate in SMILES_COLUMNS:
        found = [name for name, as_plain in zip(names, plain, strict=True) if as_plain == candidate]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{source} has the columns {', '.join(found)}: say which one (--smiles-column)")
    raise ValueError(
        f"{source} has no column named smiles, {', '.join(SMILES_COLUMNS[1:])}: say which of its columns has "
        f"the SMILES (--smiles-column); it has {', '.join(names)}"
    )


Rows = tuple[list[str], Iterator[Sequence[str]]]  # the names of the columns; the cells of every row


def _csv(file: TextFile, delimiter: str = ",") -> Rows:
    rows = _numbered_records(file, delimiter)
    _, names = next(rows, (1, []))
    if not names:
        raise ValueError(f"{file.name} is empty: its first line must name the columns")

    def cells() -> Iterator[list[str]]:
        for line, row in _without_blank_end(rows):
            row = row or [""]
            if len(row) != len(names):
                raise ValueError(
                    f"{file.name}, line {line}: {len(row)} cells for {len(names)} columns "
                    f"({', '.join(names)})"
                )
            yield row

    return names, cells()


def _numbered_records(file: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file.lines(), delimiter=delimiter, strict=True)
    first_line = 1
    try:
        for row in reader:
            yield first_line, row
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{file.name} cannot be read as CSV beyond line {first_line - 1} ({error}): is a quote not "
            "closed?"
        ) from None


def _smi(file: TextFile) -> Rows:
    rows = _without_blank_end(enumerate((line.split(maxsplit=1) for line in file.lines()), 1))
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{file.name} is empty: a line has a SMILES, then perhaps a name")
    padded = ([*row, "", ""][:2] for _, row in itertools.chain([first], rows))
    return ["smiles", "name"], ([smiles, name.rstrip()] for smiles, name in padded)


def _without_blank_end(rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """All rows but the blank ones after which nothing comes."""
    blank = []
    for line, row in rows:
        blank.append((line, row))
        if row:
            yield from blank
            blank = []


def _sdf(file: TextFile) -> Rows:
    properties = list(dict.fromkeys(name for record in records(file.lines()) for name in record.properties))
    if not properties:
        raise ValueError(f"{file.name} is empty: it has no record of a structure")
    smiles = next(name for name in ("smiles", "structure", "RDKit's SMILES") if name not in properties)
    file.file.seek(0)
    again = records(TextFile(file.file, file.name, file.encoding).lines())

    def cells() -> Iterator[list[str]]:
        while chunk := list(itertools.islice(again, CHUNK)):
            for structure, record in zip(structures(chunk), chunk, strict=True):
                yield [structure, *(record.properties.get(name, "") for name in properties)]

    return [smiles, *properties], cells()


def _parquet(file: TextFile) -> Rows:
    from chainrule.fingerprints.parquet import read

    return read(file.file, file.name, rows=CHUNK)


_READERS = {
    "csv": _csv,
    "tsv": lambda file: _csv(file, "\t"),
    "smi": _smi,
    "sdf": _sdf,
    "parquet": _parquet,
}
