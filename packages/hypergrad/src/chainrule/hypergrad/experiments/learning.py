"""The meta-loop as one compiled function, for experiments that learn the same again with each seed.

One can
- minimise by derivatives through whole trainings (`learn`).

`fit` compiles a meta-step for each call, and tells and keeps every one. Here, under jit, all meta-steps are
one program, compiled once for all seeds if their data are its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class Learned(NamedTuple):
    """Where a meta-loop ended."""

    meta: PyTree
    objectives: Float[Array, " meta_steps"]  # each before its step
    skipped: Int[Array, ""]  # meta-steps without a derivative that can be trusted; nothing moved at these


def learn(
    objective: Callable[[PyTree, Array], Array],
    meta: PyTree,
    optimizer: optax.GradientTransformation,
    key: Array,
    meta_steps: int,
) -> Learned:
    """Minimise objective(meta, key), which trains, each time with a key of its own.

    `train` makes derivatives NaN if its certificate does not hold, so those that are finite can be trusted.
    """

    def meta_step(state, key):
        meta, _ = state
        value, gradient = jax.value_and_grad(objective)(meta, key)
        taken = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        updates, optimizer_state = optimizer.update(gradient, state[1], meta)
        moved = optax.apply_updates(meta, updates), optimizer_state
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, state), (value, taken)

    start = meta, optimizer.init(meta)
    (meta, _), (objectives, taken) = jax.lax.scan(meta_step, start, jax.random.split(key, meta_steps))
    return Learned(meta, objectives, jnp.sum(~taken))
