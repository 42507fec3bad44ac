"""The command line: `python -m chainrule.inference --help` lists the experiments."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chainrule.core.experiments.command_line import command_line


def main(args: list[str] | None = None) -> int:
    """Run one experiment; returns the exit status."""

    def load() -> Mapping[str, Any]:
        from chainrule.inference.experiments.commands import COMMANDS

        return COMMANDS

    return command_line(
        "inference",
        "Experiments with Firefly Monte Carlo, early stopping and black-box inference.",
        load,
        args,
    )


if __name__ == "__main__":
    sys.exit(main())
