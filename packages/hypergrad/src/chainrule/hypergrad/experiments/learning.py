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

    meta: PyTree  # the last; or the best of all, if they were judged
    objectives: Float[Array, " meta_steps"]  # each before its step
    judged: Float[Array, " meta_steps"]  # likewise; NaN if they were not
    skipped: Int[Array, ""]  # meta-steps without a derivative that can be trusted; nothing moved at these


def learn(
    objective: Callable[[PyTree, Array], Array],
    meta: PyTree,
    optimizer: optax.GradientTransformation,
    key: Array,
    meta_steps: int,
    *,
    judge: Callable[[PyTree], Array] | None = None,
) -> Learned:
    """Minimise objective(meta, key), which trains, each time with a key of its own.

    `train` makes derivatives NaN if its certificate does not hold, so those that are finite can be trusted.

    Args:
        judge: a number for meta, by rows that the objective does not see. Returned is, of those that a step
            began with, the meta for which it is lowest: learning stops early, in effect.
    """

    def meta_step(state, key):
        (meta, optimizer_state), best = state
        value, gradient = jax.value_and_grad(objective)(meta, key)
        judged = value + jnp.nan if judge is None else judge(meta)
        better = judged < best[1]  # never, of NaN
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), (meta, judged), best)
        taken = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        updates, moved_state = optimizer.update(gradient, optimizer_state, meta)
        moved = optax.apply_updates(meta, updates), moved_state
        kept = jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, (meta, optimizer_state))
        return (kept, best), (value, judged, taken)

    number = jax.eval_shape(objective, meta, key).dtype
    start = (meta, optimizer.init(meta)), (meta, jnp.asarray(jnp.inf, number))
    ((last, _), (best, _)), told = jax.lax.scan(meta_step, start, jax.random.split(key, meta_steps))
    objectives, judged, taken = told
    return Learned(last if judge is None else best, objectives, judged, jnp.sum(~taken))
