"""The main job: the talk's comparison on measured solubilities, and pictures of what was learned.

One can
- run it (`run`, or `python -m chainrule.fingerprints demo`).

Source: talk, "Predictive performance" and "Interpretability".
"""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from chainrule.fingerprints.commands import in_words_of_options
from chainrule.fingerprints.comparison import Outcome, Row, compare, summarize
from chainrule.fingerprints.datasets import Dataset, load
from chainrule.fingerprints.draw import BLUE, ORANGE, draw_fragments
from chainrule.fingerprints.explain import most_predictive_features, top_fragments
from chainrule.fingerprints.methods import DEMO_METHODS, NEURAL_TRAINING
from chainrule.fingerprints.model import PropertyModel
from chainrule.fingerprints.progress import bar
from chainrule.fingerprints.published import NEURAL_NET
from chainrule.fingerprints.splits import Split, contiguous_folds, random_splits
from chainrule.fingerprints.training import train

QUICK_SPLITS, QUICK_STEPS = 2, 100
FOLDS = 5  # of the talk's protocol
METHODS = len(DEMO_METHODS)
N_FRAGMENTS = 6
PICTURE_WEIGHT_DECAY = 1.0


def run(
    *,
    data: str,
    data_dir: Path | None,
    out: Path,
    splits: int,
    seed: int,
    quick: bool,
    resume: bool,
) -> list[Row]:
    """Compare, draw, print; see the command's `--help` for the arguments. Returns the table.

    Raises:
        ValueError: an option makes no sense, or --out has runs that are not these.
        FileNotFoundError: the data set is not there; says what to put where.
        ModuleNotFoundError: matplotlib is missing.
    """
    if splits < 1:
        raise ValueError(f"--splits {splits} must be at least 1")
    if data == "delaney" and splits > FOLDS:
        raise ValueError(f"--splits {splits}: delaney has {FOLDS} folds; give --splits {FOLDS} or fewer")
    if seed < 0:
        raise ValueError(f"--seed {seed} must not be negative")
    out.mkdir(parents=True, exist_ok=True)
    plot_predictions = _plotting()
    console = Console()
    start = time.perf_counter()
    dataset = load(data, data_dir=data_dir)
    steps = QUICK_STEPS if quick else None
    if quick:
        splits = min(splits, QUICK_SPLITS)
    n = len(dataset)
    talks_protocol = data == "delaney"
    if talks_protocol:
        chosen = contiguous_folds(n, FOLDS)[:splits]
        protocol = "contiguous folds: three to train, one to choose by, one to test"
    else:
        chosen = random_splits(n, splits, seed=seed)
        protocol = "random splits: 80 % to train, 10 % to choose by, 10 % to test"
    console.print(
        f"{METHODS} methods on {n} molecules of the set '{data}', {dataset.target} in "
        f"{dataset.units}; {len(chosen)} {protocol}. About {_minutes(quick, talks_protocol)} minutes on "
        "2 cores."
    )
    runs = out / "runs" / f"{data}-seed{seed}{'-quick' if quick else ''}-{len(chosen)}splits"
    outcomes: list[Outcome] = []
    with bar(console, METHODS * len(chosen)) as move, in_words_of_options():
        for outcome in compare(
            dataset,
            chosen,
            refit=talks_protocol,
            seed=seed,
            steps=steps,
            run_dir=runs,
            resume=resume,
        ):
            outcomes.append(outcome)
            move(advance=1, description=outcome.method)
            if not console.is_terminal and len(outcomes) % METHODS == 0:
                seconds = time.perf_counter() - start
                console.print(f"split {outcome.split + 1} of {len(chosen)} done, {seconds:.0f} s")
    rows = summarize(outcomes)
    tables = [
        _save_table(out / f"{data}.csv", rows, dataset.units),
        _save_outcomes(out / f"{data}-splits.csv", outcomes),
    ]
    _print(console, dataset, rows, len(chosen), quick)
    _print_files(console, "\nWritten:", tables)  # before the pictures: whatever becomes of them, this is had

    measured, predicted = _pooled(dataset, outcomes, NEURAL_NET)
    rmse = next(row.rmse for row in rows if row.method == NEURAL_NET)
    pictures = plot_predictions(
        out / f"{data}-predicted",
        measured,
        predicted,
        title=f"Neural fingerprints: to {rmse:.2f} {dataset.units} on average",
        target=dataset.target,
        units=dataset.units,
    )
    with in_words_of_options():
        pictures += _draw(out, runs, dataset, chosen[0], seed, steps, resume)
    seconds = time.perf_counter() - start
    where = f"{platform.machine()} {jax.default_backend()}, jax {jax.__version__}"
    _print_files(console, f"{seconds:.0f} s on {where}. Drawn:", pictures)
    return rows


