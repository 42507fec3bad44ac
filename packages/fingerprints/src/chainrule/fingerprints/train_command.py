"""The command `train`: a table in, a tested model out.

One can
- run it (`run`, or `python -m chainrule.fingerprints train`).
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table as Lines

from chainrule.fingerprints.commands import in_words_of_options, option
from chainrule.fingerprints.configs import CHOSEN_MODEL, ModelConfig, TrainConfig
from chainrule.fingerprints.fitting import Fitted, fit, keeps_its_head
from chainrule.fingerprints.measured import read_measured
from chainrule.fingerprints.model import Ensemble, PropertyModel, head_of, members_of
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.prediction import LEAST_ROWS, knows_spread, predict, predict_distribution
from chainrule.fingerprints.progress import bar
from chainrule.fingerprints.saved import load_model
from chainrule.fingerprints.splits import Split

if TYPE_CHECKING:
    from chainrule.fingerprints.model_commands import Train


def run(options: Train) -> Fitted:
    """Train, test, keep, print; see the command's `--help` for the options.

    Raises:
        ValueError: an option or a cell makes no sense; says which.
        FileNotFoundError: no such table, or no model to start from.
    """
    console = Console(soft_wrap=True)
    start = time.perf_counter()
    training = TrainConfig(**vars(options.training))
    started = load_model(options.start_from).model if options.start_from else None
    config = _architecture(options, started)
    molecules, targets, split = read_measured(options, config.task, console)
    console.print(
        f"{len(split.train)} rows to train, {len(split.validation)} to choose by, {len(split.test)} to test; "
        f"{training.steps} steps at most. Resume with --resume after a kill.",
        highlight=False,
    )
    if started is not None:
        _print_start(console, started, config.task, options)
    with bar(Console(stderr=True), training.steps, "training") as move, in_words_of_options():
        fitted = fit(
            molecules,
            targets[:, 0] if targets.shape[1] == 1 else targets,
            split,
            config,
            training,
            members=options.members or 1,
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
    if knows_spread(fitted.model) and not fitted.calibrated:
        print(_uncalibrated(fitted, options.targets), file=sys.stderr)
    return fitted


def _architecture(options: Train, started: PropertyModel | Ensemble | None) -> ModelConfig:
    """What the model is made of: as chosen, as --start-from has it, as the options say.

    Raises:
        ValueError: an option is not what --start-from has.
    """
    given = options.model.given()
    if started is None:
        if options.members is not None and options.members < 1:
            raise ValueError(f"--members {options.members} must be at least 1")
        return replace(CHOSEN_MODEL, **given)
    own = members_of(started)
    has = {**asdict(own[0].config), "members": len(own)}
    asked = given if options.members is None else given | {"members": options.members}
    for name, value in asked.items():
        if name != "task" and value != has[name]:
            raise ValueError(
                f"{option(name)} {value}: {options.start_from} has {has[name]}; leave it out, or --start-from"
            )
    return replace(own[0].config, **given)


def _print_start(console: Console, started: PropertyModel | Ensemble, task: str, options: Train) -> None:
    """How much of a trained model is gone on from."""
    columns = None if len(options.targets) == 1 else len(options.targets)
    if keeps_its_head(started, columns, task):
        what = "all its weights"
    else:
        before = head_of(started).targets or 1
        targets = "1 target" if columns is None else f"{columns} targets"
        what = (
            f"its fingerprint, below a new head ({task} of {targets} instead of {started.task} of {before})"
        )
    console.print(f"From {options.start_from}: {what}.", highlight=False)


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


def _uncalibrated(fitted: Fitted, targets: Sequence[str]) -> str:
    rows = [found["rows"] for found in fitted.validation] or [0] * len(targets)
    columns = ", ".join(f"predicted_{name}_std" for name in targets)
    return (
        f"{columns} is not calibrated: {targets[rows.index(min(rows))]} has {min(rows)} validation rows, and "
        f"it takes {LEAST_ROWS}"
    )
