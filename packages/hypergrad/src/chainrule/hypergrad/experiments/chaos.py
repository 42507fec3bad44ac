"""Where training turns chaotic: there its derivative by the learning rate is exact, huge, and of no use.

One can
- sweep the learning rate (`sweep`): last loss, its derivative, the growth of small perturbations,
- find from which rate on the derivative misleads, and which signs tell (`thresholds`),
- do so for several seeds (`run`).

A derivative is to say how the loss changes over some finite way. So it misleads where it differs from the
slope of the loss over a window by more than that slope. Two signs of this need no sweep: the norm of the
derivative by the rates of all steps, which `fit` has in its history; and how fast a perturbation of the
initial weights grows, the largest Lyapunov exponent of a training of finite length.

Source: Maclaurin, Duvenaud and Adams 2015, section 4, on limitations: 784-200-50-10, 1000 rows, batches of
250, 50 steps, momentum 0.9.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from chainrule.core.experiments.console import Tell, silent
from chainrule.core.experiments.outcomes import Outcome, Outcomes
from chainrule.core.experiments.report import Report, averages, write_report
from chainrule.hypergrad.experiments.images import Name, load
from chainrule.hypergrad.experiments.networks import fan_in, init, nll
from chainrule.hypergrad.experiments.plot import plot_chaos
from chainrule.hypergrad.experiments.problem import Problem, duration, loss, problem
from chainrule.hypergrad.hypergradient import value_and_hypergrad
from chainrule.hypergrad.training import train

WINDOW = 0.3  # of the logarithm of the rate: a step that a meta-optimizer may well take
LEAST_SLOPE = 0.1  # nats for each unit of that logarithm; what is less counts as flat
EXPLODED = 10.0  # times the norm at small rates
GROWN = 10.0  # times the perturbation; training that ends well lets most directions grow a little
LOWEST, MISLEADS, EXPLODES, GROWS = (
    "the loss is lowest",
    "the derivative misleads",
    "the derivative explodes",
    "perturbations grow",
)


MEANINGS = (
    f"Misleads: it differs from the slope of the loss over a window of {WINDOW} by more than that slope.",
    f"Explodes: its norm, by the rates of all steps, is above {EXPLODED:g} times that at small rates.",
    f"Grow: a perturbation of the initial weights is above {GROWN:g} times as large at the end.",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the experiment; the paper's, but for the images and a smaller network."""

    data: Name = "mnist"
    seeds: int = 5
    seed: int = 0
    rows: int | None = 1250  # of which 1000 to train
    hidden: tuple[int, ...] = (50, 50)
    batch_size: int = 250
    steps: int = 50
    momentum: float = 0.9
    log_rates: tuple[float, float, int] = (-1.0, 4.0, 200)  # from, to, how many


FULL = Settings()
QUICK = Settings(rows=600, hidden=(20,), batch_size=100, steps=30, log_rates=(-1.0, 4.0, 60))


def plan(settings: Settings) -> str:
    return (
        f"{settings.seeds} times on {settings.data}: {settings.log_rates[2]} trainings of {settings.steps} "
        "steps with their derivatives, at learning rates from small to chaotic. "
        + duration(settings, 0, settings.seeds * settings.log_rates[2], 1)
    )


def run(settings: Settings, out: Path, *, resume: bool = False, progress: Tell = silent) -> Report:
    """The experiment; writes outcomes, tables and a picture into the folder."""
    images = load(settings.data)
    identity = {"experiment": "chaos", "images": images.name} | dataclasses.asdict(settings)
    outcomes = Outcomes(out, identity, resume=resume)
    sizes = {name: getattr(settings, name) for name in ("rows", "hidden", "batch_size", "steps")}
    log_rates = np.linspace(*settings.log_rates)
    found, curves = [], []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        tell = lambda what, done, total, seed=seed: progress(f"seed {seed}: {what}", done, total)
        task, key = problem(images, seed, **sizes), jax.random.key(seed)
        compute = partial(sweep, task, log_rates, settings.momentum, key, progress=tell)
        measures = {name: np.asarray(x) for name, x in outcomes.once("sweep", seed, compute).measures.items()}
        curves.append(measures)
        found += [
            Outcome(sign, seed, {"log learning rate": threshold})
            for sign, threshold in thresholds(log_rates, measures).items()
            if threshold is not None
        ]
    return _write(out, found, log_rates, curves)


