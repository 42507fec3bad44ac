"""The command line: `python -m chainrule.fingerprints --help`."""

from __future__ import annotations

import sys

from chainrule.core.experiments.command_line import command_line
from chainrule.fingerprints.commands import COMMANDS as TABLE_COMMANDS
from chainrule.fingerprints.model_commands import COMMANDS as MODEL_COMMANDS
from chainrule.fingerprints.study_commands import COMMANDS as STUDY_COMMANDS


def main(args: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    commands = MODEL_COMMANDS | TABLE_COMMANDS | STUDY_COMMANDS
    about = "Neural and circular molecular fingerprints."
    return command_line("fingerprints", about, lambda: commands, args, extra=None)


if __name__ == "__main__":
    sys.exit(main())
