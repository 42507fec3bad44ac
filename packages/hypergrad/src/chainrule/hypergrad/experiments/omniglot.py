"""Which layers of which tasks should share weights, learned: networks that read the alphabets of Omniglot.

One can
- compare learned sharing with separate networks, and with a first layer that all have in common (`run`, or
  `python -m chainrule.hypergrad omniglot`).

The tasks are to tell apart the characters of an alphabet, and of the same alphabet turned by 90 degrees. Of
the drawings of each character, some are for training and some for the test; a turned drawing is where it is
upright. At each meta-step the training drawings are divided anew, into those that train and those that
validate. All methods learn the learning rate, the scale of initial weights and the penalty of each layer,
from the same start, in as many meta-steps; one of them also learns the sharing matrices, which begin with
most in common in the first layer and nothing in the last. Then each trains on all training drawings, and is
judged.

A single entry of a sharing matrix moves the loss by less than the choice of validation drawings does. Adam
would give each entry its own second moment, hence all of them steps of one size, noise to most. NovoGrad has
one for each matrix: what many meta-steps agree on moves, the rest hardly.

Source: Maclaurin et al., section 4.3, table 1, whose columns "error" are negative log-likelihoods: .607 and
1.343 in training and test for separate networks, .897 and 1.246 with a common first layer, .604 and 1.130
with learned sharing; on other alphabets, with one seed.
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
from jaxtyping import Array, PyTree

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.hypergrad.experiments.divisions import Divided, Drawings, divide, redivide, standardised
from chainrule.hypergrad.experiments.judging import SKIPPED, skipped
from chainrule.hypergrad.experiments.learning import learn
from chainrule.hypergrad.experiments.omniglot_images import find, make_tasks, read_alphabets
from chainrule.hypergrad.experiments.sharing import (
    Layers,
    init,
    mixed,
    sharing_matrix,
    task_errors,
    task_nlls,
)
from chainrule.hypergrad.training import train

SEPARATE, TIED, LEARNED = "separate networks", "common first layer", "learned sharing"
CORRELATIONS = {SEPARATE: (0.0, 0.0, 0.0), TIED: (1.0, 0.0, 0.0), LEARNED: (0.9, 0.3, 0.0)}  # of each layer
MINUTES = 11 / 5 / 40 / 5 / 14**2  # for a seed, a meta-step of all methods, an alphabet and a pixel; measured
UNITS = {"training NLL": "nats", "test NLL": "nats", "test error": "%"}
FIRST = {"log_rates": 0.0, "log_penalties": -4.5}  # of each layer; the scales begin at 1 / sqrt(inputs)


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    path: Path | None = None  # of the zip file; None for that in $CHAINRULE_DATA
    side: int = 14  # pixels
    hidden: tuple[int, int] = (64, 32)
    alphabets: int = 5
    train: int = 12  # drawings of a character
    test: int = 3
    validation: int = 2  # of those in training
    steps: int = 50
    momentum: float = 0.9
    meta_steps: int = 40
    meta_rate: float = 0.1  # of Adam, at first; it falls to zero
    sharing_rate: float = 0.02  # of NovoGrad, for the sharing matrices, likewise
    judged_trainings: int = 5  # from different initial weights, for the mean


FULL = Settings()
QUICK = Settings(side=10, hidden=(24, 16), alphabets=2, meta_steps=20)


def plan(settings: Settings) -> str:
    find(settings.path)  # what is missing is missed now
    work = settings.seeds * settings.meta_steps * settings.alphabets * settings.side**2
    minutes = max(1, round(MINUTES * work))
    return (
        f"Networks for {settings.alphabets} alphabets of Omniglot and the same turned: separate, with a "
        f"common first layer, and with learned sharing; {settings.meta_steps} meta-steps of {settings.steps} "
        f"steps for each. {settings.seeds} seeds, about {minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Learn and judge with each seed; show the correlations that the first one learned."""
    from chainrule.hypergrad.experiments.plot import plot_sharing

    alphabets = read_alphabets(find(settings.path), settings.side)[: settings.alphabets]
    tasks = make_tasks(alphabets)
    identity = {"experiment": "omniglot", **dataclasses.asdict(settings), "path": None}
    outcomes = Outcomes(out, identity | {"drawings": [len(x) for x in tasks]}, resume=resume)
    done = 0
    for seed in range(settings.seed, settings.seed + settings.seeds):
        pool = divide(tasks, np.random.default_rng(seed), settings.train, settings.test)
        for method in CORRELATIONS:
            progress(f"seed {seed}, {method}", done, settings.seeds * len(CORRELATIONS))
            outcomes.once(method, seed, partial(_outcome, settings, method, pool, jax.random.key(seed)))
            done += 1
    sharing = np.asarray(outcomes.once(LEARNED, settings.seed, dict).measures["sharing"])
    names = [alphabet.name.replace("_", " ") for alphabet in alphabets]
    pictures = plot_sharing(
        out / "sharing",
        correlations(sharing),
        [*names, *(f"{name}, turned" for name in names)],
        title="Tasks share most in the layers where correlations are dark",
    )
    return write_report(
        out,
        f"Omniglot, {len(tasks)} tasks: mean over tasks",
        outcomes,
        UNITS,
        differences=[(LEARNED, SEPARATE), (LEARNED, TIED)],
        notes=[skipped(outcomes)],
        files=pictures,
    )


