"""Tables of measured molecules, as `train` and `tune` read them.

One can
- read molecules, targets and which rows are for what (`read_measured`); or learn what is wrong, and in
  which row of the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.splits import Split
from chainrule.fingerprints.tables import Table, read_table

if TYPE_CHECKING:
    from chainrule.fingerprints.model_commands import Train
    from chainrule.fingerprints.study_commands import Tune

MISSING = ("", "nan", "na", "none", "null")  # what a cell has that was not measured, in any case


def read_measured(options: Train | Tune, task: str, console: Console) -> tuple[Molecules, np.ndarray, Split]:
    """The molecules of a table, rows x targets of what was measured, and which rows are for what.

    Rows keep their numbers. Those that are no molecule, or have no target, are for nothing.

    Raises:
        ValueError: an option or a cell makes no sense, or a target has nothing to learn from.
    """
    splitting = options.splitting
    splitting.check()
    asked = [*options.targets, *([splitting.split_column] if splitting.split_column else [])]
    table = read_table(options.input, columns=asked, **vars(options.reading))
    molecules = table.molecules()
    targets = np.stack([_numbers(table, name) for name in options.targets], axis=1)
    rows = _usable_rows(table, molecules, targets, options.on_invalid, console)
    _check_measured(table, options.targets, targets, rows, task)
    labels = table.columns[splitting.split_column] if splitting.split_column else []
    split = splitting.of(molecules, rows, labels)
    _check_learnable(options.targets, targets[split.train], task)
    return molecules, targets, split


def _numbers(table: Table, name: str) -> np.ndarray:
    """A column as numbers; NaN where the cell is empty, or says so."""
    values = np.full(len(table), np.nan)
    for row, cell in enumerate(table.columns[name]):
        if cell.strip().lower() in MISSING:
            continue
        with contextlib.suppress(ValueError):
            values[row] = math.nan if "_" in cell else float(cell)  # which takes 1_5 for 15
        if not math.isfinite(values[row]):
            raise ValueError(
                f"row {row} of {table.source} (the first is row 0) has {cell!r} in column {name}, which is "
                "no number; leave the cell empty where nothing was measured"
            )
    return values


def _usable_rows(
    table: Table, molecules: Molecules, targets: np.ndarray, on_invalid: str, console: Console
) -> np.ndarray:
    """The rows that are molecules and have a target."""
    measured = np.isfinite(targets).any(axis=1)
    wrong = np.flatnonzero(~(molecules.valid & measured))
    if len(wrong):
        row = int(wrong[0])
        reason = "it has no target" if molecules.valid[row] else molecules.reasons[row]
        first = f"row {row} of {table.source} (the first is row 0), {table.smiles[row]!r}: {reason}"
        if on_invalid == "fail":
            raise ValueError(f"{first}; give --on-invalid drop to go on without it")
        console.print(
            f"{len(wrong)} of {len(table)} rows are left out; the first is {first}", highlight=False
        )
    return np.flatnonzero(molecules.valid & measured)


def _check_measured(
    table: Table, names: Sequence[str], targets: np.ndarray, rows: np.ndarray, task: str
) -> None:
    """Every column has a number in these rows, and of a classification none but 0 and 1."""
    for name, column in zip(names, targets[rows].T, strict=True):
        measured = ~np.isnan(column)
        if not measured.any():
            raise ValueError(
                f"column {name} has no number in any row of {table.source} that is a molecule; leave it out "
                "of -t"
            )
        other = rows[measured & ~np.isin(column, (0, 1))]
        if task == "classification" and len(other):
            raise ValueError(
                f"row {other[0]} of {table.source} (the first is row 0) has "
                f"{table.columns[name][other[0]]!r} in column {name}; a classification has targets 0 and 1, "
                "numbers are for --task regression"
            )


def _check_learnable(names: Sequence[str], targets: np.ndarray, task: str) -> None:
    """The training rows have a number in every column, and of a classification both."""
    for name, column in zip(names, targets.T, strict=True):
        measured = column[~np.isnan(column)]
        if not len(measured):
            raise ValueError(
                f"column {name} has no number in a training row; take another split, or leave it out of -t"
            )
        if task == "classification" and (measured == measured[0]).all():
            raise ValueError(
                f"column {name} is {measured[0]:g} in every training row that has it; a classification needs "
                "both 0 and 1"
            )
