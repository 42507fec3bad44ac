"""The commands. Their fields are the options, with what `--help` says of them.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg


@dataclass(frozen=True)
class Experiment:
    """What all experiments have in common."""

    quick: bool = False
    """The same in small sizes: about a minute, to see that it runs."""

    def run(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        experiment = importlib.import_module(f"chainrule.svae.experiments.{type(self).__name__.lower()}")
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        quick, out = options.pop("quick"), options.pop("out")
        more = {"resume": options.pop("resume")} if "resume" in options else {}
        if options["seeds"] is None:
            options["seeds"] = 1 if quick else 3
        if options["seeds"] < 1:
            raise ValueError(f"--seeds {options['seeds']} must be at least 1")
        settings = (
            dataclasses.replace(experiment.QUICK, **options) if quick else experiment.Settings(**options)
        )
        console, aside = Console(soft_wrap=True, highlight=False, markup=False), Console(stderr=True)
        minutes = max(1, round(settings.seeds * settings.steps / experiment.STEPS_PER_MINUTE))
        console.print(f"{settings}, about {minutes} minutes on two cores")
        columns = (
            TextColumn("{task.description:10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=aside, disable=not aside.is_terminal, transient=True) as progress:
            task = progress.add_task("compiling", total=None)

            def tell(description: str, done: int, total: int) -> None:
                progress.update(task, description=description, completed=done, total=total)

            text, files = experiment.run(settings, out, progress=tell, **more)
        console.print(text)
        console.print("wrote", *map(str, files))


@dataclass(frozen=True)
class Dots(Experiment):
    """Learn a bouncing dot from noisy films; watch 25 frames of new ones, and predict the 75 that follow."""

    speed: Literal["fixed", "random"] = "random"
    """One speed for all films, or one for each, from 0.5 to 1."""
    seeds: int | None = None
    """How many repetitions, with films of their own; 3, or 1 if --quick."""
    seed: int = 0
    """Of the first repetition; the others follow it."""
    resume: bool = False
    """Keep what --out has of each seed, and go on from there."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("dots-output")
    """Folder for the table and the pictures."""


@dataclass(frozen=True)
class Ball(Experiment):
    """Learn a ball in a box from films; of new ones, draw twelve frames that are not seen."""

    seeds: int | None = None
    """How many repetitions, with films of their own; 3, or 1 if --quick."""
    seed: int = 0
    """Of the first repetition; the others follow it."""
    resume: bool = False
    """Keep what --out has of each seed, and go on from there."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("ball-output")
    """Folder for the table and the pictures."""


@dataclass(frozen=True)
class Pinwheel(Experiment):
    """Find the five arms of a wheel as clusters, without a label."""

    seeds: int | None = None
    """How many repetitions, with data of their own; 3, or 1 if --quick."""
    seed: int = 100
    """Of the first repetition; the others follow it."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("pinwheel-output")
    """Folder for the table."""


COMMANDS: dict[str, Any] = {"ball": Ball, "dots": Dots, "pinwheel": Pinwheel}