def trained(settings: Settings, meta: dict[str, Any], drawings: Drawings, key: Array) -> Layers:
    """The networks of all tasks, trained together as the matrices meta["sharing"] couple them."""

    def loss(latent, meta, drawings, key):
        penalties = [jnp.sum(layer["w"] ** 2) for layer in latent]
        nll = jnp.sum(task_nlls(mixed(meta["sharing"], latent), drawings))
        return nll + jnp.exp(meta["log_penalties"]) @ jnp.stack(penalties)

    tasks, characters, _, pixels = drawings.pixels.shape
    latent = train(
        loss,
        init(key, tasks, (pixels, *settings.hidden, characters), meta["log_scales"]),
        meta,
        [*jnp.exp(meta["log_rates"])],
        settings.momentum,
        data=drawings,
        steps=settings.steps,
        precision="single",
    ).params
    return mixed(meta["sharing"], latent)


def correlations(sharing: np.ndarray) -> np.ndarray:
    """Of the weights of tasks whose latent weights are independent."""
    covariances = sharing @ sharing.transpose(0, 2, 1)
    spreads = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return covariances / (spreads[:, :, None] * spreads[:, None, :])


def _outcome(settings: Settings, method: str, pool: Divided, key: Array) -> dict[str, Any]:
    sharing = [sharing_matrix(len(pool.learn.pixels), rho) for rho in CORRELATIONS[method]]
    fan_in = np.asarray([pool.learn.pixels.shape[3], *settings.hidden])
    meta: dict[str, Any] = {name: np.full(3, value, np.float32) for name, value in FIRST.items()}
    meta |= {"log_scales": np.float32(-0.5 * np.log(fan_in)), "sharing": sharing}
    learned = _learned(settings, np.float32(method == LEARNED), meta, pool.learn, jax.random.fold_in(key, 0))
    judged = _judged(settings, learned.meta, pool, jax.random.fold_in(key, 1))
    return {**learned.meta, "curve": learned.objectives, SKIPPED: learned.skipped, **judged}


@partial(jax.jit, static_argnums=0)
def _learned(settings: Settings, free: Array, meta: PyTree, drawings: Drawings, key: Array):
    """free: 1 to learn the sharing matrices too, 0 to leave them."""

    def objective(learned, key):
        division_key, weights_key = jax.random.split(key)
        divided = standardised(redivide(drawings, division_key, settings.validation))
        held = lambda first, now: first + free * (now - first)
        sharing = jax.tree.map(held, meta["sharing"], learned["sharing"])
        layers = trained(settings, learned | {"sharing": sharing}, divided.learn, weights_key)
        return jnp.mean(task_nlls(layers, divided.judge))

    falling = lambda rate: optax.cosine_decay_schedule(rate, settings.meta_steps)
    optimizers: dict[Any, Any] = {
        "sharing": optax.novograd(falling(settings.sharing_rate), b1=0.9, b2=0.99),
        "others": optax.adam(falling(settings.meta_rate)),
    }
    optimizer = optax.partition(optimizers, {name: name if name in optimizers else "others" for name in meta})
    return learn(objective, meta, optimizer, key, settings.meta_steps)


@partial(jax.jit, static_argnums=0)
def _judged(settings: Settings, meta: PyTree, pool: Divided, key: Array) -> dict[str, Array]:
    divided = standardised(pool)

    def judged(key):
        layers = trained(settings, meta, divided.learn, key)
        return {
            "training NLL": jnp.mean(task_nlls(layers, divided.learn)),
            "test NLL": jnp.mean(task_nlls(layers, divided.judge)),
            "test error": 100 * jnp.mean(task_errors(layers, divided.judge)),
        }

    found = jax.lax.map(judged, jax.random.split(key, settings.judged_trainings))
    return jax.tree.map(jnp.mean, found)
