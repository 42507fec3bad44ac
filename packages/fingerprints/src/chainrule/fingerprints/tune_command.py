"""The command `tune`: a table in, the settings out that its validation rows like best.

One can
- run it (`run`, or `python -m chainrule.fingerprints tune`).
"""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as Lines

from chainrule.fingerprints.commands import names
from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.measured import read_measured
from chainrule.fingerprints.progress import bar
from chainrule.fingerprints.settings import Neural
from chainrule.fingerprints.tuning import ATOMS_PER_SECOND, Trial, trainings, tune
from chainrule.fingerprints.whole_files import write_whole

if TYPE_CHECKING:
    from chainrule.fingerprints.study_commands import Tune

SHOWN = 5


def run(options: Tune) -> list[Trial[Neural]]:
    """Search, print, keep; see the command's `--help` for the options.

    Raises:
        ValueError: an option or a cell makes no sense, or --out has another search.
        FileNotFoundError: no such table.
    """
    console = Console(soft_wrap=True)
    start = time.perf_counter()
    training = TrainConfig(steps=options.steps, batch_size=options.batch_size, seed=options.seed)
    variants = names(options.variants, "--variants")
    molecules, targets, split = read_measured(options, options.task, console)
    atoms = options.batch_size * molecules.atoms_per_molecule[split.train].mean()
    steps = sum(part * options.steps * many for part, many in trainings(options.trials))
    console.print(
        f"{options.trials} trials; {len(split.train)} rows to train, {len(split.validation)} to choose by, "
        f"{len(split.test)} kept out of it. About {math.ceil(steps * atoms / ATOMS_PER_SECOND / 60)} minutes "
        "on 2 cores, and compilations. Resume with --resume after a kill.",
        highlight=False,
    )
    total = sum(many for _, many in trainings(options.trials))
    with bar(Console(stderr=True), total, "trials") as move:
        found = tune(
            molecules,
            targets[:, 0] if targets.shape[1] == 1 else targets,
            split,
            trials=options.trials,
            seed=options.seed,
            model=ModelConfig(task=options.task, hidden=0 if options.linear else ModelConfig.hidden),
            training=training,
            variants=variants,
            record=options.out / "trials.jsonl",
            resume=options.resume,
            log=lambda trial: move(advance=1),
        )
    best = found[0]
    if not math.isfinite(best.error):
        raise ValueError("every trial diverged; look for outliers in the targets")
    write_whole(options.out / "settings.json", json.dumps(asdict(best.settings), indent=1) + "\n")
    _print(console, found[:SHOWN])
    seconds = time.perf_counter() - start
    console.print(f"{seconds:.0f} s. Written: {options.out}/settings.json, trials.jsonl", highlight=False)
    console.print(f"Train it with: {_train_command(best.settings, options)}", highlight=False, markup=False)
    return found


def _train_command(settings: Neural, options: Tune) -> str:
    """The command that trains these settings on the same rows; --out is left to the user."""
    words = ["train", str(options.input), "-t", options.target_columns]
    training = asdict(settings.training)
    given = {**vars(options.reading), **vars(options.splitting), **asdict(settings.model)}
    given |= {n: training[n] for n in ("steps", "batch_size", "learning_rate", "weight_decay", "seed")}
    for name, value in given.items():
        if value is not None:
            text = f"{value:.6g}" if isinstance(value, float) else f"{value}"
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _print(console: Console, trials: list[Trial[Neural]]) -> None:
    lines = Lines(title="the best trials, by validation error", title_justify="left")
    for name in ("error", "steps", "settings"):
        lines.add_column(name, justify="right" if name != "settings" else "left")
    for trial in trials:
        steps = trial.settings.training.steps
        lines.add_row(f"{trial.error:.4g}", f"{steps}", str(trial.settings))
    console.print(lines)
