"""Scales of initial weights and biases, one for each array, learned; and usual ones to compare with.

One can
- learn them by the derivative of the last training loss (`learn_scales`),
- do so for several seeds, choose from grids the rate for 1 / sqrt(fan-in), and the rate and scale where all
  arrays have the same, and judge all by trainings that none of this has seen (`run`).

Scales are learned twice: from e^-3, the same for all, and from 1 / sqrt(fan-in). The learning rate is held,
at a half and at a quarter of the one that suits 1 / sqrt(fan-in) best, and the better is taken. At the best
rate itself training is nearly chaotic, and derivatives mislead; a rate that is learned too goes there.

Source: Maclaurin, Duvenaud and Adams 2015, section 3.1: the network and training of `schedules`, scales that
start from e^-3; that of the first layer tends to 1 / sqrt(784).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from chainrule.core.experiments.console import Tell, silent
from chainrule.core.experiments.outcomes import Outcome, Outcomes
from chainrule.core.experiments.report import Report, difference, write_report
from chainrule.hypergrad.experiments.images import Name, load
from chainrule.hypergrad.experiments.networks import LogScales, common, fan_in, init, names
from chainrule.hypergrad.experiments.plot import plot_scales
from chainrule.hypergrad.experiments.problem import (
    UNITS,
    Problem,
    average,
    best,
    duration,
    judge,
    loss,
    problem,
)
from chainrule.hypergrad.meta import Fitted, fit

FAN_IN, COMMON = "1 / sqrt(fan-in)", "best common scale"
FROM_COMMON, FROM_FAN_IN = "learned from a common scale", "learned from 1 / sqrt(fan-in)"
OBJECTIVE = "training loss"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the experiment; the paper's, but for the images, their number, and what the grids are."""

    data: Name = "mnist"
    seeds: int = 5
    seed: int = 0
    rows: int | None = None  # all
    hidden: tuple[int, ...] = (50, 50, 50)
    batch_size: int = 200
    steps: int = 100
    momentum: float = 0.9
    rates: tuple[float, float, int] = (0.05, 20.0, 20)  # of the grids: from, to, how many
    scales: tuple[float, float, int] = (0.01, 1.0, 20)  # likewise
    rates_of_scales: int = 5  # rates that are tried with each scale, in the same range
    grid_trainings: int = 2  # of each point of a grid
    first_log_scale: float = -3.0
    rate_shares: tuple[float, ...] = (0.25, 0.5)  # of the best rate, at which scales are learned
    meta_steps: int = 50
    meta_rate: float = 0.1  # of Adam, at first; it falls to zero
    unseen_trainings: int = 10


FULL = Settings()
QUICK = Settings(
    rows=1250,
    hidden=(20, 20),
    batch_size=50,
    steps=30,
    grid_trainings=1,
    rates_of_scales=3,
    meta_steps=25,
    unseen_trainings=5,
)


def plan(settings: Settings) -> str:
    seeds, tried = settings.seeds, (settings.rates[2], settings.scales[2] * settings.rates_of_scales)
    derivatives = 2 * len(settings.rate_shares) * seeds * settings.meta_steps
    trainings = seeds * (sum(tried) * settings.grid_trainings + 4 * settings.unseen_trainings)
    return (
        f"{seeds} times on {settings.data}: scales of initial weights are learned from two starts at "
        f"{len(settings.rate_shares)} rates, through {settings.meta_steps} trainings each; "
        f"{tried[0]} rates with 1 / sqrt(fan-in) are tried, and {tried[1]} pairs of a common scale and a "
        "rate. " + duration(settings, trainings, derivatives, 2)
    )


def run(settings: Settings, out: Path, *, resume: bool = False, progress: Tell = silent) -> Report:
    """The experiment; writes outcomes, tables, learned scales and a picture into the folder."""
    images = load(settings.data)
    identity = {"experiment": "init-scales", "images": images.name} | dataclasses.asdict(settings)
    outcomes = Outcomes(out, identity, resume=resume)
    sizes = {name: getattr(settings, name) for name in ("rows", "hidden", "batch_size", "steps")}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        tell = lambda what, done, total, seed=seed: progress(f"seed {seed}: {what}", done, total)
        task = problem(images, seed, **sizes)
        learn_key, grid_key, unseen_key = jax.random.split(jax.random.key(seed), 3)
        unseen = jax.random.split(unseen_key, settings.unseen_trainings)
        for method in (FAN_IN, COMMON):
            compute = partial(_usual_outcome, task, settings, method, grid_key, unseen, tell)
            outcomes.once(method, seed, compute)
        best_rate = outcomes.once(FAN_IN, seed, dict).measures["rate"]
        alike = common(task.widths, settings.first_log_scale)
        starts = {FROM_FAN_IN: fan_in(task.widths), FROM_COMMON: alike}
        keys = learn_key, grid_key, unseen
        for number, (method, first) in enumerate(starts.items()):
            folder = outcomes.folder(f"seed-{seed}-{number}")
            compute = partial(_learned_outcome, task, settings, first, best_rate, keys, folder, tell)
            outcomes.once(method, seed, compute)
    return _write(out, [*outcomes], names(len(settings.hidden) + 1))


