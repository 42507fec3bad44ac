"""Which rows to learn from, which to choose by, which to report.

One can
- split at random, several times (`random_splits`),
- split as the original experiments did (`contiguous_folds`).
"""

from __future__ import annotations

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
    n_validation, n_test = round(n * validation), round(n * test)
    if min(n_validation, n_test, n - n_validation - n_test) < 1:
        raise ValueError(
            f"{n} rows cannot be split into {1 - validation - test:.0%} training, "
            f"{validation:.0%} validation and {test:.0%} test; each needs a row"
        )
    splits = []
    for number in range(n_splits):
        order = np.random.default_rng((seed, number)).permutation(n)
        parts = np.split(order, [n - n_validation - n_test, n - n_test])
        splits.append(Split(*(np.sort(part) for part in parts)))
    return splits


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
