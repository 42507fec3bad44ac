"""Hyperparameters of the comparison's methods as plain data: read, kept, and those of the talk's table.

One can
- describe a method's (`Linear`, `CircularNet`, `Neural`),
- read them from a file and write them (`read_settings`, `write_settings`),
- take those that the validation rows of the talk's folds chose (`shipped_settings`).

A file is JSON: data set -> method -> a list, with one entry for all folds or one for each. What an entry
leaves out has the default of its dataclass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.whole_files import write_whole

Features = Literal["bits", "counts", "log counts"]  # of a circular fingerprint; log counts: log(1 + count)


@dataclass(frozen=True)
class Linear:
    """Ridge regression on a circular fingerprint."""

    radius: int  # in bonds
    features: Features
    penalty: float  # on the squared weights, the targets being in their units

    def __str__(self) -> str:
        return f"radius {self.radius}, {self.features}, penalty {self.penalty:.3g}"


@dataclass(frozen=True)
class CircularNet:
    """A net on a circular fingerprint."""

    radius: int  # in bonds
    features: Features
    hidden: int  # units of the net
    training: TrainConfig

    def __str__(self) -> str:
        return f"radius {self.radius}, {self.features}, hidden {self.hidden}, {_trained(self.training)}"


@dataclass(frozen=True)
class Neural:
    """A head on a neural fingerprint."""

    model: ModelConfig
    training: TrainConfig

    def __str__(self) -> str:
        m = self.model
        return f"{m.variant}, depth {m.depth}, width {m.width}, length {m.length}, {_trained(self.training)}"


Settings = Linear | CircularNet | Neural
OfFolds = Sequence[Settings]  # one for all, or one for each


def read_settings(path: str | Path) -> dict[str, dict[str, OfFolds]]:
    """Data set -> method -> its settings, for all folds or for each.

    Raises:
        ValueError: the file is no such JSON, or names a setting that does not exist.
        FileNotFoundError: there is no such file.
    """
    return _parse(Path(path).expanduser().read_text(), str(path))


def shipped_settings() -> dict[str, dict[str, OfFolds]]:
    """What this package was tuned to, on the validation rows of the talk's folds."""
    file = resources.files("chainrule.fingerprints") / "settings.json"
    return _parse(file.read_text(), file.name)


def write_settings(path: str | Path, settings: Mapping[str, Mapping[str, OfFolds]]) -> Path:
    """Keep them for `read_settings`."""
    content = {
        name: {method: [asdict(one) for one in entries] for method, entries in methods.items()}
        for name, methods in settings.items()
    }
    path = Path(path).expanduser()
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def of_fold(entries: OfFolds, fold: int) -> Settings:
    """
    Raises:
        ValueError: there are several entries, but none for this fold.
    """
    if len(entries) > 1 and fold >= len(entries):
        raise ValueError(f"there are settings for {len(entries)} folds, none for fold {fold + 1}")
    return entries[fold if len(entries) > 1 else 0]


def settings_of(entry: Mapping[str, Any]) -> Settings:
    """The settings that `asdict` gave, or a part of them.

    Raises:
        ValueError: it has a key that no setting has, or lacks one that has no default.
    """
    entry = dict(entry)
    try:
        if "penalty" in entry:
            return Linear(**entry)
        training = TrainConfig(**entry.pop("training", {}))
        if "radius" in entry:
            return CircularNet(**entry, training=training)
        return Neural(ModelConfig(**entry.pop("model", {})), training, **entry)
    except TypeError as error:
        known = (Linear, CircularNet, Neural, ModelConfig, TrainConfig)
        names = ", ".join(dict.fromkeys(field.name for kind in known for field in fields(kind)))
        raise ValueError(f"settings {entry}: {error}; the names of settings are {names}") from None


def _parse(text: str, source: str) -> dict[str, dict[str, OfFolds]]:
    try:
        return {
            name: {method: [settings_of(entry) for entry in entries] for method, entries in methods.items()}
            for name, methods in json.loads(text).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{source} holds no settings (data set -> method -> list): {error}") from None


def _trained(training: TrainConfig) -> str:
    decay = f", weight decay {training.weight_decay:.2g}" if training.weight_decay else ""
    rate = f"learning rate {training.learning_rate:.2g}"
    return f"{training.steps} steps, {rate}{decay}, batches of {training.batch_size}"
