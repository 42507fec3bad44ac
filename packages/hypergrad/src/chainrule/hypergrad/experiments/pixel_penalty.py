"""A penalty for each weight of a logistic regression, that is for each pixel and class, learned.

One can
- compare them with no penalty and the best single one (`run`, or `python -m chainrule.hypergrad
  pixel-penalty`).

Penalties are chosen on validation rows; the weights that they lead to are judged on test rows. The single one
is the best of a grid; the learned ones begin there.

Source: Maclaurin et al., section 4.2, figure 7.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.hypergrad.experiments import images, networks
from chainrule.hypergrad.experiments.judging import SKIPPED, UNITS, judge, skipped
from chainrule.hypergrad.experiments.learning import learn
from chainrule.hypergrad.training import train

NONE, SINGLE, LEARNED = "no penalty", "best single penalty", "learned penalties"
NO_PENALTY = -np.inf  # its logarithm
LOWEST, HIGHEST = -12.0, 0.0  # of the grid of log penalties


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    data: images.Name = "mnist"
    train: int = 1500  # rows
    validation: int = 1500
    test: int = 2000
    steps: int = 50
    batch_size: int = 200
    learning_rate: float = 1.0
    momentum: float = 0.9
    grid: int = 20
    meta_steps: int = 50
    meta_rate: float = 0.1  # of Adam


FULL = Settings()
QUICK = Settings(train=300, validation=300, test=1100, meta_steps=20)


def plan(settings: Settings) -> str:
    return (
        f"Penalties of a logistic regression on {settings.data}, trained for {settings.steps} steps: none, "
        f"the best of {settings.grid}, and one for each weight, learned in {settings.meta_steps} meta-steps. "
        f"{settings.seeds} seeds, about {settings.seeds * settings.meta_steps / 100:.0f} minutes on 2 cores."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Choose penalties with each seed, judge them, and show the learned ones of the first seed."""
    from chainrule.hypergrad.experiments.plot import plot_images

    data = images.load(settings.data)
    identity = {"experiment": "pixel-penalty", **dataclasses.asdict(settings), "data": data.name}
    outcomes = Outcomes(out, identity, resume=resume)
    for number in range(settings.seeds):
        progress("choosing penalties", number, settings.seeds)
        _one_seed(settings, outcomes, data, settings.seed + number)
    learned = outcomes.once(LEARNED, settings.seed, dict).measures["log penalties"]
    pictures = plot_images(
        out / "penalties",
        np.asarray(learned).T.reshape(-1, data.side, data.side),
        [f"{label}" for label in range(images.CLASSES)],
        title="Learned penalties of the weights from pixels to classes",
        quantity="log penalty",
    )
    return write_report(
        out,
        f"Penalties of a logistic regression, {data.name}",
        outcomes,
        UNITS,
        differences=[(LEARNED, SINGLE), (LEARNED, NONE)],
        notes=[skipped(outcomes)],
        files=pictures,
    )


def _one_seed(settings: Settings, outcomes: Outcomes, data: images.Images, seed: int) -> None:
    sizes = dict(train=settings.train, validation=settings.validation, test=settings.test)
    split = images.split(data, seed, **sizes)
    key, learning_key = jax.random.split(jax.random.key(seed))
    # One program judges all: a single penalty is one for each weight as well
    of_all = lambda log_penalty: np.full((data.pixels.shape[1], images.CLASSES), log_penalty, np.float32)
    outcomes.once(NONE, seed, lambda: _judged(settings, of_all(NO_PENALTY), split, key))

    def single():
        grid = np.linspace(LOWEST, HIGHEST, settings.grid, dtype=np.float32)
        best = grid[np.nanargmin(_validation_nlls(settings, grid, split, key))]
        return {"log penalty": best, **_judged(settings, of_all(best), split, key)}

    def learned():
        start = outcomes.once(SINGLE, seed, single).measures["log penalty"]
        found = _learned(settings, of_all(start), split, learning_key)
        judged = _judged(settings, found.meta, split, key)
        return {"log penalties": found.meta, SKIPPED: found.skipped, "curve": found.objectives, **judged}

    outcomes.once(SINGLE, seed, single)
    outcomes.once(LEARNED, seed, learned)


def trained(settings: Settings, log_penalty: Array, rows: images.Rows, key: Array) -> networks.Layers:
    """The logistic regression, from weights of zero; log_penalty: one, or one for each weight."""

    def loss(layers, log_penalty, batch, key):
        penalty = jnp.sum(jnp.exp(log_penalty) * layers[0]["w"] ** 2)
        return networks.nll(layers, *batch) + penalty

    return train(
        loss,
        networks.zeros((rows.images.shape[1], images.CLASSES)),
        log_penalty,
        settings.learning_rate,
        settings.momentum,
        data=rows,
        batch_size=settings.batch_size,
        key=key,
        steps=settings.steps,
        precision="single",
    ).params


@partial(jax.jit, static_argnums=0)
def _judged(settings, log_penalty, split, key):
    return judge(trained(settings, log_penalty, split.train, key), split)


def _validation_nll(settings, log_penalty, split, key):
    return networks.nll(trained(settings, log_penalty, split.train, key), *split.validation)


@partial(jax.jit, static_argnums=0)
def _validation_nlls(settings, log_penalties, split, key):
    nll = lambda log_penalty: networks.nll(
        trained(settings, log_penalty, split.train, key), *split.validation
    )
    return jax.lax.map(nll, log_penalties)


@partial(jax.jit, static_argnums=0)
def _learned(settings, start, split, key):
    objective = lambda meta, key: _validation_nll(settings, meta, split, key)
    return learn(objective, start, optax.adam(settings.meta_rate), key, settings.meta_steps)
