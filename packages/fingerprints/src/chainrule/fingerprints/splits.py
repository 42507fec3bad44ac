"""Which rows to learn from, which to choose by, which to report.

One can
- split at random, several times (`random_splits`),
- keep molecules with the same rings together (`scaffold_split`), which asks a model for chemistry that
  it has not seen,
- split as a column of the table says (`column_split`),
- split as the original experiments did (`contiguous_folds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Split(NamedTuple):
    """Row numbers; no row is in two of them."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def random_splits(
    n: int, n_splits: int = 5, *, seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> list[Split]:
    """Independent random splits of n rows; by default 80 / 10 / 10 per cent.

    Raises:
        ValueError: a part would be empty.
    """
    n_validation, n_test = _sizes(n, validation, test)
    splits = []
    for number in range(n_splits):
        order = np.random.default_rng((seed, number)).permutation(n)
        parts = np.split(order, [n - n_validation - n_test, n - n_test])
        splits.append(Split(*(np.sort(part) for part in parts)))
    return splits


def _sizes(n: int, validation: float, test: float) -> tuple[int, int]:
    """How many rows to choose by and to test on."""
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(f"validation={validation} and test={test} must leave something of 1 for training")
    sizes = round(n * validation), round(n * test)
    wanted = [size for size, part in zip(sizes, (validation, test), strict=True) if part > 0]
    if min([*wanted, n - sum(sizes)]) < 1:
        raise ValueError(
            f"{n} rows cannot be split into {1 - validation - test:.0%} training, "
            f"{validation:.0%} validation and {test:.0%} test; each needs a row"
        )
    return sizes


def scaffold_split(
    scaffolds: Sequence[str], *, seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> Split:
    """A split in which no scaffold is in two parts.

    Scaffolds come in random order and fill up the test rows, then the validation rows, then the rest; one
    that does not fit, or has more than half the rows of a part, goes to the training rows.

    Args:
        scaffolds: of every row, such as `scaffold_smiles` gives; rows without rings ('') are each by
            themselves.

    Raises:
        ValueError: a part would be empty.
    """
    n = len(scaffolds)
    n_validation, n_test = _sizes(n, validation, test)
    groups: dict[str, list[int]] = {}
    for row, scaffold in enumerate(scaffolds):
        groups.setdefault(scaffold or f"row {row}", []).append(row)
    names = list(groups)
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for place in np.random.default_rng(seed).permutation(len(names)):
        rows = groups[names[place]]
        for part, size in (("test", n_test), ("validation", n_validation)):
            if len(parts[part]) + len(rows) <= size and len(rows) <= max(1, size // 2):
                parts[part] += rows
                break
        else:
            parts["train"] += rows
    for part, size in (("test", n_test), ("validation", n_validation)):
        if size and not parts[part]:
            raise ValueError(
                f"no scaffold is small enough for the {size} {part} rows of {n}; split at random"
            )
    return Split(**{name: np.sort(np.array(rows, np.int64)) for name, rows in parts.items()})


def column_split(labels: Sequence[str], rows: Sequence[int] | np.ndarray | None = None) -> Split:
    """The split that a column of a table names: train, validation (or val, valid) and test.

    Args:
        labels: the column, of all rows of the table.
        rows: those to split; default: all.

    Raises:
        ValueError: a label is none of these, or no row is for training.
    """
    words = {"train": "train", "training": "train", "test": "test"}
    words |= dict.fromkeys(("validation", "valid", "val"), "validation")
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row in range(len(labels)) if rows is None else np.asarray(rows).tolist():
        label = labels[row].strip().lower()
        if label not in words:
            raise ValueError(
                f"row {row} has the split {labels[row]!r} (the first row is row 0); it must be train, "
                "validation or test"
            )
        parts[words[label]].append(row)
    if not parts["train"]:
        raise ValueError("no row has the split train")
    return Split(**{name: np.array(rows, np.int64) for name, rows in parts.items()})


def contiguous_folds(n: int, n_folds: int = 5) -> list[Split]:
    """The original's protocol: consecutive folds in file order; fold f validates, f + 1 tests.

    The original used the first rows that divide evenly, 1124 of Delaney's 1128; here the folds
    may differ by one row and none is left out.

    Source: Duvenaud, Maclaurin et al., NIPS 2015, experiments; their launch_experiments.py.
    """
    if not 3 <= n_folds <= n:
        raise ValueError(f"n_folds={n_folds} must be between 3 and the number of rows, {n}")
    folds = np.array_split(np.arange(n), n_folds)
    splits = []
    for f in range(n_folds):
        after = (f + 1) % n_folds
        others = [fold for g, fold in enumerate(folds) if g not in (f, after)]
        splits.append(Split(np.concatenate(others), folds[f], folds[after]))
    return splits
