"""What each method came to with each seed, in a file that a killed experiment finds again.

One can
- open the file, to go on with it or to begin anew (`Outcomes`),
- have an outcome from it, computed only if it is not there (`once`),
- have a folder for the state of a `fit` that goes on likewise (`folder`).

    outcomes = Outcomes(out, dataclasses.asdict(settings), resume=resume)
    for seed in range(5):
        fitted = fit(..., folder=outcomes.folder(f"learned-{seed}"))
        outcomes.once("learned", seed, lambda: {"test NLL": ..., "curve": [...]})
    report = write_report(out, outcomes, ...)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chainrule.core.experiments.whole_files import read_json_lines, write_whole

NAME = "outcomes.jsonl"


class Outcome(NamedTuple):
    """What one method came to with one seed."""

    method: str
    seed: int
    measures: dict[str, Any]  # numbers by their names, for tables; lists of numbers, for curves


class Outcomes:
    """The outcomes of an experiment, one line of JSON each, in the order in which they were computed."""

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, resume: bool = False):
        """
        Args:
            folder: where the file outcomes.jsonl is; made if need be.
            identity: what outcomes depend on but for method and seed, in JSON's types: the settings.
            resume: go on with what the folder holds, if anything; else begin anew.

        Raises:
            ValueError: to be resumed, but of another experiment.
        """
        self._folder = Path(folder)
        self._file = self._folder / NAME
        self._resume = resume
        self._found: dict[tuple[str, int], Outcome] = {}
        first = json.dumps(dict(identity))
        lines = read_json_lines(self._file) if resume and self._file.exists() else []
        if lines and json.dumps(lines[0]) != first:
            raise ValueError(
                f"{self._file} holds outcomes of {json.dumps(lines[0])}, these would be of {first}: give "
                "another --out, or leave out --resume (resume=False) to replace them"
            )
        for line in lines[1:]:
            outcome = Outcome(**line)
            self._found[outcome.method, outcome.seed] = outcome
        kept = "".join(json.dumps(line) + "\n" for line in [dict(identity), *lines[1:]])
        write_whole(self._file, kept)

    def once(self, method: str, seed: int, compute: Callable[[], Mapping[str, Any]]) -> Outcome:
        """The outcome that the file holds, or else the one that is computed now, which it holds from then on.

        Args:
            compute: its measures, numbers or arrays, by their names.
        """
        if (method, seed) not in self._found:
            measures = {name: np.asarray(value).tolist() for name, value in compute().items()}
            outcome = Outcome(method, seed, measures)
            with self._file.open("a") as file:
                file.write(json.dumps(outcome._asdict()) + "\n")
            self._found[method, seed] = outcome
        return self._found[method, seed]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._found.values())

    def folder(self, name: str) -> Path:
        """A folder inside, for the state of a `fit`: emptied, unless the experiment is resumed."""
        folder = self._folder / name
        if not self._resume:
            shutil.rmtree(folder, ignore_errors=True)
        return folder
