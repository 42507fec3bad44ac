"""The command line: `python -m chainrule.svae --help` lists the experiments."""

from __future__ import annotations

import sys
from typing import Any


def main(args: list[str] | None = None) -> int:
    """Run one experiment; returns the exit status."""
    try:
        import tyro

        from chainrule.svae.experiments.commands import COMMANDS
    except ModuleNotFoundError as error:
        return _missing(error)
    command: Any = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="python -m chainrule.svae",
        description="Experiments with structured variational autoencoders.",
        args=args,
    )
    try:
        command.run()
    except BrokenPipeError:  # whoever read stdout has had enough, as `head` has
        return 128 + 13  # the status of a program that ends by SIGPIPE
    except ModuleNotFoundError as error:
        return _missing(error)
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; a command that has --resume goes on from what was done", file=sys.stderr)
        return 130
    return 0


def _missing(error: ModuleNotFoundError) -> int:
    print(f"error: {error}: pip install 'chainrule-svae[experiments]' has it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
