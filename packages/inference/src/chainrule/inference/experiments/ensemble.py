"""The mean prediction of several networks against that of one, where the bound peaks and at the end.

One can
- compare them on test images (`run`, or `python -m chainrule.inference ensemble`).

Networks from several draws are draws of q_t. To average their predictions is to predict by q_t, of which the
bound speaks; a single network is one draw.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.inference.entropic import choose_stopping
from chainrule.inference.experiments import data, training
from chainrule.inference.experiments.plot import plot_choice
from chainrule.inference.experiments.widths import identity

LIKELIHOOD, ERROR = "test log likelihood", "test error"
UNITS = {LIKELIHOOD: "nats per image", ERROR: "%"}
PLACES = ("at the peak", "at the end")
TRAINING = training.Training(steps=300)


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    members: int = 5
    width: int = 100
    training: training.Training = TRAINING


FULL = Settings()
QUICK = Settings(width=30, training=training.Training(train=500, test=500, batch_size=125, steps=60))


def plan(settings: Settings) -> str:
    steps = settings.training.steps
    minutes = max(1, round(settings.seeds * steps * settings.members * settings.width / 200_000))
    return (
        f"{settings.members} networks of {settings.width} units on {settings.training.train} images of "
        f"MNIST, {steps} steps, one and all together: {settings.seeds} seeds, about "
        f"{minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train the ensemble with each seed; compare the mean of its predictions with its members."""
    outcomes = Outcomes(out, identity("ensemble", settings), resume=resume)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    curves = []
    for number, seed in enumerate(seeds):
        progress("training", number, settings.seeds)
        found = outcomes.once("curves", seed, partial(_one, settings, seed)).measures
        curves.append(found)
        for place, record in zip(PLACES, (found["record"], -1), strict=True):
            for kind in ("single", "ensemble"):
                at = {name: found[f"{kind} {name}"][record] for name in UNITS}
                outcomes.once(f"{kind}, {place}", seed, lambda at=at: at)
    every = lambda name: np.array([found[name] for found in curves])
    steps = curves[0]["steps"]
    pictures = plot_choice(
        out / "ensemble",
        steps,
        {
            "bound\n(nats per image)": {"bound": every("bound")},
            "test log likelihood\n(nats per image)": {
                "one network": every(f"single {LIKELIHOOD}"),
                f"mean of {settings.members}": every(f"ensemble {LIKELIHOOD}"),
            },
            "test error (%)\n": {
                "one network": every(f"single {ERROR}"),
                f"mean of {settings.members}": every(f"ensemble {ERROR}"),
            },
        },
        xlabel="steps of gradient descent",
        title="The mean of several predictions is better than one, all along",
    )
    gains = every(f"ensemble {LIKELIHOOD}") - every(f"single {LIKELIHOOD}")
    at_peak = sum(gain[found["record"]] > 0 for gain, found in zip(gains, curves, strict=True))
    return write_report(
        out,
        f"Ensembles of {settings.members}, {settings.width} units, {settings.training.train} images of MNIST",
        [found for found in outcomes if found.method != "curves"],
        UNITS,
        differences=[(f"ensemble, {place}", f"single, {place}") for place in PLACES],
        notes=[
            "Single: the mean over members.",
            f"The ensemble has the higher test likelihood with {at_peak} of {settings.seeds} seeds at the "
            f"peak, with {sum(gains[:, -1] > 0)} at the end.",
            f"The bound peaks at steps {[found['stop at step'] for found in curves]}.",
        ],
        files=pictures,
    )


def _one(settings: Settings, seed: int) -> dict[str, Any]:
    rows = training.split(settings.training, seed)
    key = jax.random.key(seed)
    trace = training.train_ensemble(settings.training, settings.width, settings.members, rows, key)
    stopping = choose_stopping(trace)
    singles, together = _judged(trace.monitored, rows.test)
    return {
        "record": stopping.record,
        "stop at step": stopping.step,
        "trusted to": stopping.trusted_to,
        "steps": trace.step[0],
        "bound": trace.elbo.mean(0) / settings.training.train,
        f"single {LIKELIHOOD}": singles.log_likelihood.mean(0),
        f"ensemble {LIKELIHOOD}": together.log_likelihood,
        f"single {ERROR}": 100 * singles.error.mean(0),
        f"ensemble {ERROR}": 100 * together.error,
    }


@jax.jit
def _judged(scores, rows: data.Rows):
    """Of scores [members, records, images, 10]: of each member, and of their mean probabilities."""
    judge = lambda scores: training.judge(scores, rows)
    log_p = jax.nn.log_softmax(scores)
    mean = jax.nn.logsumexp(log_p, 0) - jnp.log(len(scores))
    return jax.vmap(jax.vmap(judge))(scores), jax.vmap(judge)(mean)
