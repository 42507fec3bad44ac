"""The command line of a package.

One can
- have its commands read from the words, and the one that was named run (`command_line`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any


def command_line(
    package: str,
    description: str,
    load: Callable[[], Mapping[str, Any]],
    words: list[str] | None,
    *,
    extra: str | None = "experiments",
) -> int:
    """Run one command; returns the exit status.

    Args:
        package: as in `python -m chainrule.package`.
        description: above the list of commands.
        load: imports the commands, dataclasses with a method run, and returns them by their names.
        words: what follows on the command line; what the process was started with if None.
        extra: of the package, which has what commands import beyond the package's own requirements.

    A mistake is told in one line: what a command raises as OSError, ValueError, RuntimeError or
    FloatingPointError, and a module that is not installed.
    """
    command: Any = None
    try:
        import tyro

        command = tyro.extras.subcommand_cli_from_dict(
            dict(load()), prog=f"python -m chainrule.{package}", description=description, args=words
        )
        at_home(command).run()
    except BrokenPipeError:  # whoever read stdout has had enough, as `head` has
        return 128 + 13  # the status of a program that ends by SIGPIPE
    except ModuleNotFoundError as error:
        where = f": pip install 'chainrule-{package}[{extra}]' has it" if extra else ""
        print(f"error: {error}{where}", file=sys.stderr)
        return 1
    except (NotImplementedError, RecursionError):
        raise  # these are RuntimeErrors too, and no fault of the user's
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
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
