"""A training set of one image for each class, learned from blank images.

One can
- compare it with real images, and with the mean of each class (`run`, or `python -m chainrule.hypergrad
  learned-data`).

A logistic regression is trained on ten images, and judged by the rest. All methods make the ten of the same
rows, and choose on the same validation rows. Real images are the best of as many sets as there are
meta-steps, each with the best penalty and learning rate of a grid; the means of classes have that grid too.
Images are learned by the derivative of the loss on the rows they are made of, together with penalty and
learning rate, and are those of the meta-step that was best on validation rows: 7,840 numbers fit any rows
that they are learned by, if one goes on.

Source: Maclaurin et al., section 4.2, figure 8.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.hypergrad.experiments import images, networks
from chainrule.hypergrad.experiments.judging import SKIPPED, UNITS, judge, skipped
from chainrule.hypergrad.experiments.learning import learn
from chainrule.hypergrad.training import train

REAL, MEANS, LEARNED = "best real images", "class means", "learned images"
LOG_PENALTIES = (-12.0, 2.0)  # the ends of the grid
LOG_RATES = (-5.0, 1.0)
LABELS = np.arange(images.CLASSES, dtype=np.int32)


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    data: images.Name = "mnist"
    train: int = 2000  # rows that the ten are taken from, averaged over or learned by
    validation: int = 1500
    test: int = 1500
    steps: int = 20
    momentum: float = 0.9
    grid: int = 20  # penalties
    rates: int = 7  # for each of them
    meta_steps: int = 100
    meta_rate: float = 0.05  # of Adam


FULL = Settings()
QUICK = Settings(train=500, validation=500, test=700, meta_steps=50)


def plan(settings: Settings) -> str:
    minutes = max(1, round(settings.seeds * settings.meta_steps / 250))
    return (
        f"Ten images of {settings.data} as a training set, for {settings.steps} steps: real ones, the best "
        f"of {settings.meta_steps} draws, class means, and learned in {settings.meta_steps} meta-steps. "
        f"{settings.seeds} seeds, about {minutes} minutes on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Choose ten images with each seed, judge them, and show those of the first seed."""
    from chainrule.hypergrad.experiments.plot import plot_images

    data = images.load(settings.data)
    identity = {"experiment": "learned-data", **dataclasses.asdict(settings), "data": data.name}
    outcomes = Outcomes(out, identity, resume=resume)
    for number in range(settings.seeds):
        progress("choosing images", number, settings.seeds)
        _one_seed(settings, outcomes, data, settings.seed + number)
    pictures = []
    for method in (REAL, MEANS, LEARNED):
        found = outcomes.once(method, settings.seed, dict).measures["images"]
        pictures += plot_images(
            out / method.replace(" ", "-"),
            np.asarray(found).reshape(-1, data.side, data.side),
            [f"{label}" for label in LABELS],
            title=f"A training set of one image for each class: {method}",
            quantity="brightness less the mean, in standard deviations",
        )
    return write_report(
        out,
        f"Training sets of ten images, {data.name}",
        outcomes,
        UNITS,
        differences=[(LEARNED, REAL), (LEARNED, MEANS)],
        notes=[skipped(outcomes)],
        files=pictures,
    )


def _one_seed(settings: Settings, outcomes: Outcomes, data: images.Images, seed: int) -> None:
    sizes = dict(train=settings.train, validation=settings.validation, test=settings.test)
    split = images.split(data, seed, **sizes)
    rows = jax.tree.map(np.asarray, split.train)
    of_class = [np.flatnonzero(rows.labels == label) for label in LABELS]

    @functools.cache
    def tried():
        rng = np.random.default_rng(seed)
        draws = np.stack([rng.choice(place, settings.meta_steps) for place in of_class], axis=1)
        means = np.stack([rows.images[place].mean(0) for place in of_class])
        return _best_of(settings, np.concatenate([rows.images[draws], means[None]]), split)

    def best_of(places: slice) -> dict[str, Any]:
        found, nlls = jax.tree.map(lambda x: np.asarray(x)[places], tried())
        best = int(np.nanargmin(nlls))
        return _judged(settings, {name: value[best] for name, value in found.items()}, split)

    def learned():
        blank = np.zeros((images.CLASSES, rows.images.shape[1]), np.float32)
        meta = {"images": blank, "log_penalty": np.float32(-6.0), "log_rate": np.float32(0.0)}
        found = _learned(settings, meta, split)
        curves = {"curve": found.objectives, "validation curve": found.judged}
        return {**_judged(settings, found.meta, split), SKIPPED: found.skipped, **curves}

    outcomes.once(REAL, seed, lambda: best_of(slice(None, -1)))
    outcomes.once(MEANS, seed, lambda: best_of(slice(-1, None)))
    outcomes.once(LEARNED, seed, learned)


def trained(settings: Settings, meta: dict[str, Array]) -> networks.Layers:
    """The logistic regression, from weights of zero, on all of meta["images"] at each step."""

    def loss(layers, log_penalty, batch, key):
        penalty = jnp.exp(log_penalty) * jnp.sum(layers[0]["w"] ** 2)
        return networks.nll(layers, batch, jnp.asarray(LABELS)) + penalty

    return train(
        loss,
        networks.zeros((meta["images"].shape[1], images.CLASSES)),
        meta["log_penalty"],
        jnp.exp(meta["log_rate"]),
        settings.momentum,
        data=meta["images"],
        steps=settings.steps,
        precision="single",
    ).params


@partial(jax.jit, static_argnums=0)
def _judged(settings, meta, split):
    return {**meta, **judge(trained(settings, meta), split)}


@partial(jax.jit, static_argnums=0)
def _best_of(settings: Settings, candidates: Float[Array, "sets classes pixels"], split: images.Split):
    """Each set with the penalty and the rate that suit it best, and the validation NLLs of all."""
    log_penalties, log_rates = jnp.meshgrid(
        jnp.linspace(*LOG_PENALTIES, settings.grid, dtype=candidates.dtype),
        jnp.linspace(*LOG_RATES, settings.rates, dtype=candidates.dtype),
    )

    def best(candidate):
        with_it = lambda log_penalty, log_rate: {
            "images": candidate,
            "log_penalty": log_penalty,
            "log_rate": log_rate,
        }
        nll = lambda *chosen: networks.nll(trained(settings, with_it(*chosen)), *split.validation)
        nlls = jax.vmap(nll)(log_penalties.ravel(), log_rates.ravel())
        place = jnp.nanargmin(nlls)
        return with_it(log_penalties.ravel()[place], log_rates.ravel()[place]), nlls[place]

    return jax.lax.map(best, candidates)


@partial(jax.jit, static_argnums=0)
def _learned(settings, meta, split):
    objective = lambda meta, key: networks.nll(trained(settings, meta), *split.train)
    judge = lambda meta: networks.nll(trained(settings, meta), *split.validation)
    adam = optax.adam(settings.meta_rate)
    keys = jax.random.key(0)  # which nothing here depends on
    return learn(objective, meta, adam, keys, settings.meta_steps, judge=judge)
