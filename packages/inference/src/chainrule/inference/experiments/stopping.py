"""When to stop training, by the bound alone, and what that costs in test error.

One can
- compare it with the best test error on the way (`run`, or `python -m chainrule.inference stopping`), for
  several noise levels and roughnesses of the network, learning rates, with momentum, with a gradient
  threshold.

The houses of Boston, few of them to train on, and a network of 13-100-1. The test rows decide nothing: the
bound chooses the step, and also the variant ("chosen by the bound").

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016,
section 6.1, with the log prior and the normalising constant of the noise in the bound.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.inference.entropic import choose_stopping, laplace
from chainrule.inference.entropic import run as descend
from chainrule.inference.experiments import data, networks
from chainrule.inference.experiments.plot import plot_stopping

CHOSEN = "chosen by the bound"
COST = "cost"
MODE_STEPS, MODE_MOMENTUM = 3000, 0.95  # to the mode, for Laplace's evidence
MODE_RATE = 0.5  # times noise^2 / rows: stable for all variants
UNITS = {
    "bound at the peak": "nats per row",
    "stop at step": "",
    "test RMSE there": "$1000",
    "best on the way": "$1000",
    "at the end": "$1000",
    COST: "% of the best",
    "Laplace, Hessian": "nats per row",
    "Laplace, GGN": "nats per row",
    "Laplace, diagonal": "nats per row",
}


@dataclass(frozen=True)
class Variant:
    """A model and a way to train it."""

    noise: float = 0.3  # standard deviation, in units of that of the prices
    gain: float = 2.0  # of the first layer
    rate: float = 0.7  # times noise^2 / rows is the step size: its scale is that of 1 / largest curvature
    momentum: float | None = None
    threshold: float | None = None  # times 1 / noise^2 is that of the gradient
    watched: bool = True  # whether it is one of those that the bound chooses from

    @property
    def name(self) -> str:
        words = [f"noise {self.noise:g}, gain {self.gain:g}, rate {self.rate:g}"]
        words += [f"momentum {self.momentum:g}"] if self.momentum else []
        words += [f"threshold {self.threshold:g}"] if self.threshold else []
        return ", ".join(words)


PLAIN = Variant()
UNSTABLE = Variant(rate=2.5, watched=False)
VARIANTS = (
    PLAIN,
    Variant(noise=0.2),
    Variant(noise=0.5),
    Variant(noise=0.2, gain=1.0),
    Variant(gain=1.0),
    Variant(noise=0.5, gain=1.0),
    Variant(rate=0.35),
    Variant(rate=0.175),
    Variant(rate=0.1, momentum=0.99),
    Variant(rate=0.1, momentum=0.9),
    Variant(threshold=0.3),
    UNSTABLE,
)


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    rows: int = 50
    hidden: int = 100
    steps: int = 1500
    record_every: int = 5
    variants: tuple[Variant, ...] = VARIANTS


FULL = Settings()
QUICK = Settings(steps=200, variants=(PLAIN, Variant(noise=0.2), UNSTABLE))


def plan(settings: Settings) -> str:
    minutes = max(1, round(settings.seeds * len(settings.variants) * settings.steps / 30_000))
    return (
        f"Early stopping of 13-{settings.hidden}-1 on {settings.rows} houses of Boston: "
        f"{len(settings.variants)} variants, {settings.seeds} seeds, {settings.steps} steps each; about "
        f"{minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train each variant with each seed, and see what stopping at the peak of the bound costs."""
    identity = {"experiment": "stopping", **dataclasses.asdict(settings)}
    outcomes = Outcomes(out, _json(identity), resume=resume)
    total = settings.seeds * len(settings.variants)
    for number in range(settings.seeds):
        seed = settings.seed + number
        for place, variant in enumerate(settings.variants):
            progress(variant.name, number * len(settings.variants) + place, total)
            outcomes.once(variant.name, seed, partial(_one, settings, variant, seed))
        outcomes.once(CHOSEN, seed, partial(_chosen, settings, outcomes, seed))
    by_name = {(found.method, found.seed): found.measures for found in outcomes}
    seeds = range(settings.seed, settings.seed + settings.seeds)
    pictures = plot_stopping(
        out / "stopping",
        {name: [by_name[name, seed] for seed in seeds] for name in (PLAIN.name, UNSTABLE.name)},
        settings.rows,
        title="Where the bound peaks, and where too large a rate makes it none",
    )
    return write_report(
        out,
        f"Early stopping by the bound, {settings.rows} houses of Boston",
        outcomes,
        UNITS,
        notes=_costs(outcomes),
        files=pictures,
    )


