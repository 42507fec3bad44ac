"""Learning rates and momenta of each step and array, learned; and the best simple ones to compare with.

One can
- learn schedules by the derivative of the last loss (`learn_schedules`),
- choose a rate and a momentum, fixed or with linear decay, from a grid (`best_simple`),
- do both for several seeds and judge them by trainings that neither has seen (`run`).

A repetition has images divided by its own seed. Each meta-step trains from fresh initial weights with fresh
batches, and so does each point of the grid, of which there are more. Then all methods train from the same
further initial weights, with the same further batches.

Source: Maclaurin, Duvenaud and Adams 2015, section 3.1: 784-50-50-50-10, tanh, batches of 200, 100 steps,
Adam with steps of 0.04 outside, schedules that start from a rate of 1 / e and a momentum of 1 / 2. Their best
fixed rate, by Bayesian optimisation, was 2.4; there is no table.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from chainrule.core.experiments.console import Tell, silent
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report
from chainrule.hypergrad.experiments.images import Name, load
from chainrule.hypergrad.experiments.networks import fan_in, init
from chainrule.hypergrad.experiments.problem import Problem, average, best, duration, judge, loss, problem
from chainrule.hypergrad.experiments.schedules_report import (
    DECAY,
    FIXED,
    HYPERGRADIENT,
    LEARNED,
    write_schedules_report,
)
from chainrule.hypergrad.experiments.smoothness import initial_hypergradient
from chainrule.hypergrad.meta import Fitted, fit

# Of learned momenta. The least sizes the tape; one of 1 would never move again.
MIN_MOMENTUM, MAX_MOMENTUM = 0.1, 0.99


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the experiment; the paper's, but for the images and their number."""

    data: Name = "mnist"
    objective: Literal["training", "validation"] = "training"
    seeds: int = 5
    seed: int = 0
    rows: int | None = None  # all
    hidden: tuple[int, ...] = (50, 50, 50)
    batch_size: int = 200
    steps: int = 100
    rates: tuple[float, float, int] = (0.05, 20.0, 20)  # of the grid: from, to, how many
    momenta: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)  # likewise
    grid_trainings: int = 2  # of each of its points
    first_rate: float = 0.37
    first_momentum: float = 0.5
    meta_steps: int = 50
    meta_rate: float = 0.04
    unseen_trainings: int = 10
    smoothness_trainings: int = 100


FULL = Settings()
QUICK = Settings(
    rows=1250,
    hidden=(20, 20),
    batch_size=50,
    steps=30,
    momenta=(0.5, 0.9),
    grid_trainings=1,
    meta_steps=20,
    meta_rate=0.1,
    unseen_trainings=5,
    smoothness_trainings=10,
)


def plan(settings: Settings) -> str:
    grid, seeds = settings.rates[2] * len(settings.momenta), settings.seeds
    trainings = seeds * (2 * grid * settings.grid_trainings + 3 * settings.unseen_trainings)
    derivatives = seeds * settings.meta_steps + settings.smoothness_trainings
    return (
        f"{seeds} times on {settings.data}: schedules of {settings.steps} steps are learned through "
        f"{settings.meta_steps} trainings; {grid} fixed ones and {grid} with linear decay are tried. "
        + duration(settings, trainings, derivatives, seeds + 2)
    )


def run(settings: Settings, out: Path, *, resume: bool = False, progress: Tell = silent) -> Report:
    """The experiment; writes outcomes, tables, learned schedules and pictures into the folder."""
    images = load(settings.data)
    identity = {"experiment": "schedules", "images": images.name} | dataclasses.asdict(settings)
    outcomes = Outcomes(out, identity, resume=resume)
    sizes = {name: getattr(settings, name) for name in ("rows", "hidden", "batch_size", "steps")}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        tell = lambda what, done, total, seed=seed: progress(f"seed {seed}: {what}", done, total)
        task = problem(images, seed, **sizes)
        learn_key, grid_key, unseen_key = jax.random.split(jax.random.key(seed), 3)
        unseen = jax.random.split(unseen_key, settings.unseen_trainings)
        for kind in (FIXED, DECAY):
            compute = partial(_simple_outcome, task, settings, kind, grid_key, unseen, tell)
            outcomes.once(kind, seed, compute)
        folder = outcomes.folder(f"seed-{seed}")
        compute = partial(_learned_outcome, task, settings, learn_key, unseen, folder, tell)
        outcomes.once(LEARNED, seed, compute)
        if seed == settings.seed:
            first = schedules_of(first_meta(task, settings))
            keys = jax.random.split(jax.random.fold_in(learn_key, 1), settings.smoothness_trainings)
            compute = partial(initial_hypergradient, task, **first, keys=keys, progress=tell)
            outcomes.once(HYPERGRADIENT, seed, compute)
    return write_schedules_report(out, [*outcomes], f"{settings.objective} loss")