def learn_scales(
    task: Problem,
    settings: Settings,
    first: LogScales,
    rate: float,
    key: Array,
    *,
    folder: Path | None = None,
    progress: Tell = silent,
) -> Fitted:
    """`meta` are the logarithms, a number for each array, from the first ones on; the rate is held."""
    return fit(
        meta=jax.tree.map(jnp.float32, first),
        **_learner(settings, task.widths),
        loss=loss,
        data=(task.data, jnp.float32(rate)),
        key=key,
        meta_steps=settings.meta_steps,
        steps=task.steps,
        batch_size=task.batch_size,
        precision="single",
        on_failure="skip",
        folder=folder,
        callback=lambda found, _: progress("meta-learning", found.step + 1, settings.meta_steps),
    )


@functools.cache
def _learner(settings: Settings, widths: tuple[int, ...]) -> dict[str, Any]:
    """What `fit` compiles, which is the same for all seeds: only data differ."""
    return {
        "objective": lambda layers, data: judge(layers, data[0])[OBJECTIVE],
        "optimizer": optax.adam(optax.cosine_decay_schedule(settings.meta_rate, settings.meta_steps)),
        "training": lambda meta, key, data: {
            "params": init(key, widths, meta),
            "learning_rate": data[1],
            "momentum": settings.momentum,
            "data": data[0].train,
        },
    }


def _usual_outcome(task, settings, method, key, unseen, tell):
    low, high, number = settings.rates
    if method == FAN_IN:
        points = [(None, rate) for rate in np.geomspace(low, high, number).tolist()]
    else:
        rates = np.geomspace(low, high, settings.rates_of_scales).tolist()
        points = [*itertools.product(np.geomspace(*settings.scales).tolist(), rates)]
    scales = lambda scale: fan_in(task.widths) if scale is None else common(task.widths, np.log(scale))
    trained = lambda point, key: task.measures(key, scales(point[0]), point[1], settings.momentum)
    keys = jax.random.split(key, settings.grid_trainings)
    chosen = best(points, trained, keys, OBJECTIVE, partial(tell, method))
    return {"scale": chosen[0], "rate": chosen[1]} | average(partial(trained, chosen), unseen)


def _learned_outcome(task, settings, first, best_rate, keys, folder, tell):
    learn_key, grid_key, unseen = keys
    rates = [share * best_rate for share in settings.rate_shares]
    learned = [
        learn_scales(task, settings, first, rate, learn_key, folder=folder / f"{number}", progress=tell)
        for number, rate in enumerate(rates)
    ]
    trained = lambda one, key: task.measures(key, one[0].meta, one[1], settings.momentum)
    tried = jax.random.split(grid_key, settings.grid_trainings)
    candidates = [*zip(learned, rates, strict=True)]
    fitted, rate = best(candidates, trained, tried, OBJECTIVE, partial(tell, "choosing a rate"))
    found = average(partial(trained, (fitted, rate)), unseen)
    log_ratios = jax.tree.map(lambda learned, usual: learned - usual, fitted.meta, fan_in(task.widths))
    curve = [step.objective for step in fitted.history]
    return {"log_ratios": np.stack(jax.tree.leaves(log_ratios)), "rate": rate, "curve": curve} | found


def _write(out: Path, outcomes: list[Outcome], arrays: list[str]) -> Report:
    log_ratios = {
        method: np.stack([o.measures["log_ratios"] for o in outcomes if o.method == method])
        for method in (FROM_FAN_IN, FROM_COMMON)
    }
    gain = difference(outcomes, FROM_FAN_IN, FAN_IN, OBJECTIVE)
    verdict = ("lower" if gain.mean < 0 else "higher") if gain.apart else "no different"
    files = plot_scales(
        out / "scales",
        {method: np.exp(ratios) for method, ratios in log_ratios.items()},
        arrays,
        f"Scales learned from 1 / sqrt(fan-in):\ntraining loss {verdict} ({gain} nats)",
    )
    told = lambda ratios: ", ".join(
        f"{name} {ratio:.2f}" for name, ratio in zip(arrays, np.exp(ratios.mean(axis=0)), strict=True)
    )
    return write_report(
        out,
        "Learned scales of initial weights against usual ones",
        outcomes,
        UNITS,
        differences=[(FROM_FAN_IN, FAN_IN), (FROM_COMMON, FAN_IN), (FROM_COMMON, COMMON)],
        notes=[
            "Judged by trainings that none was chosen or learned by.",
            *(
                f"Scales {method}, in units of 1 / sqrt(fan-in), geometric means: {told(ratios)}."
                for method, ratios in log_ratios.items()
            ),
        ],
        files=files,
    )
