"""The commands that make models and use them: `train`, `predict` and `explain`.

Their fields are the options, with what `--help` says of them; see `commands`. Nothing heavy is imported
before a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, arg

from chainrule.fingerprints.commands import Column, Reading, Writing, names, option
from chainrule.fingerprints.configs import CHOSEN_MODEL, CHOSEN_TRAINING, Task, TrainOptions, Variant

if TYPE_CHECKING:
    import numpy as np

    from chainrule.fingerprints.molecules import Molecules
    from chainrule.fingerprints.splits import Split


@dataclass(frozen=True)
class Splitting:
    """Which rows to learn from, to choose by, to test on."""

    split: Literal["random", "scaffold", "column"] = "random"
    """scaffold keeps molecules with the same rings together; column reads it from --split-column."""
    split_column: Column = None
    """Column that says train, validation (or val) or test."""
    validation: float = 0.1
    """Fraction of the rows by which the best moment is chosen and the spread calibrated."""
    test: float = 0.1
    """Fraction of the rows on which the model is tested; 0: none."""
    split_seed: int = 0
    """Of random and scaffold."""

    def check(self) -> None:
        """
        Raises:
            ValueError: an option is out of range, or would not be looked at.
        """
        if self.split_seed < 0:
            raise ValueError(f"--split-seed {self.split_seed} must not be negative")
        if self.split != "column":
            if self.split_column:
                raise ValueError(
                    f"--split-column {self.split_column}: only --split column reads it; add --split column, "
                    "or leave it out"
                )
            return
        if not self.split_column:
            raise ValueError("--split column needs --split-column, the name of the column that says it")
        for name in ("validation", "test", "split_seed"):
            if (value := getattr(self, name)) != getattr(Splitting, name):
                raise ValueError(
                    f"{option(name)} {value}: this is of --split random and scaffold, not of --split column; "
                    "leave it out"
                )

    def of(self, molecules: Molecules, rows: np.ndarray, labels: Sequence[str]) -> Split:
        """Split these rows of a table, whose numbers they keep; labels are those of the column."""
        from chainrule.fingerprints import splits
        from chainrule.fingerprints.smiles import scaffold_smiles

        if self.split == "column":
            return splits.column_split(labels, rows)
        fractions = {"seed": self.split_seed, "validation": self.validation, "test": self.test}
        if self.split == "scaffold":
            scaffolds = [scaffold_smiles(molecules.smiles[row]) for row in rows]
            found = splits.scaffold_split(scaffolds, **fractions)
        else:
            found = splits.random_splits(len(rows), 1, **fractions)[0]
        return splits.Split(*(rows[part] for part in found))


def _default(value: object, metavar: str = "INT") -> Any:
    """An option whose default stands elsewhere, so that one knows whether it was given."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {value}, or that of --start-from)")


@dataclass(frozen=True)
class Architecture:
    """What the model is made of, whatever the number of its targets."""

    depth: Annotated[Optional[int], _default(CHOSEN_MODEL.depth)] = None
    """Layers of the fingerprint: the radius of what an atom sees, in bonds."""
    width: Annotated[Optional[int], _default(CHOSEN_MODEL.width)] = None
    """Features of an atom in the hidden layers."""
    length: Annotated[Optional[int], _default(CHOSEN_MODEL.length)] = None
    """Entries of the fingerprint."""
    variant: Annotated[Optional[Variant], _default(CHOSEN_MODEL.variant, "{talk,original,messages}")] = None
    """How atoms take in their neighbours."""
    hidden: Annotated[Optional[int], _default(CHOSEN_MODEL.hidden)] = None
    """Units in the hidden layer of the head; 0 makes it linear."""
    task: Annotated[
        Optional[Task], _default(CHOSEN_MODEL.task, "{regression,mean_variance,classification}")
    ] = None
    """What is predicted. Another task than that of --start-from needs a new head."""

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


_CHOSEN_TRAINING = TrainOptions(**vars(CHOSEN_TRAINING))


