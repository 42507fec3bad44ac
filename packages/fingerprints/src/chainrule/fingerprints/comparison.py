"""The talk's comparison: five ways to predict a property, on the same splits, chosen and tested alike.

One can
- run methods on every split (`compare`), and average what comes out (`summarize`).

Each method makes its choices on the validation rows, or takes settings that were chosen so before; fits on
the training rows, and is tested once. With `refit` the chosen model is fitted again on training and
validation rows together before the test, as the original did.

Source: talk, "Predictive performance"; Duvenaud, Maclaurin et al., NIPS 2015, table 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chainrule.fingerprints.datasets import Dataset
from chainrule.fingerprints.methods import DEMO_METHODS, NEURAL, Methods
from chainrule.fingerprints.model import PropertyModel
from chainrule.fingerprints.parallel import ordered_map
from chainrule.fingerprints.published import PUBLISHED, Published
from chainrule.fingerprints.settings import OfFolds, Settings
from chainrule.fingerprints.splits import Split


class Outcome(NamedTuple):
    """One method on one split."""

    method: str
    split: int
    test_mse: float  # in squared units of the target
    choice: str  # what validation chose, in words
    rows: np.ndarray  # the test rows
    predictions: np.ndarray  # for them
    model: PropertyModel | None  # if it is a neural fingerprint
    settings: Settings | None = None  # what validation chose


class Row(NamedTuple):
    """One method over all splits; +- is the standard error of the mean over the splits."""

    method: str
    mse: float
    mse_error: float
    rmse: float  # mean over the splits of each split's root mean squared error
    rmse_error: float
    published: Published | None


def compare(
    dataset: Dataset,
    splits: Sequence[Split],
    *,
    methods: Sequence[str] = DEMO_METHODS,
    refit: bool = False,
    seed: int = 0,
    steps: int | None = None,
    settings: Mapping[str, OfFolds] | None = None,
    trials: int = 0,
    done: Collection[tuple[str, int]] = (),
    processes: int = 1,
    run_dir: str | Path | None = None,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Every method on every split, one outcome after the other as they are done.

    Args:
        methods: of `DEMO_METHODS` and `TALK_METHODS`.
        refit: fit the chosen model again on training and validation rows before the test. If its settings
            have no patience, all their steps are done, and nothing has to be fitted before.
        seed: of the first split's weights and batch order; the k-th split takes `seed + k`.
        steps: fewer training steps than the methods' own, for a quick look.
        settings: of methods, chosen on validation rows before; the others choose among a few.
        trials: choose anew instead, by a search of so many trials on the validation rows of each split; see
            `tune`. `settings` then say how long a training is, and how large its batches are.
        done: methods and numbers of splits to be left out.
        processes: how many work at a time, each on a neural method and a split, or on all other methods and
            a split, which share their features; outcomes then come without their models, those of a split in
            the order of their cost. They round otherwise with another number of threads, which can decide
            where early stopping stops: errors then differ by a few hundredths.
        run_dir, resume: where every neural training keeps its run, see `train`.

    Raises:
        ValueError: a method is unknown, or has settings of another one; or `processes` is less than 1.
        RuntimeError: a process died.
    """
    runner = Methods(dataset, refit, steps, settings or {}, trials, run_dir, resume)
    for name in (*methods, *(settings or {})):
        if name not in runner.by_name:
            raise ValueError(f"method {name!r} is unknown; choose of {', '.join(runner.by_name)}")
    undone = [[name for name in methods if (name, number) not in done] for number in range(len(splits))]
    left = [(number, splits[number], names) for number, names in enumerate(undone) if names]
    if processes == 1:
        for task in left:
            yield from _outcomes(runner, seed, *task)
    else:
        parts = [(number, split, part) for number, split, names in left for part in _parts(names)]
        for outcomes in ordered_map(partial(_all_outcomes, runner, seed), parts, processes=processes):
            yield from outcomes


def _parts(methods: Sequence[str]) -> list[list[str]]:
    """What can be done apart, the longest first, so that no process waits long for the last one."""
    others = [name for name in methods if name not in NEURAL]
    return [[name] for name in reversed(methods) if name in NEURAL] + [others] * bool(others)


def _outcomes(
    runner: Methods, seed: int, number: int, split: Split, methods: Sequence[str]
) -> Iterator[Outcome]:
    """Of some methods on one split."""
    for name in methods:
        answer = runner.by_name[name](name, split, number, seed + number)
        error = float(np.mean((answer.predictions - runner.dataset.targets[split.test]) ** 2))
        choice = "" if answer.settings is None else str(answer.settings)
        yield Outcome(
            name, number, error, choice, split.test, answer.predictions, answer.model, answer.settings
        )


def _all_outcomes(runner: Methods, seed: int, task: tuple[int, Split, list[str]]) -> list[Outcome]:
    """In a process of its own."""
    return [outcome._replace(model=None) for outcome in _outcomes(runner, seed, *task)]


def summarize(
    outcomes: Sequence[Outcome], published: Mapping[str, Published] = PUBLISHED["delaney"]
) -> list[Row]:
    """Mean and standard error over the splits, a row per method in order of appearance."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        mse = np.array([o.test_mse for o in outcomes if o.method == method])
        (mean, error), (root, root_error) = _mean_and_error(mse), _mean_and_error(np.sqrt(mse))
        rows.append(Row(method, mean, error, root, root_error, published.get(method)))
    return rows


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
