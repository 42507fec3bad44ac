"""The commands, and those on training itself: `schedules`, `init-scales` and `chaos`.

Their fields are the options, with what `--help` says of them. Nothing heavy is imported before a
command runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from chainrule.core.experiments.commands import Experiment


@dataclass(frozen=True)
class Schedules(Experiment):
    """Learn the learning rate and momentum of each step and layer; compare with the best fixed ones."""

    module = "schedules"

    data: Literal["digits", "mnist"] = "mnist"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28, or 10,000 of $CHAINRULE_DATA/mnist."""
    objective: Literal["training", "validation"] = "training"
    """What the last weights are judged by while schedules are learned: the loss on these images."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("schedules-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class InitScales(Experiment):
    """Learn the scale of each layer's initial weights; compare with usual scales."""

    module = "init_scales"

    data: Literal["digits", "mnist"] = "mnist"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28, or 10,000 of $CHAINRULE_DATA/mnist."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("init-scales-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Chaos(Experiment):
    """Find the learning rate from which on training is chaotic, and its derivative of no use."""

    module = "chaos"

    data: Literal["digits", "mnist"] = "mnist"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28, or 10,000 of $CHAINRULE_DATA/mnist."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("chaos-output")
    """Folder for tables, curves and pictures."""


COMMANDS: dict[str, Any] = {"schedules": Schedules, "init-scales": InitScales, "chaos": Chaos}
