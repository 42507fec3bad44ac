"""How wide a hidden layer should be, by the bound alone.

One can
- train networks of several widths and compare the height of their bounds with the likelihood and the error on
  test images (`run`, or `python -m chainrule.inference widths`).

The paper's bound picks a narrower network than test images do: each weight that the data move costs entropy,
whether or not the prediction needs it. Laplace's evidence stands beside it, at the last weights.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016,
section 6.2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chainrule.core import Status
from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.inference.entropic import choose_stopping, laplace
from chainrule.inference.experiments import data, networks, training
from chainrule.inference.experiments.plot import plot_choice

BOUND, LIKELIHOOD, ERROR = "bound at the peak", "test log likelihood at the end", "test error at the end"
UNITS = {
    BOUND: "nats per image",
    "stop at step": "",
    "test log likelihood there": "nats per image",
    "test error there": "%",
    LIKELIHOOD: "nats per image",
    ERROR: "%",
    "Laplace, GGN": "nats per image",
}
PROBES, LANCZOS_STEPS = 2, 20  # of Laplace's determinant


TRAINING = training.Training()


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    widths: tuple[int, ...] = (3, 10, 30, 100, 300, 1000)
    training: training.Training = TRAINING


FULL = Settings()
QUICK = Settings(
    widths=(3, 30, 100), training=training.Training(train=500, test=500, batch_size=125, steps=60)
)


def plan(settings: Settings) -> str:
    steps = settings.training.steps
    minutes = max(1, round(settings.seeds * steps * sum(settings.widths) / 150_000))
    return (
        f"Hidden layers of {', '.join(map(str, settings.widths))} units on {settings.training.train} images "
        f"of MNIST, {steps} steps each: {settings.seeds} seeds, about {minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train each width with each seed; compare the choice by the bound with that by test images."""
    outcomes = Outcomes(out, identity("widths", settings), resume=resume)
    total = settings.seeds * len(settings.widths)
    for number in range(settings.seeds):
        seed = settings.seed + number
        rows = training.split(settings.training, seed)
        for place, width in enumerate(settings.widths):
            progress(f"{width} units", number * len(settings.widths) + place, total)
            outcomes.once(f"{width} units", seed, partial(_one, settings.training, width, rows, seed))
    curves = measured(outcomes, [f"{width} units" for width in settings.widths], UNITS)
    pictures = plot_choice(
        out / "widths",
        settings.widths,
        {
            f"{BOUND}\n(nats per image)": {"bound": curves[BOUND]},
            "test log likelihood\n(nats per image)": {
                "at the peak": curves["test log likelihood there"],
                "at the end": curves[LIKELIHOOD],
            },
            "test error (%)\n": {"at the peak": curves["test error there"], "at the end": curves[ERROR]},
        },
        xlabel="hidden units",
        title="The width that the bound prefers, and those that test images do",
    )
    best = lambda values: [settings.widths[i] for i in np.argmax(values, 1)]
    return write_report(
        out,
        f"Width of the hidden layer, {settings.training.train} images of MNIST",
        outcomes,
        UNITS,
        notes=[
            f"Best width seed by seed, by the bound: {best(curves[BOUND])}; by the test log likelihood at "
            f"the end: {best(curves[LIKELIHOOD])}; by Laplace's evidence: {best(curves['Laplace, GGN'])}.",
        ],
        files=pictures,
    )


def measured(outcomes: Outcomes, methods: list[str], names: Any) -> dict[str, np.ndarray]:
    """Each measure as an array [seeds, methods]."""
    by_method = {
        method: [found.measures for found in outcomes if found.method == method] for method in methods
    }
    return {
        name: np.array([[measures[name] for measures in by_method[m]] for m in methods], float).T
        for name in names
    }


def judged(settings: training.Training, trace: Any) -> dict[str, Any]:
    """What a trace comes to, at the peak of its bound and at its end."""
    stopping = choose_stopping(trace)
    test = trace.monitored
    return {
        BOUND: stopping.elbo / settings.train,
        "stop at step": stopping.step,
        "trusted to": stopping.trusted_to,
        "test log likelihood there": test.log_likelihood[stopping.record],
        "test error there": 100 * test.error[stopping.record],
        LIKELIHOOD: test.log_likelihood[-1],
        ERROR: 100 * test.error[-1],
    }


def _one(settings: training.Training, width: int, rows: data.Split, seed: int) -> dict[str, Any]:
    key, laplace_key = jax.random.split(jax.random.key(seed))
    state, trace = training.train(settings, width, rows, key)
    found = _laplace(state.params, rows, laplace_key)
    return {
        **judged(settings, trace),
        "Laplace, GGN": found.log_evidence / settings.train,
        "Laplace, status": Status(found.status).name,
        "Laplace, standard error": found.standard_error / settings.train,
    }


@jax.jit
def _laplace(layers, rows, key):
    return laplace(
        networks.class_log_likelihood,
        networks.layer_prior([len(layers[0][0]), len(layers[1][0]), data.CLASSES]),
        layers,
        data=rows.train,
        predict=lambda layers, rows: networks.outputs(layers, rows.inputs),
        curvature="ggn",
        key=key,
        probes=PROBES,
        lanczos_steps=LANCZOS_STEPS,
    )


def identity(name: str, settings: Any) -> dict[str, Any]:
    listed = lambda value: list(value) if isinstance(value, tuple) else value
    return {"experiment": name, **{k: listed(v) for k, v in dataclasses.asdict(settings).items()}}
