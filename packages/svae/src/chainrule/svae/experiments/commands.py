"""The commands. Their fields are the options, with what `--help` says of them.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from chainrule.core.experiments import commands


@dataclass(frozen=True)
class Experiment(commands.Experiment):
    """Of few seeds: its tables have the least and the largest, and one seed will do."""

    fewest = 1

    seeds: int | None = None
    """How many repetitions, with data of their own; 3, or 1 if --quick."""
    quick: bool = False
    """The same in small sizes: about a minute, to see that it runs."""


@dataclass(frozen=True)
class Dots(Experiment):
    """Learn a bouncing dot from noisy films; watch 25 frames of new ones, and predict the 75 that follow."""

    module = "dots"

    speed: Literal["fixed", "random"] = "random"
    """One speed for all films, or one for each, from 0.5 to 1."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("dots-output")
    """Folder for the table and the pictures."""


@dataclass(frozen=True)
class Ball(Experiment):
    """Learn a ball in a box from films; of new ones, draw twelve frames that are not seen."""

    module = "ball"

    out: Annotated[Path, arg(aliases=["-o"])] = Path("ball-output")
    """Folder for the table and the pictures."""


@dataclass(frozen=True)
class Pinwheel(Experiment):
    """Find the five arms of a wheel as clusters, without a label."""

    module = "pinwheel"

    seed: int = 100
    """Of the first repetition; the others follow it. Settings were found on others than 100, 101 and 102."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("pinwheel-output")
    """Folder for the table."""


COMMANDS: dict[str, Any] = {"ball": Ball, "dots": Dots, "pinwheel": Pinwheel}
