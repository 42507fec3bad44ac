"""Perceptrons that are trained on images and then judged: what the experiments on training have in common.

One can
- divide images by a seed, for a perceptron of given layers and so many steps (`problem`, a `Problem`),
- train by given schedules from given scales, and judge (`Problem.measures`), with the `UNITS` of that,
- average over several trainings (`average`), and choose by that from a grid (`best`),
- say beforehand about how long an experiment takes (`duration`).

Training here is in ordinary floating-point numbers, as anyone's is: what was learned through an exact
reversal must hold its own there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from chainrule.hypergrad.experiments.images import CLASSES, Images, Split, split
from chainrule.hypergrad.experiments.networks import Layers, LogScales, error, fan_in, init, nll
from chainrule.hypergrad.training import train

UNITS = {"training loss": "nats", "validation loss": "nats", "test NLL": "nats", "test error": "%"}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the rows
Measures = dict[str, Float[Array, ""]]
PIXELS = {"digits": 64, "mnist": 784}
# Measured on two x86 cores: for a weight, row and step of a training, and of one with its derivative
TRAINING_SECONDS, DERIVATIVE_SECONDS = 1e-10, 8e-10
COMPILING_SECONDS = 12
Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Problem:
    """A perceptron to be trained on images."""

    data: Split
    widths: tuple[int, ...]  # of input, hidden layers and output
    batch_size: int
    steps: int

    def judge(self, layers: Layers) -> Measures:
        """Losses, that is negative log-likelihoods, of all rows of a kind, and errors."""
        return judge(layers, self.data)

    def measures(
        self, key: Array, log_scales: LogScales, learning_rate: PyTree, momentum: PyTree
    ) -> Measures:
        """`judge` after a training whose initial weights and batches are drawn with the key.

        Args:
            learning_rate: as in `train`, a number, an array of one for each step, or these for each array.
            momentum: likewise.
        """
        # One program for all that are given, whatever their form
        spread = lambda schedule: jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x, np.float32), self.steps),
            jax.tree.broadcast(schedule, fan_in(self.widths)),
        )
        return _train_and_judge(
            key,
            self.data,
            log_scales,
            spread(learning_rate),
            spread(momentum),
            widths=self.widths,
            batch_size=self.batch_size,
            steps=self.steps,
        )


def problem(
    images: Images, seed: int, *, rows: int | None, hidden: Sequence[int], batch_size: int, steps: int
) -> Problem:
    """Divide so many of the rows, or all, into those for training, validation and test.

    Args:
        seed: which rows are for what.
        hidden: widths of the hidden layers.
    """
    total = min(rows or len(images.labels), len(images.labels))
    data = split(images, seed, **{name: int(share * total) for name, share in SHARES.items()})
    return Problem(
        jax.tree.map(jnp.asarray, data), (images.pixels.shape[1], *hidden, CLASSES), batch_size, steps
    )


def loss(layers: Layers, hyper: None, batch: PyTree, key: Array) -> Float[Array, ""]:
    """What training minimises: the negative log-likelihood of a batch of rows."""
    return nll(layers, *batch)


def judge(layers: Layers, data: Split) -> Measures:
    """What `Problem.judge` says of its own rows."""
    return {
        "training loss": nll(layers, *data.train),
        "validation loss": nll(layers, *data.validation),
        "test NLL": nll(layers, *data.test),
        "test error": 100 * error(layers, *data.test),
    }


@partial(jax.jit, static_argnames=("widths", "batch_size", "steps"))
def _train_and_judge(key, data, log_scales, learning_rate, momentum, *, widths, batch_size, steps):
    init_key, train_key = jax.random.split(key)
    trained = train(
        loss,
        init(init_key, widths, log_scales),
        None,
        learning_rate,
        momentum,
        data=data.train,
        batch_size=batch_size,
        key=train_key,
        steps=steps,
        method="naive",
    )
    return judge(trained.params, data)


def average(run: Callable[[Array], Measures], keys: Array) -> dict[str, float]:
    """The mean of each measure over trainings with these keys."""
    found = [run(key) for key in keys]
    return {name: float(np.mean([measures[name] for measures in found])) for name in found[0]}


def best(
    candidates: Sequence[Candidate],
    run: Callable[[Candidate, Array], Measures],
    keys: Array,
    measure: str,
    told: Callable[[int, int], None],
) -> Candidate:
    """The candidate whose measure is lowest, in the mean over these keys; it must not diverge with any.

    Args:
        told: called after each candidate, with how many of how many are done.
    """
    scores = []
    for candidate in candidates:
        scores.append(average(partial(run, candidate), keys)[measure])
        told(len(scores), len(candidates))
    if not np.isfinite(scores).any():
        raise ValueError(f"all {len(candidates)} candidates diverge in the {measure}: give smaller rates")
    return candidates[int(np.nanargmin(scores))]


def duration(settings: Any, trainings: int, derivatives: int, compilations: int) -> str:
    """About how long an experiment takes.

    Args:
        settings: with data, hidden, batch_size and steps.
        trainings: how many there are, without a derivative.
        derivatives: how many trainings with one.
        compilations: of such a training.
    """
    widths = (PIXELS[settings.data], *settings.hidden, CLASSES)
    weights = sum(inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    work = weights * settings.batch_size * settings.steps
    seconds = work * (trainings * TRAINING_SECONDS + derivatives * DERIVATIVE_SECONDS)
    minutes = max(1, round((seconds + COMPILING_SECONDS * compilations) / 60))
    return f"About {minutes} minute{'s' * (minutes > 1)} on two cores."
