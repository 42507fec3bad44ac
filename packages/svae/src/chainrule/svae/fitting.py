"""Training on arrays: mini-batches, chunks of steps in one program, and a word on how it goes.

fit(svae, key, data, steps=...)   -> SVAEState, History
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Key

from chainrule.svae.autoencoder import SVAE, Metrics, SVAEState

CHUNK = 50  # steps between two looks at the metrics


class History(NamedTuple):
    """What was seen on the way, at the end of each chunk."""

    steps: np.ndarray  # (chunks,)
    metrics: Metrics  # means over the steps of a chunk, (chunks,) each


def fit(
    svae: SVAE,
    key: Key[Array, ""],
    data: Array,
    *,
    steps: int,
    batch_size: int,
    mask: Bool[Array, "..."] | None = None,
    model: Any = None,
    state: SVAEState | None = None,
    callback: Callable[[SVAEState, Metrics], None] | None = None,
) -> tuple[SVAEState, History]:
    """Train on random mini-batches.

    Args:
        svae: what to learn.
        key: for initial weights and mini-batches.
        data: (data, ...), or (sequences, frames, ...); NaN where nothing was seen.
        steps: how many in all, those of `state` included.
        batch_size: data of a step, drawn without replacement.
        mask: what was seen, as in `SVAE.step`.
        model: natural parameters to start from, as in `SVAE.init`.
        state: to go on from, the outcome of an earlier call with the same key.
        callback: what to do every 50 steps with the state, and the means of metrics since the last time.

    Returns:
        the state after the last step, and the metrics.

    Raises:
        ValueError: for a batch larger than the data.
        FloatingPointError: when the bound is no longer a number.
    """
    if not 1 <= batch_size <= len(data):
        raise ValueError(
            f"fit: batch_size is {batch_size}: with {len(data)} data it must be from 1 to {len(data)}"
        )
    start_key, batch_key = jax.random.split(key)
    state = svae.init(start_key, data[:1], model) if state is None else state
    done, seen, chunk = (
        int(state.steps),
        [],
        jax.jit(partial(_chunk, svae, batch_size), static_argnames="count"),
    )
    while done < steps:
        count = min(CHUNK - done % CHUNK, steps - done)
        state, metrics = chunk(state, batch_key, data, mask, count=count)
        done += count
        if not np.isfinite(metrics.elbo):
            raise FloatingPointError(
                f"fit: the bound is {float(metrics.elbo)} after {done} steps. Lower rho or the rate of the "
                "optimizer, or clip its gradients by optax.clip_by_global_norm"
            )
        seen.append((done, metrics))
        if callback:
            callback(state, metrics)
    metrics = Metrics(*(jnp.array([getattr(m, name) for _, m in seen]) for name in Metrics._fields))
    return state, History(np.array([n for n, _ in seen]), metrics)


def _chunk(svae, batch_size, state, key, data, mask, count):
    def step(state, _):
        rows = jax.random.choice(
            jax.random.fold_in(key, state.steps), len(data), (batch_size,), replace=False
        )
        return svae.step(state, data[rows], None if mask is None else mask[rows])

    state, metrics = lax.scan(step, state, length=count)
    return state, jax.tree.map(jnp.mean, metrics)
