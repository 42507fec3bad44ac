"""The commands on Firefly Monte Carlo, early stopping, and black-box variational inference.

Their fields are the options, with what `--help` says of them. Nothing heavy is imported before a
command runs.
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

    module: ClassVar[str]  # in the folder of this one; see `console`

    seeds: int = 5
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
        from chainrule.inference.experiments.console import perform

        experiment = importlib.import_module(f"chainrule.inference.experiments.{self.module}")
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        quick, out, resume = (options.pop(name) for name in ("quick", "out", "resume"))
        settings = dataclasses.replace(experiment.QUICK if quick else experiment.FULL, **options)
        perform(experiment, settings, out, resume)


@dataclass(frozen=True)
class Stopping(Experiment):
    """Stop training where the bound of the evidence peaks; compare with the best test error on the way."""

    module = "stopping"

    rows: int = 50
    """Houses of Boston to train on, of 506; the others are to test by."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("stopping-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Widths(Experiment):
    """Choose the width of a hidden layer by the bound; compare with test likelihood and test error."""

    module = "widths"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("widths-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Thresholds(Experiment):
    """Choose by the bound which small gradients are left out; compare with the test likelihood."""

    module = "thresholds"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("thresholds-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Ensemble(Experiment):
    """Predict by the mean of five networks, at the peak of the bound and at the end; compare with one."""

    module = "ensemble"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("ensemble-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Funnel(Experiment):
    """Draw how gradient descent, and black-box fits, cover a funnel in two dimensions."""

    module = "funnel"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("funnel-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Firefly(Experiment):
    """Count the likelihoods that an effective draw takes, with all data and with few: the paper's table."""

    module = "firefly"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("firefly-output")
    """Folder for tables."""


COMMANDS: dict[str, Any] = {
    "firefly": Firefly,
    "stopping": Stopping,
    "widths": Widths,
    "thresholds": Thresholds,
    "ensemble": Ensemble,
    "funnel": Funnel,
}
