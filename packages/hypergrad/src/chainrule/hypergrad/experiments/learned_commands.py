"""The commands on what goes into training: `pixel-penalty`, `learned-data`, `preprocessing` and `omniglot`.

Their fields are the options, with what `--help` says of them. Nothing heavy is imported before a command
runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from tyro.conf import arg

from chainrule.hypergrad.experiments.commands import Experiment


@dataclass(frozen=True)
class PixelPenalty(Experiment):
    """Learn a penalty for each weight of a logistic regression; compare with the best single one."""

    module = "pixel_penalty"

    data: Literal["digits", "mnist"] = "mnist"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28; 10,000 if $CHAINRULE_DATA has them."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("pixel-penalty-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class LearnedData(Experiment):
    """Learn a training set of one image for each class, from blank ones; compare with real images."""

    module = "learned_data"

    data: Literal["digits", "mnist"] = "mnist"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28; 10,000 if $CHAINRULE_DATA has them."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("learned-data-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Preprocessing(Experiment):
    """Learn blur, gains, random shifts and noise of the images; compare with the best single one of these."""

    module = "preprocessing"

    data: Literal["digits", "mnist"] = "digits"
    """digits: 1,797 images of 8 x 8 pixels. mnist: 5,000 of 28 x 28; 10,000 if $CHAINRULE_DATA has them."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("preprocessing-output")
    """Folder for tables, curves and pictures."""


@dataclass(frozen=True)
class Omniglot(Experiment):
    """Learn which layers of which alphabets' networks share weights; compare with separate and tied ones."""

    module = "omniglot"

    path: Optional[Path] = None
    """images_background_small1.zip of brendenlake/omniglot; default: that in $CHAINRULE_DATA/omniglot."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("omniglot-output")
    """Folder for tables, curves and pictures."""


COMMANDS: dict[str, Any] = {
    "pixel-penalty": PixelPenalty,
    "learned-data": LearnedData,
    "preprocessing": Preprocessing,
    "omniglot": Omniglot,
}
