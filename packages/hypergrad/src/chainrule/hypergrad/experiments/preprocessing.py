"""How images are preprocessed, learned: a blur, a gain for each pixel, random shifts and noise.

One can
- compare that with none, and with the best blur, shift or noise of a grid (`run`, or `python -m
  chainrule.hypergrad preprocessing`).

A perceptron is trained on few images. The learning rate without preprocessing, which all methods then use,
and all parameters of the preprocessing are chosen on validation rows; what they lead to is judged on test
rows.

Source: Maclaurin et al., section 3.3, "learning data preprocessing", of which the paper has no experiment.
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
from chainrule.hypergrad.experiments.transformations import LEAST, Parameters, plain, transform
from chainrule.hypergrad.training import train

NONE, STRENGTHS, ALL = "none", "learned blur, shift, noise", "learned, gains too"
SINGLES = {"log_blur": "best blur", "log_shift": "best shift", "log_noise": "best noise"}
HIGHEST = 1.0  # of the grid of each, from LEAST on
FIRST = -1.0  # where learning begins: at LEAST, a blur has no derivative to speak of
LOG_RATES = (-3.0, 1.0)  # the ends of the grid of learning rates


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    data: images.Name = "digits"
    train: int = 200  # rows
    validation: int = 600
    test: int = 900
    hidden: int = 30
    steps: int = 200
    batch_size: int = 50
    momentum: float = 0.9
    grid: int = 20  # learning rates; then blurs, shifts and noises
    meta_steps: int = 60
    meta_rate: float = 0.1  # of Adam


FULL = Settings()
QUICK = Settings(steps=100, meta_steps=20)


def plan(settings: Settings) -> str:
    minutes = max(1, round(settings.seeds * settings.meta_steps / 150))
    return (
        f"Preprocessing for a perceptron trained on {settings.train} images of {settings.data}: none, the "
        f"best of {settings.grid} blurs, shifts and noises, and learned in {settings.meta_steps} meta-steps. "
        f"{settings.seeds} seeds, about {minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Choose parameters with each seed, judge them, and show the learned gains of the first seed."""
    from chainrule.hypergrad.experiments.plot import plot_images

    data = images.load(settings.data)
    identity = {"experiment": "preprocessing", **dataclasses.asdict(settings), "data": data.name}
    outcomes = Outcomes(out, identity, resume=resume)
    for number in range(settings.seeds):
        progress("choosing parameters", number, settings.seeds)
        _one_seed(settings, outcomes, data, settings.seed + number)
    gains = outcomes.once(ALL, settings.seed, dict).measures["log_gains"]
    pictures = plot_images(
        out / "gains",
        np.asarray(gains).reshape(1, data.side, data.side),
        ["all classes"],
        title="Learned gains of the pixels",
        quantity="log gain",
    )
    return write_report(
        out,
        f"Preprocessing of {settings.train} training images, {data.name}",
        outcomes,
        UNITS,
        differences=[(STRENGTHS, NONE), *((STRENGTHS, best) for best in SINGLES.values()), (ALL, STRENGTHS)],
        notes=[skipped(outcomes)],
        files=pictures,
    )


def _one_seed(settings: Settings, outcomes: Outcomes, data: images.Images, seed: int) -> None:
    sizes = dict(train=settings.train, validation=settings.validation, test=settings.test)
    split = images.split(data, seed, **sizes)
    key, learning_key = jax.random.split(jax.random.key(seed))
    nothing = plain(data.pixels.shape[1])

    def best(candidates, log_rates):
        found = _validation_nlls(settings, candidates, log_rates, split, key)
        place = int(np.nanargmin(found))
        return _outcome(settings, jax.tree.map(lambda x: x[place], candidates), log_rates[place], split, key)

    repeated = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], settings.grid, 0), nothing)
    log_rates = np.linspace(*LOG_RATES, settings.grid, dtype=np.float32)
    none = outcomes.once(NONE, seed, lambda: best(repeated, log_rates))
    log_rate = np.float32(none.measures["log_rate"])

    def best_single(name):
        grid = np.linspace(LEAST, HIGHEST, settings.grid, dtype=np.float32)
        return best(repeated | {name: grid}, np.full_like(grid, log_rate))

    def learned(free):
        start = nothing | dict.fromkeys(SINGLES, np.float32(FIRST))
        found = _learned(settings, free, start, log_rate, split, learning_key)
        outcome = _outcome(settings, found.meta, log_rate, split, key)
        return {**outcome, SKIPPED: found.skipped, "curve": found.objectives}

    for name, method in SINGLES.items():
        outcomes.once(method, seed, partial(best_single, name))
    outcomes.once(STRENGTHS, seed, lambda: learned({name: float(name in SINGLES) for name in nothing}))
    outcomes.once(ALL, seed, lambda: learned(dict.fromkeys(nothing, 1.0)))


def trained(
    settings: Settings, parameters: Parameters, log_rate: Array, rows: images.Rows, key: Array
) -> networks.Layers:
    """The perceptron, its batches transformed anew each step."""

    def loss(layers, parameters, batch, key):
        return networks.nll(layers, transform(parameters, batch.images, key), batch.labels)

    weights_key, training_key = jax.random.split(key)
    widths = (rows.images.shape[1], settings.hidden, images.CLASSES)
    return train(
        loss,
        networks.init(weights_key, widths, networks.fan_in(widths)),
        parameters,
        jnp.exp(log_rate),
        settings.momentum,
        data=rows,
        batch_size=settings.batch_size,
        key=training_key,
        steps=settings.steps,
        precision="single",
    ).params


def _seen(parameters: Parameters, rows: images.Rows) -> images.Rows:
    """As they are in use."""
    return images.Rows(transform(parameters, rows.images, None), rows.labels)


def _validation_nll(settings, parameters, log_rate, split, key):
    layers = trained(settings, parameters, log_rate, split.train, key)
    return networks.nll(layers, *_seen(parameters, split.validation))


@partial(jax.jit, static_argnums=0)
def _outcome(settings, parameters, log_rate, split, key):
    layers = trained(settings, parameters, log_rate, split.train, key)
    seen = images.Split(*(_seen(parameters, rows) for rows in split))
    return {**parameters, "log_rate": log_rate, **judge(layers, seen)}


@partial(jax.jit, static_argnums=0)
def _validation_nlls(settings, candidates, log_rates, split, key):
    nll = lambda one: _validation_nll(settings, one[0], one[1], split, key)
    return jax.lax.map(nll, (candidates, log_rates))


@partial(jax.jit, static_argnums=0)
def _learned(settings, free, start, log_rate, split, key):
    """From the start, by derivatives; free: 1. for what is learned, 0. for what stays."""

    def objective(meta, key):
        held = jax.tree.map(lambda x, free, at: free * x + (1 - free) * at, meta, free, start)
        return _validation_nll(settings, held, log_rate, split, key)

    return learn(objective, start, optax.adam(settings.meta_rate), key, settings.meta_steps)
