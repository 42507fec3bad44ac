"""What an experiment found: means over seeds with their standard errors, as text, Markdown and CSV.

One can
- average each measure of each method over the seeds (`averages`),
- compare two methods seed by seed (`difference`), and see whether they are apart beyond the spread,
- write both as table.md and table.csv (`write_report`).

Two methods that see the same data, initial weights and batches vary together; the spread of their differences
is then much smaller than that of each, and is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chainrule.core.experiments.outcomes import Outcome
from chainrule.core.experiments.whole_files import write_rows, write_whole

APART = 2.0  # standard errors from zero on, a difference is called one: about one chance in 20 otherwise


class Average(NamedTuple):
    """A mean over seeds."""

    mean: float
    standard_error: float  # of the mean; NaN of a single seed
    seeds: int

    @property
    def apart(self) -> bool:
        """Whether it is different from zero, beyond the spread."""
        return abs(self.mean) > APART * self.standard_error

    def __str__(self) -> str:
        if not (math.isfinite(self.standard_error) and self.standard_error > 0):
            return f"{self.mean:.4g}"
        digits = min(max(1 - math.floor(math.log10(self.standard_error)), 0), 6)  # two of the standard error
        return f"{self.mean:.{digits}f} ± {self.standard_error:.{digits}f}"


class Report(NamedTuple):
    """What the command line shows."""

    text: str  # the table, in Markdown
    files: list[Path]  # what was written


def averages(outcomes: Iterable[Outcome], measure: str) -> dict[str, Average]:
    """The mean of a measure over the seeds, by method; without methods that do not have it."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if measure in outcome.measures:
            found.setdefault(outcome.method, []).append(float(outcome.measures[measure]))
    return {method: _average(values) for method, values in found.items()}


def difference(outcomes: Iterable[Outcome], method: str, other: str, measure: str) -> Average:
    """The mean of method - other, over the seeds that both have."""
    values: dict[str, dict[int, float]] = {method: {}, other: {}}
    for outcome in outcomes:
        if outcome.method in values and measure in outcome.measures:
            values[outcome.method][outcome.seed] = float(outcome.measures[measure])
    shared = sorted(values[method].keys() & values[other].keys())
    if not shared:
        raise ValueError(f"{method!r} and {other!r} share no seed with the measure {measure!r}")
    return _average([values[method][seed] - values[other][seed] for seed in shared])


def write_report(
    folder: Path,
    title: str,
    outcomes: Iterable[Outcome],
    units: Mapping[str, str],
    *,
    differences: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> Report:
    """Write table.md and table.csv.

    Args:
        outcomes: of all methods and seeds; methods get their rows in the order of these.
        units: of the measures that are shown, each a column; "" where there is none.
        differences: pairs of methods, each a row: the first minus the second, seed by seed.
        notes: sentences below the table.
        files: what else was written, to be told along with the two.
    """
    outcomes = [*outcomes]
    by_measure = {measure: averages(outcomes, measure) for measure in units}
    rows: dict[str, dict[str, Average]] = {outcome.method: {} for outcome in outcomes}
    rows = {m: {k: found[m] for k, found in by_measure.items() if m in found} for m in rows}
    for method, other in differences:
        name = f"{method} − {other}"
        rows[name] = {measure: difference(outcomes, method, other, measure) for measure in units}
    rows = {name: cells for name, cells in rows.items() if cells}
    heads = [f"{measure} ({unit})" if unit else measure for measure, unit in units.items()]
    table = [[name, *(str(cells.get(measure, "")) for measure in units)] for name, cells in rows.items()]
    seeds = max(average.seeds for cells in rows.values() for average in cells.values())
    below = [f"Mean ± standard error over {seeds} seeds; differences are taken seed by seed.", *notes]
    text = "\n".join([f"**{title}**", "", *_markdown(["", *heads], table), "", *below])
    names = ("method", "measure", "unit", "mean", "standard error", "seeds")
    lines = [(name, measure, units[measure], *cell) for name in rows for measure, cell in rows[name].items()]
    written = [write_whole(folder / "table.md", text + "\n"), write_rows(folder / "table.csv", names, lines)]
    return Report(text, [*written, *files])


def _average(values: Sequence[float]) -> Average:
    with np.errstate(invalid="ignore"):  # of an infinite value there is no spread
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Average(float(np.mean(values)), float(error), len(values))


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose columns are aligned in plain text too."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"
    return [line(heads), line(["-" * width for width in widths]), *map(line, rows)]