def _one(settings: Settings, variant: Variant, seed: int) -> dict[str, Any]:
    split = data.houses(seed, settings.rows)
    step_size = variant.rate * variant.noise**2 / settings.rows
    numbers = (variant.noise, variant.gain, step_size, variant.momentum, _threshold(variant))
    trace, evidence = _train(
        settings.steps, settings.record_every, settings.hidden, numbers, split, jax.random.key(seed)
    )
    rmse = np.asarray(trace.monitored) * split.unit
    stopping = choose_stopping(trace)
    best = float(np.nanmin(rmse))
    there = float(rmse[stopping.record])
    ggn, diagonal, hessian = (float(found.log_evidence) / settings.rows for found in evidence)
    return {
        "bound at the peak": stopping.elbo / settings.rows,
        "stop at step": stopping.step,
        "test RMSE there": there,
        "best on the way": best,
        "at the end": rmse[-1],
        COST: 100 * (there / best - 1),
        "Laplace, GGN": ggn,
        "Laplace, diagonal": diagonal,
        "Laplace, Hessian": hessian,
        "gradient at the mode": evidence[0].gradient_norm,
        "trusted to": stopping.trusted_to,
        "steps": trace.step,
        "bound": np.asarray(trace.elbo) / settings.rows,
        "rmse": rmse,
        "a_lambda_max": trace.a_lambda_max,
        "one_to_one": trace.one_to_one,
    }


def _threshold(variant: Variant) -> float | None:
    return variant.threshold and variant.threshold / variant.noise**2


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train(steps, record_every, hidden, numbers, split, key):
    noise, gain, step_size, momentum, threshold = numbers
    predict = lambda layers, rows: networks.outputs(layers, rows.inputs, gain)
    fit = lambda scores, rows: networks.number_log_likelihood(scores, rows, noise)
    prior = networks.unit_prior((split.train.inputs.shape[1], hidden, 1))

    def error(layers):
        apart = predict(layers, split.test)[:, 0] - split.test.targets
        return jnp.sqrt(jnp.mean(apart**2))

    state, trace = descend(
        key,
        lambda layers, rows: fit(predict(layers, rows), rows),
        prior,
        data=split.train,
        step_size=step_size,
        steps=steps,
        momentum=momentum,
        gradient_threshold=threshold,
        lanczos_steps=5,
        watch_steps=5,
        record_every=record_every,
        monitor=error,
    )

    def joint(layers):
        return fit(predict(layers, split.train), split.train) + prior.log_density(layers)

    mode = _mode(joint, state.params, MODE_RATE * noise**2 / len(split.train.targets), MODE_STEPS)
    evidence = [
        laplace(fit, prior, mode, data=split.train, predict=predict, curvature=curvature)
        for curvature in ("ggn", "diagonal", "hessian")
    ]
    return trace, evidence


def _mode(joint, layers, step_size, steps):
    """Further up the joint density, with momentum, until hardly anything changes."""
    optimizer = optax.sgd(step_size, momentum=MODE_MOMENTUM, nesterov=True)

    def climb(carry, _):
        layers, state = carry
        gradient = jax.grad(lambda layers: -joint(layers))(layers)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(layers, updates), state), None

    (layers, _), _ = lax.scan(climb, (layers, optimizer.init(layers)), length=steps)
    return layers


def _chosen(settings: Settings, outcomes: Outcomes, seed: int) -> dict[str, Any]:
    """The variant whose bound peaks highest, of those that are watched."""
    names = {variant.name for variant in settings.variants if variant.watched}
    own = [found for found in outcomes if found.seed == seed and found.method in names]
    best = max(own, key=lambda found: found.measures["bound at the peak"])
    lowest = min(found.measures["best on the way"] for found in own)
    return {
        **{name: best.measures[name] for name in UNITS},
        "variant": best.method,
        "cost to the best of all": 100 * (best.measures["test RMSE there"] / lowest - 1),
    }


def _costs(outcomes: Outcomes) -> list[str]:
    costs: dict[str, list[float]] = {}
    for found in outcomes:
        costs.setdefault(found.method, []).append(found.measures[COST])
    medians = "; ".join(f"{name}: {np.median(values):.1f}" for name, values in costs.items())
    chosen = [found.measures for found in outcomes if found.method == CHOSEN]
    picked = "; ".join(measures["variant"] for measures in chosen)
    of_all = np.median([measures["cost to the best of all"] for measures in chosen])
    return [
        f"Medians of the cost over seeds, in %: {medians}.",
        f"Chosen by the bound, seed by seed: {picked}.",
        f"Median cost of that to the best on any variant's way: {of_all:.1f} %.",
        "Laplace's evidence is that at the mode, which is looked for from where training ended; NaN where "
        "the Hessian is not positive definite there.",
    ]


def _json(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, "variants": [list(variant.values()) for variant in identity["variants"]]}
