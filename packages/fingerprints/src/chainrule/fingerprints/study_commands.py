"""The commands that study settings and methods: `table` and `tune`.

Their fields are the options, with what `--help` says of them; see `commands`. Nothing heavy is imported
before a command runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, arg

from chainrule.fingerprints.commands import Reading, names
from chainrule.fingerprints.model_commands import Splitting


@dataclass(frozen=True)
class Table:
    """Run the talk's table: circular and neural fingerprints on its three sets and five folds."""

    data: Literal["all", "delaney", "malaria", "cep"] = "all"
    """delaney: solubility. malaria: drug efficacy. cep: photovoltaic efficiency."""
    data_dir: Optional[Path] = None
    """Folder with delaney/, malaria/ and cep/; default: $CHAINRULE_DATA, else they are downloaded."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("table-output")
    """Where the table is written, as CSV and Markdown, and the settings that were used."""
    folds: int = 5
    """How many of the five."""
    seed: int = 0
    """Of the first weights and the order of the batches."""
    steps: Optional[int] = None
    """At most so many training steps; with --trials, those of the longest trainings."""
    settings: Optional[Path] = None
    """A file such as --out gets; default: those shipped, which the folds' validation rows chose."""
    trials: int = 0
    """Choose settings anew, in each fold, by a search of so many trials on its validation rows."""
    messages: bool = False
    """A sixth row, which the talk does not have: the variant "messages" of the neural fingerprint."""
    processes: int = 2
    """How many work at a time, each on methods of one fold."""
    resume: bool = False
    """Keep what --out has of this run, and go on from there."""

    def run(self) -> None:
        from chainrule.fingerprints.talk_table import run

        run(**vars(self))


@dataclass(frozen=True)
class Tune:
    """Search for good settings of a model; only validation rows decide."""

    input: Annotated[Positional[Path], arg(metavar="IN")]
    """A table of molecules; '-' is stdin."""
    target_columns: Annotated[str, arg(aliases=["-t"])]
    """Columns with the targets, with commas between them; an empty cell was not measured."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder for the trials and the best settings."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    splitting: OmitArgPrefixes[Splitting] = field(default_factory=Splitting)
    trials: int = 20
    """Settings that are tried; all get a quarter of the steps, the best third half, the best ninth all."""
    steps: int = 1000
    """Of the longest trainings."""
    batch_size: int = 100
    """Molecules per step."""
    variants: str = "talk,messages"
    """Of the network, to draw from: talk, original, messages, with commas between them."""
    task: Literal["regression", "mean_variance", "classification"] = "regression"
    """What is predicted."""
    linear: bool = False
    """A head without a hidden layer."""
    seed: int = 0
    """Of the draws, the first weights and the order of the batches."""
    on_invalid: Literal["drop", "fail"] = "drop"
    """What becomes of rows that are no molecule, or have no target."""
    resume: bool = False
    """Keep the trials that --out has of this search, and go on from there."""

    @property
    def targets(self) -> tuple[str, ...]:
        return names(self.target_columns, "-t")

    def run(self) -> None:
        from chainrule.fingerprints.tune_command import run

        run(self)


COMMANDS: dict[str, Any] = {"table": Table, "tune": Tune}
