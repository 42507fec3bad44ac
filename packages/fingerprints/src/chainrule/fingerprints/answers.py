"""What was computed for the rows of a table, and what becomes of a row for which nothing could be.

One can
- compute something for all rows of a table (`answer` -> `Answers`),
- keep the rows without an answer, with a reason, or drop or refuse them (`Answers.settled`),
- put the answers beside the table's own columns (`Answers.beside`),
- do all that for a whole file (`write_answers`), and know how its rows fared (`Tally`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.outputs import OutputFormat, output
from chainrule.fingerprints.rows import as_rows
from chainrule.fingerprints.tables import Table

OnInvalid = Literal["keep", "drop", "fail"]
REASON = "reason"  # the column that says why a row has no answer


@dataclass(frozen=True)
class Answers:
    """Rows of a file with what was computed for them."""

    source: str  # the file, for messages
    rows: Int[np.ndarray, " rows"]  # their numbers in the file, whose first row is 0
    columns: Mapping[str, Sequence[str]]  # those of the file
    smiles: Sequence[str]  # without the blanks around them
    values: np.ndarray  # one number or vector for each row, NaN where not valid
    valid: Bool[np.ndarray, " rows"]  # whether there is an answer
    reasons: Sequence[str]  # why there is no answer; '' where there is
    left_to_rdkit: Sequence[str]  # why the answer is RDKit's; '' where it is not

    def settled(self, on_invalid: OnInvalid) -> Answers:
        """Rows without an answer kept, dropped or refused.

        Raises:
            ValueError: to be refused, on_invalid="fail"; names the first of them.
        """
        if on_invalid == "keep" or self.valid.all():
            return self
        if on_invalid == "fail":
            first = int(np.argmin(self.valid))
            raise ValueError(
                f"row {self.rows[first]} of {self.source} (the first is row 0) has the SMILES "
                f"{self.smiles[first]!r}: {self.reasons[first]}; give --on-invalid keep or drop"
            )
        return self.take(self.valid)

    def take(self, rows: Sequence[int] | np.ndarray) -> Answers:
        """These rows, by number or by mask."""
        rows = as_rows(rows, len(self.rows))
        return Answers(
            source=self.source,
            rows=self.rows[rows],
            columns={name: [cells[i] for i in rows] for name, cells in self.columns.items()},
            smiles=[self.smiles[i] for i in rows],
            values=self.values[rows],
            valid=self.valid[rows],
            reasons=[self.reasons[i] for i in rows],
            left_to_rdkit=[self.left_to_rdkit[i] for i in rows],
        )

    def beside(
        self, results: Mapping[str, np.ndarray], *, reasons: bool
    ) -> dict[str, Sequence[str] | np.ndarray]:
        """The file's columns, then the results, then if wanted the reasons.

        Raises:
            ValueError: the file has a column of such a name.
        """
        ours: dict[str, Sequence[str] | np.ndarray] = dict(results)
        if reasons:
            ours[REASON] = self.reasons
        for name in ours:
            if name in self.columns:
                raise ValueError(
                    f"{self.source} has a column {name!r} already, as the results have: rename it there"
                )
        return {**self.columns, **ours}


def answer(table: Table, compute: Callable[[Molecules], np.ndarray]) -> Answers:
    """What `compute` makes of the rows of a table.

    Args:
        compute: molecules to one number or vector for each row, NaN where there is none. If some of these
            are RDKit's, it has a method that says of which rows, and why, see `Circular`.
    """
    molecules = table.molecules()
    values = np.asarray(compute(molecules))
    if len(values) != len(table):
        raise ValueError(f"{len(values)} answers were computed for {len(table)} rows of {table.source}")
    valid = np.asarray(~np.isnan(values).any(axis=tuple(range(1, values.ndim))))
    reasons = [
        "" if ok else why or "there is no answer" for ok, why in zip(valid, molecules.reasons, strict=True)
    ]
    left = compute.left_to_rdkit(molecules) if isinstance(compute, _LeavesRows) else {}
    by_rdkit = [left.get(row, "") if ok else "" for row, ok in enumerate(valid)]
    rows = table.first_row + np.arange(len(table))
    return Answers(table.source, rows, table.columns, molecules.smiles, values, valid, reasons, by_rdkit)


@runtime_checkable
class _LeavesRows(Protocol):
    def left_to_rdkit(self, molecules: Molecules, /) -> dict[int, str]: ...


class Tally(NamedTuple):
    """How the rows of a file fared."""

    rows: int = 0
    without: int = 0  # an answer
    left_to_rdkit: int = 0
    first_left: str = ""  # which row that was, and why

    def plus(self, found: Answers) -> Tally:
        left = [i for i, why in enumerate(found.left_to_rdkit) if why]
        first = f"row {found.rows[left[0]]}: {found.left_to_rdkit[left[0]]}" if left else ""
        return Tally(
            self.rows + len(found.rows),
            self.without + int((~found.valid).sum()),
            self.left_to_rdkit + len(left),
            self.first_left or first,
        )


def write_answers(
    tables: Iterable[Table],
    out: str | Path,
    compute: Callable[[Molecules], np.ndarray],
    results: Callable[[Answers], Mapping[str, np.ndarray]],
    *,
    settings: Mapping[str, Any],
    on_invalid: OnInvalid = "keep",
    format: OutputFormat | None = None,
) -> Tally:
    """Write the rows of a file, chunk by chunk, each with what was computed for it.

    Args:
        tables: the chunks of a file, see `read_chunks`.
        out, format: see `output`.
        compute: see `answer`.
        results: from answers to the columns that are written of them.
        settings: how the results were made; kept in .npz, with the name of the column of SMILES.
    """
    tables = iter(tables)
    first = next(tables)
    settings = {**settings, "smiles_column": first.smiles_column}
    tally = Tally()
    with output(out, format, settings=settings, whole=on_invalid == "fail") as file:
        for table in itertools.chain([first], tables):
            found = answer(table, compute)
            tally = tally.plus(found)
            kept = found.settled(on_invalid)
            file.write(kept.beside(results(kept), reasons=on_invalid == "keep"), kept.valid)
    return tally
