"""Training of a network of one hidden layer on images of digits, with the account of the bound.

One can
- train one (`train`), with the bound, test likelihood and test error at each record,
- train several from several draws, for the mean of their predictions (`train_ensemble`).

Batches go around; the step size is rate / rows, so that a rate suits any number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from chainrule.inference.entropic import Trace, run, run_ensemble
from chainrule.inference.experiments import data, networks


@dataclass(frozen=True)
class Training:
    """Sizes of a training run."""

    train: int = 2000  # images
    test: int = 1000
    side: int = 14  # pixels of a row of an image, averaged from 28
    batch_size: int = 250
    rate: float = 0.04
    steps: int = 200
    record_every: int = 5


class Judged(NamedTuple):
    """On test images, at each record."""

    log_likelihood: Float[Array, "*lanes"]  # nats per image
    error: Float[Array, "*lanes"]  # part of the images that are taken for another class


def split(settings: Training, seed: int) -> data.Split:
    return data.images(seed, settings.train, settings.test, settings.side)


def train(
    settings: Training, width: int, rows: data.Split, key: Key[Array, ""], threshold: Any = None
) -> tuple[Any, Trace]:
    """One network; the trace has Judged as `monitored`.

    Args:
        threshold: of the gradient, in units of rows: for `run` it is multiplied by their number.
    """
    return _train(settings, width, rows, key, threshold)


def train_ensemble(
    settings: Training, width: int, members: int, rows: data.Split, key: Key[Array, ""]
) -> Trace:
    """Networks from several draws; `monitored` is the test scores of each, [members, records, images, 10]."""
    return _train_ensemble(settings, width, members, rows, key)


def judge(scores: Float[Array, "rows classes"], rows: data.Rows) -> Judged:
    right = jnp.argmax(scores, -1) == rows.targets
    likelihood = networks.class_log_likelihood(scores, rows)
    return Judged(likelihood / len(rows.targets), 1 - jnp.mean(right))


def log_likelihood(layers: networks.Layers, rows: data.Rows) -> Float[Array, ""]:
    return networks.class_log_likelihood(networks.outputs(layers, rows.inputs), rows)


def _options(settings: Training, rows: data.Split) -> dict[str, Any]:
    return dict(
        data=rows.train,
        batch_size=settings.batch_size,
        step_size=settings.rate / settings.train,
        steps=settings.steps,
        record_every=settings.record_every,
        method="bound",  # the paper's
        watch_steps=3,
    )


def _prior(width: int, rows: data.Split):
    return networks.layer_prior((rows.train.inputs.shape[1], width, data.CLASSES))


@partial(jax.jit, static_argnums=(0, 1))
def _train(settings, width, rows, key, threshold):
    return run(
        key,
        log_likelihood,
        _prior(width, rows),
        gradient_threshold=None if threshold is None else threshold * settings.train,
        monitor=lambda layers: judge(networks.outputs(layers, rows.test.inputs), rows.test),
        **_options(settings, rows),
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train_ensemble(settings, width, members, rows, key):
    _, trace = run_ensemble(
        key,
        members,
        log_likelihood,
        _prior(width, rows),
        monitor=lambda layers: networks.outputs(layers, rows.test.inputs),
        **_options(settings, rows),
    )
    return trace