@dataclass(frozen=True)
class Train:
    """Train a model on a table of molecules and measured targets; test it; keep it in a folder."""

    input: Annotated[Positional[Path], arg(metavar="IN")]
    """A table of molecules; '-' is stdin."""
    target_columns: Annotated[str, arg(aliases=["-t"])]
    """Columns with the targets, with commas between them; an empty cell was not measured."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder for the model, its metrics and the predictions of the test rows."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    splitting: OmitArgPrefixes[Splitting] = Splitting()
    model: OmitArgPrefixes[Architecture] = Architecture()
    training: OmitArgPrefixes[TrainOptions] = _CHOSEN_TRAINING
    members: Annotated[Optional[int], _default(1)] = None
    """Models in an ensemble, trained as one; 5 are more accurate than one, and know how far they are off."""
    start_from: Optional[Path] = None
    """Folder of a trained model to go on from, whatever it was trained on; it says what the model is made
    of."""
    units: str = ""
    """Of the targets, for messages."""
    on_invalid: Literal["drop", "fail"] = "drop"
    """What becomes of rows that are no molecule, or have no target."""
    resume: bool = False
    """Go on with the training in --out where it was interrupted."""

    @property
    def targets(self) -> tuple[str, ...]:
        return names(self.target_columns, "-t")

    def run(self) -> None:
        from chainrule.fingerprints.train_command import run

        run(self)


@dataclass(frozen=True)
class Predict:
    """Predict for every row of a table; ensembles say how sure they are."""

    input: Annotated[Positional[Path], arg(metavar="IN")]
    """A table of molecules; '-' is stdin."""
    model: Annotated[Path, arg(aliases=["-m"])]
    """Folder of a trained model."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    writing: OmitArgPrefixes[Writing] = field(default_factory=Writing)

    def run(self) -> None:
        from chainrule.fingerprints.predict_command import write_predictions
        from chainrule.fingerprints.prediction import knows_spread
        from chainrule.fingerprints.saved import load_model

        writing = self.writing.arguments()
        model = load_model(self.model)
        chunks = self.reading.chunks(self.input)
        self.writing.report(write_predictions(chunks, model, **writing), self.input)
        if knows_spread(model.model) and model.metrics.get("calibrated") is False:
            columns = ", ".join(f"predicted_{target}_std" for target in model.targets)
            print(f"{columns} is not calibrated: {self.model} had too few validation rows", file=sys.stderr)


@dataclass(frozen=True)
class Explain:
    """Write a page that shows what every atom adds to a prediction, and what the features respond to."""

    input: Annotated[Positional[Path], arg(metavar="IN")]
    """A table of molecules; '-' is stdin."""
    model: Annotated[Path, arg(aliases=["-m"])]
    """Folder of a trained model; with --hidden 0 what atoms add is exact, and features have weights."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("explanation.html")
    """The page: one file that needs nothing else."""
    reading: OmitArgPrefixes[Reading] = field(default_factory=Reading)
    name_column: Column = None
    """Column with the molecules' names; default: row numbers."""
    target: Optional[str] = None
    """Which target, if the model has several; default: the first."""
    max_molecules: int = 20
    """Molecules that are drawn, the first of the table."""
    member: Annotated[Optional[int], arg(metavar="INT", help_behavior_hint="")] = None
    """One model of an ensemble, counted from 0, to be explained by itself; default: all together, as they
    predict."""

    def run(self) -> None:
        from chainrule.fingerprints.model import Ensemble
        from chainrule.fingerprints.page import explain_page
        from chainrule.fingerprints.saved import load_model
        from chainrule.fingerprints.tables import read_table

        saved = load_model(self.model)
        target = self.target or saved.targets[0]
        if target not in saved.targets:
            raise ValueError(f"--target {target}: the model predicts {', '.join(saved.targets)}")
        columns = (self.name_column,) if self.name_column else ()
        table = read_table(self.input, columns=columns, **vars(self.reading))
        model, by = saved.model, ""
        if self.member is not None:
            if not isinstance(model, Ensemble):
                raise ValueError(f"--member {self.member}: {self.model} is one model; leave it out")
            model, by = model.member(self.member), f", by member {self.member} of {saved.members}"
        page = explain_page(
            model,
            table.molecules(),
            self.out,
            names=table.columns[self.name_column] if self.name_column else None,
            quantity=f"{target}{by}",
            units=saved.units,
            target=saved.targets.index(target),
            max_molecules=self.max_molecules,
        )
        print(page)


COMMANDS = {"train": Train, "predict": Predict, "explain": Explain}
