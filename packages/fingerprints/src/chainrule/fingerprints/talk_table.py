"""The talk's whole table: three sets, the original's five folds, and what the talk and the paper report.

One can
- run it (`run`, or `python -m chainrule.fingerprints table`), stop it anywhere and go on later.

Fold f validates, fold f + 1 tests, the other three train. Settings come from validation rows alone: those
that are shipped were found by this command's own search (`--trials`), fold by fold. Models are then fitted
to training and validation rows, and tested once.

Source: talk, "Predictive performance"; Duvenaud, Maclaurin et al., NIPS 2015, table 1.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from chainrule.fingerprints.comparison import Outcome, Row, compare, summarize
from chainrule.fingerprints.datasets import SOURCES, Dataset, find, load
from chainrule.fingerprints.journal import Journal, digest
from chainrule.fingerprints.methods import MESSAGES_NET, NEURAL, TALK_METHODS
from chainrule.fingerprints.progress import bar
from chainrule.fingerprints.published import PUBLISHED
from chainrule.fingerprints.settings import (
    Neural,
    OfFolds,
    of_fold,
    read_settings,
    settings_of,
    shipped_settings,
    write_settings,
)
from chainrule.fingerprints.splits import contiguous_folds
from chainrule.fingerprints.tuning import trainings
from chainrule.fingerprints.whole_files import write_whole

ROWS = {"delaney": None, "malaria": 10_000, "cep": 20_000}  # of the files, as in the original
FOLDS = 5
ATOMS = {"delaney": 13.3, "malaria": 30.4, "cep": 27.7}  # of a molecule, on average
# In a process on a core of its own, everything else included: all of the table took 770 s in two of them.
ATOMS_PER_SECOND = 210_000
HEADER = ("method", "MSE", "standard error", "RMSE", "standard error", "talk's MSE", "paper's MSE")


def run(
    *,
    data: str,
    data_dir: Path | None,
    out: Path,
    folds: int,
    seed: int,
    steps: int | None,
    settings: Path | None,
    trials: int,
    messages: bool,
    processes: int,
    resume: bool,
) -> dict[str, list[Row]]:
    """Compare, print, keep; see the command's `--help` for the arguments. Returns the rows of each set.

    Raises:
        ValueError: an option makes no sense, or --out has another run.
        FileNotFoundError: a data set is not there; says what to put where.
    """
    if not 1 <= folds <= FOLDS:
        raise ValueError(f"--folds {folds}: there are {FOLDS}; give 1 to {FOLDS}")
    for name, value in (("seed", seed), ("trials", trials)):
        if value < 0:
            raise ValueError(f"--{name} {value} must not be negative")
    for name, value in (("steps", steps), ("processes", processes)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    order = (*TALK_METHODS, MESSAGES_NET)
    methods = order if messages else TALK_METHODS
    out.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    start = time.perf_counter()
    of_sets = read_settings(settings) if settings else shipped_settings()
    names = list(ROWS) if data == "all" else [data]
    for name in names:
        find(SOURCES[name], data_dir)  # what is missing is missed now, not after the first columns
    cores = os.cpu_count() or 1
    about = minutes(names, methods, of_sets, folds, steps, trials, workers(processes, cores))
    search = f", a search of {trials} trials for each" if trials else ""
    console.print(
        f"{len(methods)} methods on {', '.join(names)}; {folds} of {FOLDS} contiguous folds{search}. "
        f"About {math.ceil(about)} minutes with --processes {processes} on {cores} cores. Resume with "
        "--resume after a kill.",
        highlight=False,
    )
    datasets: dict[str, Dataset] = {}
    found: dict[str, list[Outcome]] = {}
    files: list[Path] = []
    for name in names:
        datasets[name] = dataset = load(name, rows=ROWS[name], data_dir=data_dir)
        given = of_sets.get(name, {})
        journal = Journal(
            out / f"{name}-outcomes.jsonl", _identity(dataset, given, seed, steps, trials), resume=resume
        )
        found[name] = [_read(entry) for entry in journal.entries if entry["fold"] < folds]
        splits = contiguous_folds(len(dataset), FOLDS)[:folds]
        with bar(console, len(methods) * folds) as move:
            move(completed=len(found[name]))
            for outcome in compare(
                dataset,
                splits,
                methods=methods,
                refit=True,
                seed=seed,
                steps=steps,
                settings=given,
                trials=trials,
                done={(outcome.method, outcome.split) for outcome in found[name]},
                processes=processes,
            ):
                journal.append(_entry(outcome))
                found[name].append(outcome)
                found[name].sort(key=lambda one: (one.split, order.index(one.method)))
                move(advance=1, description=f"{name}, {outcome.method}")
                if {*methods} <= {one.method for one in found[name] if one.split == outcome.split}:
                    _save(out, datasets, found)
                    if not console.is_terminal:
                        seconds = time.perf_counter() - start
                        console.print(f"{name}, fold {outcome.split + 1} of {folds} done, {seconds:.0f} s")
        files = _save(out, datasets, found)
        _print(console, dataset, summarize(found[name], PUBLISHED[name]), folds)
    console.print(
        f"{time.perf_counter() - start:.0f} s. Written: {', '.join(map(str, files))}", highlight=False
    )
    return {name: summarize(outcomes, PUBLISHED[name]) for name, outcomes in found.items()}


def workers(processes: int, cores: int) -> int:
    """Processes that work at a time: more than there are cores wait for one another."""
    return min(processes, cores)


def minutes(
    names: Iterable[str],
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, OfFolds]],
    folds: int,
    steps: int | None,
    trials: int,
    at_a_time: int,
) -> float:
    """What these sets will take, by the atoms that the neural trainings go through."""
    atoms = 0.0
    neural = [method for method in methods if method in NEURAL]
    for name, method, fold in itertools.product(names, neural, range(folds)):
        default, of_set = NEURAL[method], settings.get(name, {})
        of_method = of_fold(of_set[method], fold) if method in of_set else default
        training = of_method.training if isinstance(of_method, Neural) else default.training
        fits = 2.0 if training.patience else 1.0  # with patience, one to find the steps
        if trials:
            fits = 1 + sum(part * how_many for part, how_many in trainings(trials))
        atoms += ATOMS[name] * fits * training.batch_size * min(training.steps, steps or training.steps)
    return atoms / (ATOMS_PER_SECOND * at_a_time) / 60


def _identity(
    dataset: Dataset, settings: Mapping[str, OfFolds], seed: int, steps: int | None, trials: int
) -> dict:
    given = {method: [asdict(one) for one in entries] for method, entries in settings.items()}
    return {
        "data": digest(dataset.molecules, dataset.targets),
        "seed": seed,
        "steps": steps,
        "trials": trials,
        "settings": given,
    }


def _entry(outcome: Outcome) -> dict:
    return {
        "method": outcome.method,
        "fold": outcome.split,
        "test_mse": outcome.test_mse,
        "choice": outcome.choice,
        "settings": None if outcome.settings is None else asdict(outcome.settings),
    }


def _read(entry: Mapping) -> Outcome:
    """What is kept of an outcome."""
    settings = None if entry["settings"] is None else settings_of(entry["settings"])
    empty = np.zeros(0)
    return Outcome(
        entry["method"], entry["fold"], entry["test_mse"], entry["choice"], empty, empty, None, settings
    )


def _save(out: Path, datasets: Mapping[str, Dataset], found: Mapping[str, Sequence[Outcome]]) -> list[Path]:
    """What is known so far: the table twice, every fold, and the settings in the form that is shipped."""
    rows, parts, settings = [], [], {}
    for name, outcomes in found.items():
        dataset, of_set = datasets[name], summarize(outcomes, PUBLISHED[name])
        folds = len({outcome.split for outcome in outcomes})
        rows += [[name, dataset.units, *_figures(row, "g")] for row in of_set]
        parts.append(_markdown(dataset, of_set, folds))
        settings[name] = _chosen(outcomes)
    with (out / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("set", "units", *HEADER), *rows])
    with (out / "folds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "method", "fold", "test MSE", "chosen on validation"])
        for name, outcomes in found.items():
            writer.writerows((name, o.method, o.split + 1, o.test_mse, o.choice) for o in outcomes)
    write_whole(out / "table.md", "\n".join(parts))
    write_settings(out / "settings.json", settings)
    return [out / file for file in ("table.csv", "table.md", "folds.csv", "settings.json")]


def _chosen(outcomes: Sequence[Outcome]) -> dict[str, OfFolds]:
    """The settings of each method, fold by fold as far as it got from the first."""
    chosen: dict[str, OfFolds] = {}
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        by_fold = {o.split: o.settings for o in outcomes if o.method == method and o.settings is not None}
        if by_fold:
            chosen[method] = [by_fold[fold] for fold in sorted(by_fold)]
    return chosen


def _markdown(dataset: Dataset, rows: Sequence[Row], folds: int) -> str:
    columns = ("method", "MSE", "RMSE", "talk's MSE", "paper's MSE")
    lines = [_title(dataset, folds), "", columns, ("---",) * len(columns), *map(_cells, rows)]
    return "\n".join(line if isinstance(line, str) else f"| {' | '.join(line)} |" for line in lines) + "\n"


def _print(console: Console, dataset: Dataset, rows: Sequence[Row], folds: int) -> None:
    table = Table(title=f"{_title(dataset, folds)}; talk and paper: MSE", title_justify="left")
    table.add_column("method")
    for name in ("MSE", "RMSE", "talk", "paper"):  # short enough for 80 characters a line
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def _title(dataset: Dataset, folds: int) -> str:
    return (
        f"{dataset.target}, {len(dataset)} molecules of the set {dataset.name}: errors on held-out ones, "
        f"mean ± standard error over {folds} folds; MSE in ({dataset.units})², RMSE in {dataset.units}"
    )


def _cells(row: Row) -> list[str]:
    mse, error, rmse, rmse_error, talk, paper = _figures(row, ".2f")[1:]
    of_paper = f"{paper} ± {row.published.paper_error:.2f}" if row.published else ""
    return [row.method, f"{mse} ± {error}", f"{rmse} ± {rmse_error}", talk, of_paper]


def _figures(row: Row, form: str) -> list[str]:
    talk, paper = (row.published.talk, row.published.paper) if row.published else (None, None)
    numbers = (row.mse, row.mse_error, row.rmse, row.rmse_error, talk, paper)
    return [row.method, *("" if number is None else format(number, form) for number in numbers)]