def learn_schedules(
    task: Problem, settings: Settings, key: Array, *, folder: Path | None = None, progress: Tell = silent
) -> Fitted:
    """Schedules for each array of weights and biases; `schedules_of` what is learned, `meta`.

    A meta-step whose certificate does not hold is left out.
    """
    return fit(
        meta=first_meta(task, settings),
        **_learner(settings.objective, settings.meta_rate, task.widths),
        loss=loss,
        data=task.data,
        key=key,
        meta_steps=settings.meta_steps,
        steps=task.steps,
        batch_size=task.batch_size,
        precision="single",
        min_momentum=MIN_MOMENTUM,
        on_failure="skip",
        folder=folder,
        callback=lambda found, _: progress("meta-learning", found.step + 1, settings.meta_steps),
    )


@functools.cache
def _learner(objective: str, meta_rate: float, widths: tuple[int, ...]) -> dict[str, Any]:
    """What `fit` compiles, which is the same for all seeds: only data differ."""
    return {
        "objective": lambda layers, data: judge(layers, data)[f"{objective} loss"],
        "optimizer": optax.adam(meta_rate),
        "training": lambda meta, key, data: {
            "params": init(key, widths, fan_in(widths)),
            "data": data.train,
            **schedules_of(meta),
        },
    }


def first_meta(task: Problem, settings: Settings) -> PyTree:
    """What meta-learning starts from: constant schedules."""
    constant = lambda x: jax.tree.map(lambda _: jnp.full(task.steps, x, jnp.float32), fan_in(task.widths))
    share = (settings.first_momentum - MIN_MOMENTUM) / (MAX_MOMENTUM - MIN_MOMENTUM)
    return {"log_rate": constant(np.log(settings.first_rate)), "logit": constant(np.log(share / (1 - share)))}


def schedules_of(meta: PyTree) -> dict[str, PyTree]:
    """What is learned, logarithms and logits, as learning rates and momenta."""
    momentum = lambda logit: MIN_MOMENTUM + (MAX_MOMENTUM - MIN_MOMENTUM) * jax.nn.sigmoid(logit)
    return {
        "learning_rate": jax.tree.map(jnp.exp, meta["log_rate"]),
        "momentum": jax.tree.map(momentum, meta["logit"]),
    }


def best_simple(
    task: Problem, settings: Settings, kind: str, key: Array, *, progress: Tell = silent
) -> tuple[float, float]:
    """The rate and the momentum of the grid that end at the lowest objective, fixed or with linear decay."""
    scales = fan_in(task.widths)
    points = [*itertools.product(np.geomspace(*settings.rates).tolist(), settings.momenta)]
    return best(
        points,
        lambda point, key: task.measures(key, scales, *simple(kind, *point, task.steps)),
        jax.random.split(key, settings.grid_trainings),
        f"{settings.objective} loss",
        partial(progress, kind),
    )


def simple(kind: str, rate: float, momentum: float, steps: int) -> tuple[Any, float]:
    """Schedules for all arrays alike; a linear decay would reach zero one step after the last."""
    return (rate if kind == FIXED else rate * (1 - np.arange(steps) / steps)), momentum


def _simple_outcome(task, settings, kind, key, unseen, tell):
    rate, momentum = best_simple(task, settings, kind, key, progress=tell)
    schedules = simple(kind, rate, momentum, task.steps)
    found = average(lambda key: task.measures(key, fan_in(task.widths), *schedules), unseen)
    return {"rate": rate, "momentum": momentum} | found


def _learned_outcome(task, settings, key, unseen, folder, tell):
    fitted = learn_schedules(task, settings, key, folder=folder, progress=tell)
    schedules = schedules_of(fitted.meta)
    curves = {name: np.stack(jax.tree.leaves(tree)) for name, tree in schedules.items()}
    curves["objective"] = np.asarray([step.objective for step in fitted.history])
    return curves | average(lambda key: task.measures(key, fan_in(task.widths), *schedules.values()), unseen)
