"""The command line: `python -m chainrule.fingerprints --help`."""

from __future__ import annotations

import sys
from typing import Any

import tyro

from chainrule.fingerprints.commands import COMMANDS as TABLE_COMMANDS
from chainrule.fingerprints.model_commands import COMMANDS as MODEL_COMMANDS
from chainrule.fingerprints.study_commands import COMMANDS as STUDY_COMMANDS


def main(args: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    command: Any = tyro.extras.subcommand_cli_from_dict(
        MODEL_COMMANDS | TABLE_COMMANDS | STUDY_COMMANDS,
        prog="python -m chainrule.fingerprints",
        description="Neural and circular molecular fingerprints.",
        args=args,
    )
    try:
        command.run()
    except BrokenPipeError:  # whoever read stdout has had enough, as `head` has
        return 128 + 13  # the status of a program that ends by SIGPIPE
    except (OSError, ValueError, ModuleNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "; --resume goes on from here" if hasattr(command, "resume") else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
