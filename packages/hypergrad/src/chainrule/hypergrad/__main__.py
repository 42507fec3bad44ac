"""The command line: `python -m chainrule.hypergrad --help` lists the experiments."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chainrule.core.experiments.command_line import command_line


def main(args: list[str] | None = None) -> int:
    """Run one experiment; returns the exit status."""

    def load() -> Mapping[str, Any]:
        from chainrule.hypergrad.experiments.commands import COMMANDS
        from chainrule.hypergrad.experiments.learned_commands import COMMANDS as LEARNED_COMMANDS

        return COMMANDS | LEARNED_COMMANDS

    return command_line("hypergrad", "Experiments with gradients through whole training runs.", load, args)


if __name__ == "__main__":
    sys.exit(main())
