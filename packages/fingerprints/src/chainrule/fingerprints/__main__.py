"""The command line: `python -m chainrule.fingerprints --help`."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
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
        at_home(command).run()
    except BrokenPipeError:  # whoever read stdout has had enough, as `head` has
        return 128 + 13  # the status of a program that ends by SIGPIPE
    except (NotImplementedError, RecursionError):
        raise  # these are RuntimeErrors too, and no fault of the user's
    except (OSError, ValueError, ModuleNotFoundError, FloatingPointError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "; --resume goes on from here" if hasattr(command, "resume") else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0


def at_home(options: Any) -> Any:
    """The same options, the user's home for `~` in every path: a shell leaves it in --out=~/x."""
    expanded: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            expanded[field.name] = at_home(value)
        elif isinstance(value, Path):
            try:
                expanded[field.name] = value.expanduser()
            except RuntimeError:
                raise ValueError(
                    f"{value}: nobody's home has that name; write the path out, or ./{value} for a file"
                ) from None
    return replace(options, **expanded)


if __name__ == "__main__":
    sys.exit(main())
