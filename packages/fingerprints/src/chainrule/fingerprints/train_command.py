"""The command `train`: a table in, a tested model out.

One can
- run it (`run`, or `python -m chainrule.fingerprints train`).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table as Lines

from chainrule.fingerprints.fitting import Fitted, fit
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.prediction import knows_spread, predict, predict_distribution
from chainrule.fingerprints.progress import bar
from chainrule.fingerprints.saved import load_model
from chainrule.fingerprints.splits import Split
from chainrule.fingerprints.tables import Table, read_table

if TYPE_CHECKING:
    from chainrule.fingerprints.model_commands import Train
    from chainrule.fingerprints.study_commands import Tune


def run(options: Train) -> Fitted:
    """Train, test, keep, print; see the command's `--help` for the options.

    Raises:
        ValueError: an option or a cell makes no sense; says which.
        FileNotFoundError: no such table, or no model to start from.
    """
    console = Console(soft_wrap=True)
    start = time.perf_counter()
    started = load_model(options.start_from).model if options.start_from else None
    molecules, targets, split = read_measured(options, console)
    console.print(
        f"{len(split.train)} rows to train, {len(split.validation)} to choose by, {len(split.test)} to test; "
        f"{options.training.steps} steps at most. Resume with --resume after a kill.",
        highlight=False,
    )
    with bar(Console(stderr=True), options.training.steps, "training") as move:
        fitted = fit(
            molecules,
            targets[:, 0] if targets.shape[1] == 1 else targets,
            split,
            options.model,
            options.training,
            members=options.members,
            start_from=started,
            run_dir=options.out / "run",
            resume=options.resume,
            log=lambda metrics: move(completed=metrics["step"]),
        )
    fitted.save(options.out, targets=options.targets, units=options.units)
    tested = _save_tested(options.out / "test-predictions.csv", fitted, molecules, targets, split, options)
    _print(console, fitted, options)
    console.print(
        f"{time.perf_counter() - start:.0f} s. The model is in {options.out}, {tested}", highlight=False
    )
    return fitted


def read_measured(options: Train | Tune, console: Console) -> tuple[Molecules, np.ndarray, Split]:
    """The molecules of a table that have a target, rows x targets of them, and which are for what.

    Raises:
        ValueError: an option or a cell makes no sense.
    """
    splitting = options.splitting
    if splitting.split == "column" and not splitting.split_column:
        raise ValueError("--split column needs --split-column, the name of the column that says it")
    asked = [*options.targets, *([splitting.split_column] if splitting.split_column else [])]
    table = read_table(options.input, columns=asked, **vars(options.reading))
    molecules = table.molecules()
    targets = np.stack([_numbers(table, name) for name in options.targets], axis=1)
    rows = _usable_rows(table, molecules, targets, options.on_invalid, console)
    molecules, targets = molecules.take(rows), targets[rows]
    labels = [table.columns[splitting.split_column][row] for row in rows] if splitting.split_column else []
    return molecules, targets, splitting.of(labels, molecules)


def _numbers(table: Table, name: str) -> np.ndarray:
    """A column as numbers; NaN where the cell is empty."""
    values = np.full(len(table), np.nan)
    for row, cell in enumerate(table.columns[name]):
        if cell.strip().lower() in ("", "nan", "na", "none", "null"):
            continue
        try:
            values[row] = float(cell)
        except ValueError:
            raise ValueError(
                f"row {row} of {table.source} (the first is row 0) has {cell!r} in column {name}, which is "
                "no number; leave the cell empty where nothing was measured"
            ) from None
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


def _save_tested(
    path: Path, fitted: Fitted, molecules: Molecules, targets: np.ndarray, split: Split, options: Train
) -> Path:
    """Measured and predicted values of the test rows."""
    table = molecules.take(split.test)
    spread = knows_spread(fitted.model)
    answers = predict_distribution(fitted.model, table) if spread else [predict(fitted.model, table)]
    columns: dict[str, Sequence[str] | np.ndarray] = {"smiles": table.smiles}
    for k, name in enumerate(options.targets):
        columns[name] = targets[split.test, k]
        for title, values in zip((f"predicted_{name}", f"predicted_{name}_std"), answers, strict=False):
            columns[title] = values.reshape(len(table), len(options.targets))[:, k]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def _print(console: Console, fitted: Fitted, options: Train) -> None:
    units = f", {options.units}" if options.units else ""
    lines = Lines(title=f"after {fitted.best_step} steps{units}", title_justify="left")
    lines.add_column("target")
    lines.add_column("rows")
    parts = {"validation": fitted.validation, "test": fitted.test}
    names = list(dict.fromkeys(name for part in parts.values() for found in part for name in found))
    for name in names[1:]:
        lines.add_column(name, justify="right")
    for part, of_targets in parts.items():
        for target, found in zip(options.targets, of_targets, strict=False):
            cells = [f"{found[name]:.3f}" if name in found else "" for name in names[1:]]
            lines.add_row(target, f"{found['rows']} {part}", *cells)
    if names:
        console.print(lines)
