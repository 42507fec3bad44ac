"""One seed after the other, and a table with the least and the largest of each measure.

One can
- perform an experiment for each seed, and have its table (`repeat`),
- have the table of what was found (`table`),
- say how long it will take (`about`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcome, Outcomes
from chainrule.core.experiments.report import Report
from chainrule.core.experiments.whole_files import write_whole

Measures = dict[str, Any]  # numbers by their names; words are shown as they are
Once = Callable[[str, Callable[[], Measures]], Outcome]  # what a method came to, computed if it is not known
Steps = Callable[[str, int], None]  # is told what is being done, and how many steps of it are


def repeat(
    one: Callable[[Any, int, Path, Once, Steps], None],
    settings: Any,
    out: Path,
    *,
    resume: bool,
    progress: Tell,
    **words: Any,
) -> Report:
    """Do one seed after the other, and write table.md.

    Args:
        one: does a seed; takes settings, seed, folder, and two functions: one that keeps a method's measures,
            one that is told of progress. Its pictures are seed-*.png and seed-*.gif.
        settings: a dataclass with the number of seeds, the first of them, and the steps of each.
        out: the folder.
        resume: go on with what the folder holds.
        progress: is told how far all is.
        words: title, measures, below: as for `table`.

    Raises:
        ValueError: to be resumed, but with other settings.
    """
    identity = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("seeds", "seed")}
    outcomes = Outcomes(out, identity, resume=resume)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    for number, seed in enumerate(seeds):

        def tell(what: str, done: int, number: int = number, seed: int = seed) -> None:
            done = number * settings.steps + done
            progress(f"seed {seed}, {what}", done, settings.seeds * settings.steps)

        def once(method: str, compute: Callable[[], Measures], seed: int = seed) -> Outcome:
            return outcomes.once(method, seed, compute)

        one(settings, seed, out, once, tell)
    text = table(found=[outcome for outcome in outcomes if outcome.seed in seeds], **words)
    pictures = [file for seed in seeds for file in sorted(out.glob(f"seed-{seed}.*"))]
    return Report(text, [write_whole(out / "table.md", text + "\n"), *pictures])


def about(settings: Any, steps_per_minute: int) -> str:
    """How long it will take."""
    minutes = max(1, round(settings.seeds * settings.steps / steps_per_minute))
    return f"about {minutes} minute{'s' * (minutes > 1)} on two cores"


def table(title: str, found: Iterable[Outcome], measures: Sequence[str], below: str) -> str:
    """In Markdown: a row for each method, the mean, least and largest over seeds in each column.

    Args:
        title: above it.
        found: what each method came to, with each seed.
        measures: the columns.
        below: what has to be said of it.
    """
    found = [*found]
    lines = [f"**{title}**", "", "| | " + " | ".join(measures) + " |", "|---" * (1 + len(measures)) + "|"]
    for method in dict.fromkeys(outcome.method for outcome in found):
        rows = [outcome.measures for outcome in found if outcome.method == method]
        cells = [_cell([row[measure] for row in rows if measure in row]) for measure in measures]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    seeds = len({outcome.seed for outcome in found})
    spread = (
        f"Mean and, in brackets, the least and the largest of {seeds} seeds." if seeds > 1 else "One seed."
    )
    return "\n".join([*lines, "", f"{spread} {below}"])


def _cell(values: Sequence[Any]) -> str:
    if not values or isinstance(values[0], str):
        return ", ".join(dict.fromkeys(values))
    digits = lambda x: f"{x:.2g}" if abs(x) < 0.1 else f"{x:.3g}"
    spread = f" ({digits(min(values))} to {digits(max(values))})" if len(values) > 1 else ""
    return digits(float(np.mean(values))) + spread
