"""The command that performs an experiment. Its fields are the options, with what `--help` says of them.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg


@dataclass(frozen=True)
class Experiment:
    """What all experiments have in common: an experiment's module has FULL and QUICK, settings of its own."""

    module: ClassVar[str]  # beside the one that the class is in; see `console`
    fewest: ClassVar[int] = 2  # seeds; two have a spread

    seeds: int | None = 5
    """How many repetitions the averages and their standard errors are over."""
    seed: int = 0
    """Of the first repetition; the others follow it."""
    quick: bool = False
    """The same in small sizes: under two minutes on two cores."""
    resume: bool = False
    """Keep what --out has of this experiment, and go on from there."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("output")
    """Folder for tables, curves and pictures."""

    def run(self) -> None:
        """Perform it; options that are None are those of the settings."""
        from chainrule.core.experiments.console import perform

        experiment: Any = importlib.import_module(f"..{self.module}", type(self).__module__)
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        quick, out, resume = (options.pop(name) for name in ("quick", "out", "resume"))
        given = {name: value for name, value in options.items() if value is not None}
        settings = dataclasses.replace(experiment.QUICK if quick else experiment.FULL, **given)
        if settings.seeds < self.fewest:
            why = ", to have a spread" if self.fewest > 1 else ""
            raise ValueError(f"--seeds {settings.seeds} must be at least {self.fewest}{why}")
        perform(experiment, settings, out, resume)