def _print_files(console: Console, title: str, files: Sequence[Path]) -> None:
    console.print(title)
    for file in files:
        console.print(f"  {file}", soft_wrap=True, highlight=False)


def _minutes(quick: bool, refit: bool) -> int:
    return 1 if quick else 5 if refit else 3


def _plotting():
    try:
        from chainrule.fingerprints.plot import plot_predictions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; the demo draws pictures: pip install 'chainrule-fingerprints[plot]'"
        ) from None
    return plot_predictions


def _print(console: Console, dataset: Dataset, rows: Sequence[Row], n_splits: int, quick: bool) -> None:
    table = Table(
        title=f"{dataset.target}, error on held-out molecules "
        f"(mean +- standard error over {n_splits} splits)",
        title_justify="left",
    )
    table.add_column("method")
    table.add_column(f"MSE, ({dataset.units})²", justify="right")
    table.add_column(f"RMSE, {dataset.units}", justify="right")
    table.add_column("talk's MSE", justify="right")
    for row in rows:
        table.add_row(
            row.method,
            f"{row.mse:.2f} +- {row.mse_error:.2f}",
            f"{row.rmse:.2f} +- {row.rmse_error:.2f}",
            "" if row.published is None else f"{row.published.in_talk:.2f}",
        )
    console.print(table)
    console.print(
        "The talk prints its column as log mol/L; these are mean squared errors, in squared units, on "
        "Delaney's set (its linear rows are the paper's). Its circular fingerprints were bits; here "
        "validation may choose counts as well, which are a stronger baseline."
    )
    if quick:
        console.print("[bold]--quick: too few steps and splits for these figures to mean anything.[/]")


def _draw(
    out: Path, runs: Path, dataset: Dataset, split: Split, seed: int, steps: int | None, resume: bool
) -> list[Path]:
    """The fragments behind a linear head's highest and lowest weights.

    They come from a model of their own, fitted to the first split with much weight decay, as the
    talk's pictures came from one with strong penalties: without, weights of different features cancel
    one another, and a single one says little.
    """
    config = replace(NEURAL_TRAINING, weight_decay=PICTURE_WEIGHT_DECAY, seed=seed)
    model = cast(
        PropertyModel,
        train(
            PropertyModel(hidden=0, rngs=nnx.Rngs(seed)),
            dataset.molecules,
            dataset.targets,
            split.train,
            split.validation,
            replace(config, steps=steps or config.steps),
            run_dir=runs / "pictures",
            resume=resume,
        ).model,
    )
    highest, lowest = most_predictive_features(model, dataset.molecules)
    files: list[Path] = []
    for features, word, colour in ((highest, "soluble", BLUE), (lowest, "insoluble", ORANGE)):
        feature = top_fragments(model, dataset.molecules, features, n=N_FRAGMENTS)[0]
        path = out / f"{dataset.name}-fragments-{word}"
        files += draw_fragments(dataset.molecules, feature.fragments, path, colour=colour)
    return files


def _pooled(dataset: Dataset, outcomes: Sequence[Outcome], method: str) -> tuple[np.ndarray, np.ndarray]:
    own = [outcome for outcome in outcomes if outcome.method == method]
    measured = np.concatenate([dataset.targets[outcome.rows] for outcome in own])
    return measured, np.concatenate([outcome.predictions for outcome in own])


def _save_table(path: Path, rows: Sequence[Row], units: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "method",
                f"MSE ({units})^2",
                "standard error",
                f"RMSE {units}",
                "standard error",
                "talk's MSE",
            ]
        )
        for *figures, published in rows:
            writer.writerow([*figures, published.in_talk if published else ""])
    return path


def _save_outcomes(path: Path, outcomes: Sequence[Outcome]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "split", "test MSE", "chosen on validation"])
        writer.writerows((o.method, o.split, o.test_mse, o.choice) for o in outcomes)
    return path
