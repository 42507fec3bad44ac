"""How far a command has come: a bar on a terminal, nothing elsewhere.

One can
- show it while something is done (`bar`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def bar(console: Console, total: int, description: str = "") -> Iterator[Callable[..., None]]:
    """A function that moves the bar: by `advance`, to `completed`, under another `description`."""
    progress = Progress(
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with progress:
        yield partial(progress.update, progress.add_task(description, total=total))