def sweep(
    task: Problem,
    log_rates: Float[np.ndarray, " rates"],
    momentum: float,
    key: Array,
    *,
    progress: Tell = silent,
) -> dict[str, Any]:
    """Trainings from the same weights with the same batches, at each of the rates.

    Returns:
        Arrays, a number for each rate: "loss", of the training rows after the last step, in nats;
        "derivative", by the logarithm of the rate; "norm", of the derivative by that of each step's;
        "growth", of the logarithm of a small perturbation of the initial weights, in all steps.
    """
    init_key, train_key, direction_key = jax.random.split(key, 3)
    params = init(init_key, task.widths, fan_in(task.widths))
    direction = optax.tree.random_like(direction_key, params)
    sizes = dict(momentum=momentum, batch_size=task.batch_size, steps=task.steps)
    found = []
    for log_rate in log_rates:
        at = _at(jnp.float32(log_rate), params, direction, task.data.train, train_key, **sizes)
        found.append(jax.tree.map(np.asarray, at))
        progress("learning rates", len(found), len(log_rates))
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


@partial(jax.jit, static_argnames=("momentum", "batch_size", "steps"))
def _at(
    log_rate, params, direction, rows, key, *, momentum, batch_size, steps
) -> dict[str, Float[Array, ""]]:
    rates = jnp.full(steps, jnp.exp(log_rate))
    given = dict(data=rows, batch_size=batch_size, key=key, steps=steps)
    objective = lambda layers: nll(layers, *rows)
    value, found, _ = value_and_hypergrad(
        objective, loss, params, None, rates, momentum, wrt=("learning_rate",), precision="single", **given
    )
    trained = lambda params: train(loss, params, None, rates, momentum, method="naive", **given).params
    _, perturbed = jax.jvp(trained, (params,), (direction,))
    growth = jnp.log(optax.tree.norm(perturbed) / optax.tree.norm(direction))
    slopes = rates * found.learning_rate
    return {"loss": value, "derivative": slopes.sum(), "norm": jnp.linalg.norm(slopes), "growth": growth}


def thresholds(
    log_rates: Float[np.ndarray, " rates"], curves: dict[str, Float[np.ndarray, " rates"]]
) -> dict[str, float | None]:
    """The logarithms of the rates at which, or from which on, something happens; None where it does not.

    It happens from the first window on in most of which it does: a single outlier does not count.
    """
    half = _half_window(log_rates)
    slopes = slope_over_window(log_rates, curves["loss"])
    apart = np.abs(curves["derivative"] - slopes) / (np.abs(slopes) + LEAST_SLOPE)
    small = np.nanmedian(curves["norm"][: len(log_rates) // 4])
    return {
        LOWEST: float(log_rates[np.nanargmin(curves["loss"])]),
        MISLEADS: _onset(log_rates, ~(apart <= 1), half),
        EXPLODES: _onset(log_rates, ~(curves["norm"] <= EXPLODED * small), half),
        GROWS: _onset(log_rates, ~(curves["growth"] <= np.log(GROWN)), half),
    }


def slope_over_window(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """The difference quotient of y between the ends of a window around each x; they are evenly spaced."""
    half, places = _half_window(x), np.arange(len(x))
    before, after = np.maximum(places - half, 0), np.minimum(places + half, len(x) - 1)
    return (y[after] - y[before]) / (x[after] - x[before])


def _half_window(x) -> int:
    """How many points lie between the middle of a window and its ends."""
    return max(1, round(WINDOW / (x[1] - x[0]) / 2))


def _onset(x, happens, half) -> float | None:
    """The first of the windows in most of which something happens."""
    windows = np.lib.stride_tricks.sliding_window_view(happens, 2 * half + 1)
    most = np.flatnonzero(windows.mean(axis=1) > 0.5)
    return float(x[half + most[0]]) if most.size else None


def _write(out, found, log_rates, curves) -> Report:
    measure = "log learning rate"
    means = averages(found, measure)
    always = {sign for sign, average in means.items() if average.seeds == len(curves)}
    sometimes = [sign for sign in (MISLEADS, EXPLODES, GROWS) if sign not in always]
    threshold = means[MISLEADS].mean if MISLEADS in means else None
    claim = "The derivative agrees with the loss at all rates that were tried"
    if MISLEADS in means:
        claim = f"From a log learning rate of {means[MISLEADS]} on, the derivative misleads"
    slopes = slope_over_window(log_rates, curves[0]["loss"])
    files = plot_chaos(out / "chaos", log_rates, curves[0] | {"slope": slopes}, threshold, claim)
    return write_report(
        out,
        "Learning rates from which on training is chaotic",
        found,
        {measure: ""},
        differences=[(sign, MISLEADS) for sign in (LOWEST, EXPLODES, GROWS) if {sign, MISLEADS} <= always],
        notes=[
            *MEANINGS,
            *(f"Not seen with every seed at the rates that were tried: {sign}." for sign in sometimes),
        ],
        files=files,
    )
