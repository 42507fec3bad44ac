"""Which small gradients to leave out, by the bound alone.

One can
- train with several thresholds of the gradient and compare the height of their bounds with the likelihood on
  test images (`run`, or `python -m chainrule.inference thresholds`).

Where the likelihood hardly depends on a weight, moving it costs entropy for nothing. Below the threshold,
weights stay where they were drawn.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016,
section 6.3, on entropy-friendly descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.inference.experiments import data, training
from chainrule.inference.experiments.plot import plot_choice
from chainrule.inference.experiments.widths import BOUND, ERROR, LIKELIHOOD, UNITS, identity, judged, measured

SHOWN = {name: unit for name, unit in UNITS.items() if "Laplace" not in name}
TRAINING = training.Training(steps=150)


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    thresholds: tuple[float, ...] = (0.0, 0.0003, 0.001, 0.003, 0.01)  # for the mean over images
    width: int = 100
    training: training.Training = TRAINING


FULL = Settings()
QUICK = Settings(
    thresholds=(0.0, 0.001, 0.01),
    width=30,
    training=training.Training(train=500, test=500, batch_size=125, steps=60),
)


def plan(settings: Settings) -> str:
    steps, count = settings.training.steps, len(settings.thresholds)
    minutes = max(1, round(settings.seeds * steps * count * settings.width / 200_000))
    return (
        f"{count} thresholds of the gradient for {settings.width} units on {settings.training.train} images "
        f"of MNIST, {steps} steps each: {settings.seeds} seeds, about {minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train with each threshold; compare the choice by the bound with that by test images."""
    outcomes = Outcomes(out, identity("thresholds", settings), resume=resume)
    total = settings.seeds * len(settings.thresholds)
    for number in range(settings.seeds):
        seed = settings.seed + number
        rows = training.split(settings.training, seed)
        for place, threshold in enumerate(settings.thresholds):
            progress(_name(threshold), number * len(settings.thresholds) + place, total)
            outcomes.once(_name(threshold), seed, partial(_one, settings, threshold, rows, seed))
    curves = measured(outcomes, [_name(threshold) for threshold in settings.thresholds], SHOWN)
    pictures = plot_choice(
        out / "thresholds",
        settings.thresholds,
        {
            f"{BOUND}\n(nats per image)": {"bound": curves[BOUND]},
            "test log likelihood\n(nats per image)": {
                "at the peak": curves["test log likelihood there"],
                "at the end": curves[LIKELIHOOD],
            },
            "test error (%)\n": {"at the peak": curves["test error there"], "at the end": curves[ERROR]},
        },
        xlabel="gradient threshold (nats per image)",
        title="What leaving small gradients out does to the bound, and to the test",
    )
    best = [settings.thresholds[i] for i in np.argmax(curves[BOUND], 1)]
    return write_report(
        out,
        f"Gradient threshold, {settings.width} units, {settings.training.train} images of MNIST",
        outcomes,
        SHOWN,
        differences=[(_name(threshold), _name(0.0)) for threshold in settings.thresholds if threshold],
        notes=[f"Highest bound seed by seed: {best}."],
        files=pictures,
    )


def _name(threshold: float) -> str:
    return f"threshold {threshold:g}" if threshold else "no threshold"


def _one(settings: Settings, threshold: float, rows: data.Split, seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    _, trace = training.train(settings.training, settings.width, rows, key, threshold or None)
    return judged(settings.training, trace)
