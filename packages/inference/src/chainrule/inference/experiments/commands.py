"""The commands on Firefly Monte Carlo, early stopping, and black-box variational inference.

Their fields are the options, with what `--help` says of them. Nothing heavy is imported before a
command runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from chainrule.core.experiments.commands import Experiment


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
