"""An experiment on a terminal: what will happen, how far it has come, what it found.

One can
- perform one (`perform`).

An experiment is a module with two settings, FULL and QUICK, and two functions: `plan(settings)` says what
will happen and about how long it takes; `run(settings, out, resume=..., progress=...)` does it and returns a
Report; progress is told what is being done, and how many of how many are done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[str, int, int], None]  # what is being done, how many of it are done, of how many


def perform(experiment: Any, settings: Any, out: Path, resume: bool) -> None:
    """Run it, with the plan, the table and the files' names on stdout, and a bar on stderr if a terminal."""
    console, aside = Console(soft_wrap=True, highlight=False, markup=False), Console(stderr=True)
    console.print(experiment.plan(settings))
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=aside, disable=not aside.is_terminal, transient=True) as progress:
        task = progress.add_task("compiling", total=None)

        def tell(description: str, done: int, total: int) -> None:
            progress.update(task, description=description, completed=done, total=total)

        report = experiment.run(settings, out, resume=resume, progress=tell)
    console.print(report.text)
    console.print("wrote", *map(str, report.files))


def silent(description: str, done: int, total: int) -> None:
    """The progress of an experiment that nobody watches."""
