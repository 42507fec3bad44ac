"""Hyperparameters by random search, in which what does badly early is given up.

One can
- search a model for one's own molecules and targets (`tune`), stop the search anywhere and go on later,
- do the same with settings of one's own making (`halving`).

The first trial is what one would take without a search, the others are drawn at random. All are trained for
a quarter of the steps, the best third for half of them, the best ninth for all; each training is a run of
its own, its learning rate falling to zero. Only the validation rows decide, by the error after the last
step.

Source: the original's search (its launch_experiments.py), about whose ranges these are, with wider networks
and other variants; Jamieson and Talwalkar, AISTATS 2016 (successive halving).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from flax import nnx
from jaxtyping import Float

from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.journal import Journal, digest
from chainrule.fingerprints.model import PropertyModel
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.settings import CircularNet, Features, Neural, settings_of
from chainrule.fingerprints.splits import Split
from chainrule.fingerprints.training import TrainingDiverged, train

ATOMS_PER_SECOND = 100_000  # in a training, on two cores; for estimates of the time only
RUNGS = ((4, 1), (2, 3), (1, 9))  # what the steps are divided by; of how many trials one comes so far

# Sizes are on a coarse grid: trials that share their sizes share a compilation, and no validation set here
# could tell a width of 40 from one of 41.
DEPTHS = (2, 3, 4, 5)
WIDTHS = (20, 32, 48)
LENGTHS = (32, 64, 128)
HIDDEN = (50, 100)
VARIANTS = ("talk", "messages")
RADII = (1, 2, 3)  # of circular fingerprints, in bonds
FEATURES: tuple[Features, ...] = ("bits", "counts", "log counts")
LEARNING_RATE = (math.exp(-7), math.exp(-5))  # uniform in the logarithm
WEIGHT_DECAY = (0.001, 3.0)  # likewise

Tunable = TypeVar("Tunable", Neural, CircularNet)


@dataclass(frozen=True)
class Trial(Generic[Tunable]):
    """Settings that were tried."""

    settings: Tunable  # with the steps that were done
    error: float  # on the validation rows after the last step, see `train`; infinite if it diverged


def tune(
    molecules: Molecules,
    targets: Float[np.ndarray, "rows ..."],
    split: Split,
    *,
    trials: int = 20,
    seed: int = 0,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
    variants: Sequence[str] = VARIANTS,
    record: str | Path | None = None,
    resume: bool = False,
    log: Callable[[Trial[Neural]], None] | None = None,
) -> list[Trial[Neural]]:
    """Search depth, width, length, variant, hidden units, learning rate, weight decay and steps.

    Args:
        molecules, targets: see `train`.
        split: its training rows train, its validation rows decide; the test rows are not looked at.
        trials: settings that are tried.
        seed: of the draws.
        model: the first trial's, if of one of the `variants`; `task` is kept in all, and with `hidden` 0
            the head stays linear.
        training: the first trial's. Batch size and seed are kept in all; the steps are those of the longest
            trainings.
        variants: of the network, to draw from.
        record: a file that each trial is appended to.
        resume: take the trials that `record` has from there.
        log: called after every trial.

    Returns:
        Every training of the search, the best first.

    Raises:
        ValueError: there are no trials or no validation rows, or `record` is of another search; or as
            `train` does.
    """
    if not len(split.validation):
        raise ValueError("there are no validation rows to choose by")
    candidates = neural_candidates(trials, seed, model or ModelConfig(), training or TrainConfig(), variants)
    columns = None if targets.ndim == 1 else targets.shape[1]

    def error(settings: Neural) -> float:
        first = PropertyModel(
            **asdict(settings.model), targets=columns, rngs=nnx.Rngs(settings.training.seed)
        )
        rows = (split.train, split.validation)
        return train(first, molecules, targets, *rows, settings.training).validation_error

    used = np.concatenate([split.train, split.validation])
    identity = {"data": digest(molecules.take(used), targets[used]), "training rows": len(split.train)}
    journal = Journal(Path(record).expanduser() if record else None, identity, resume=resume)
    return halving(candidates, error, journal=journal, log=log)


def halving(
    candidates: Sequence[Tunable],
    error: Callable[[Tunable], float],
    *,
    journal: Journal | None = None,
    log: Callable[[Trial[Tunable]], None] | None = None,
) -> list[Trial[Tunable]]:
    """Train all candidates a little, the better ones more; every training, the best first.

    Args:
        candidates: settings whose training is the longest they may get.
        error: trains as the settings say, and gives the validation error.
        journal: where trainings are found that were done before.
        log: called after every training.
    """
    known = {}
    for entry in journal.entries if journal else []:
        found = math.inf if entry["error"] is None else entry["error"]
        known[settings_of(entry["settings"])] = found
    done: list[Trial[Tunable]] = []
    best = list(range(len(candidates)))
    for divisor, one_in in RUNGS:
        errors = {}
        for number in best[: math.ceil(len(candidates) / one_in)]:
            settings = _shortened(candidates[number], divisor)
            if settings not in known:
                known[settings] = _tried(error, settings)
                if journal:
                    finite = known[settings] if math.isfinite(known[settings]) else None
                    journal.append({"error": finite, "settings": asdict(settings)})
            errors[number] = known[settings]
            done.append(Trial(settings, errors[number]))
            if log is not None:
                log(done[-1])
        best = sorted(errors, key=errors.__getitem__)
    return sorted(done, key=lambda trial: trial.error)


def trainings(trials: int) -> list[tuple[float, int]]:
    """How long the trainings of a search are, as fractions of the longest, and how many of each."""
    return [(1 / divisor, math.ceil(trials / one_in)) for divisor, one_in in RUNGS]


def neural_candidates(
    trials: int, seed: int, model: ModelConfig, training: TrainConfig, variants: Sequence[str] = VARIANTS
) -> list[Neural]:
    """Settings of neural fingerprints, the first as given and the others drawn at random, see `tune`."""
    rng = _draws(trials, seed)
    first = [Neural(model, training)] if model.variant in variants else []
    drawn = [
        Neural(
            replace(
                model,
                depth=_choice(rng, DEPTHS),
                width=_choice(rng, WIDTHS),
                length=_choice(rng, LENGTHS),
                hidden=_choice(rng, HIDDEN) if model.hidden else 0,
                variant=_choice(rng, variants),
            ),
            _drawn_training(rng, training),
        )
        for _ in range(trials - len(first))
    ]
    return first + drawn


def circular_candidates(trials: int, seed: int, training: TrainConfig) -> list[CircularNet]:
    """Settings of nets on circular fingerprints drawn at random."""
    rng = _draws(trials, seed)
    return [
        CircularNet(
            _choice(rng, RADII), _choice(rng, FEATURES), _choice(rng, HIDDEN), _drawn_training(rng, training)
        )
        for _ in range(trials)
    ]


def _draws(trials: int, seed: int) -> np.random.Generator:
    if trials < 1:
        raise ValueError(f"trials={trials} must be at least 1")
    return np.random.default_rng(seed)


def _choice(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _drawn_training(rng: np.random.Generator, training: TrainConfig) -> TrainConfig:
    rate, decay = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (LEARNING_RATE, WEIGHT_DECAY))
    return replace(training, learning_rate=rate, weight_decay=decay)


def _shortened(settings: Tunable, divisor: int) -> Tunable:
    """With a part of the steps, all of which are done, and one look at the validation rows in the end."""
    steps = max(1, settings.training.steps // divisor)
    return replace(
        settings, training=replace(settings.training, steps=steps, evaluate_every=steps, patience=0)
    )


def _tried(error: Callable[[Tunable], float], settings: Tunable) -> float:
    try:
        return error(settings)
    except TrainingDiverged:
        return math.inf  # so drawn, not so meant: the search goes on
