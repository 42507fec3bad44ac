"""What was measured with each seed: kept in a file as soon as it is known, and told in a table.

One can
- have a method's measures from the file, or computed and written there (`Results.once`),
- have the table of all methods over the seeds (`table`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Tell = Callable[[str, int, int], None]  # what is being done, how much of it, of how much
Measures = dict[str, Any]  # numbers by their names; words are shown as they are


class Results:
    """The measures of one seed, in seed-N.json."""

    def __init__(self, out: Path, seed: int, about: Mapping[str, Any], *, resume: bool):
        """
        Args:
            out: the folder.
            seed: whose.
            about: what the measures depend on besides, in JSON's types: the settings.
            resume: keep what the file has, if there is one.

        Raises:
            ValueError: to be resumed, but with other settings.
        """
        self._file, self._about = out / f"seed-{seed}.json", json.loads(json.dumps(about))
        self.rows: dict[str, Measures] = {}
        if resume and self._file.exists():
            kept = json.loads(self._file.read_text())
            if kept["settings"] != self._about:
                raise ValueError(
                    f"{self._file} is of {kept['settings']}, not of {self._about}: give another --out, or "
                    "leave out --resume to replace it"
                )
            self.rows = kept["rows"]

    def once(self, method: str, compute: Callable[[], Measures]) -> Measures:
        """What the file has, or else what is computed now, which it has from then on."""
        if method not in self.rows:
            self.rows[method] = compute()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps({"settings": self._about, "rows": self.rows}, indent=1) + "\n")
            os.replace(part, self._file)  # whole, or not at all
        return self.rows[method]


def table(title: str, found: Sequence[Mapping[str, Measures]], measures: Sequence[str], below: str) -> str:
    """In Markdown: a row for each method, the mean, least and largest over seeds in each column.

    Args:
        title: above it.
        found: measures of each method, for each seed.
        measures: the columns.
        below: what has to be said of it.
    """
    lines = [f"**{title}**", "", "| | " + " | ".join(measures) + " |", "|---" * (1 + len(measures)) + "|"]
    for name in found[0]:
        cells = [_cell([rows[name][m] for rows in found if m in rows[name]]) for m in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    spread = f"Mean and, in brackets, the least and the largest of {len(found)} seeds."
    return "\n".join([*lines, "", f"{spread} {below}"])


def _cell(values: Sequence[Any]) -> str:
    if not values or isinstance(values[0], str):
        return ", ".join(dict.fromkeys(values))
    digits = lambda x: f"{x:.2g}" if abs(x) < 0.1 else f"{x:.3g}"
    spread = f" ({digits(min(values))} to {digits(max(values))})" if len(values) > 1 else ""
    return digits(float(np.mean(values))) + spread
