"""Training by ordinary reverse mode: what reversal is compared with, and what runs any optimiser.

momentum_scan(loss, params, rates, momenta, steps)     our momentum, in floating point      -> Scan
optimizer_scan(loss, params, optimizer, steps)         any optax optimiser                  -> Scan
checkpointed_scan(step, carry, xs, levels)             the last carry, with a derivative that recomputes

With one level, `checkpointed_scan` keeps the carry of each of T steps; with two, that of every sqrt(T)-th,
and of sqrt(T) in between while it goes backwards; with L, L T^(1/L) carries at the cost of computing each
step L + 1 times.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PyTree

from chainrule.hypergrad.exact import wide
from chainrule.hypergrad.losses import TracedLoss


class Scan(NamedTuple):
    """Training as a scan: carry <- step(carry, x), for the x of xs in turn."""

    step: Callable[[PyTree, PyTree], PyTree]
    carry: PyTree
    xs: PyTree


def momentum_scan(
    loss: TracedLoss, params: list[Array], rates: list[Array], momenta: list[Array], steps: int
) -> Scan:
    """The carry is weights and velocities, the latter in float32 at least, as schedules are."""

    def step(carry, at):
        weights, velocities = carry
        t, rates, momenta = at
        g = jax.grad(loss.value)(weights, loss.others, t)
        g = [g.astype(b.dtype) for b, g in zip(momenta, g, strict=True)]
        velocities = [b * v - (1 - b) * g for b, v, g in zip(momenta, velocities, g, strict=True)]
        moves = [(a * v).astype(x.dtype) for a, v, x in zip(rates, velocities, weights, strict=True)]
        return [x + move for x, move in zip(weights, moves, strict=True)], velocities

    start = params, [jnp.zeros(x.shape, wide(x.dtype)) for x in params]
    return Scan(step, start, (jnp.arange(steps, dtype=jnp.int32), rates, momenta))


def optimizer_scan(
    loss: TracedLoss, params: PyTree, optimizer: optax.GradientTransformation, steps: int
) -> Scan:
    """The carry is weights and the optimizer's state."""

    def step(carry, t):
        params, state = carry
        value = lambda params: loss.value(jax.tree.leaves(params), loss.others, t)
        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return optax.apply_updates(params, updates), state

    return Scan(step, (params, optimizer.init(params)), jnp.arange(steps, dtype=jnp.int32))


def checkpointed_scan(
    step: Callable[[PyTree, PyTree], PyTree], carry: PyTree, xs: PyTree, levels: int
) -> PyTree:
    """The last carry of carry <- step(carry, x), for the x of xs in turn."""
    if levels == 0:
        return lax.scan(lambda carry, x: (step(carry, x), None), carry, xs)[0]
    if levels == 1:
        return checkpointed_scan(jax.checkpoint(step), carry, xs, 0)
    steps = len(jax.tree.leaves(xs)[0])
    block = block_length(steps, levels)
    many = steps // block * block
    inner = lambda carry, xs: checkpointed_scan(step, carry, xs, levels - 1)
    blocks = jax.tree.map(lambda x: x[:many].reshape(-1, block, *x.shape[1:]), xs)
    carry = checkpointed_scan(inner, carry, blocks, 1)
    if many < steps:
        carry = jax.checkpoint(inner)(carry, jax.tree.map(lambda x: x[many:], xs))
    return carry


def block_length(steps: int, levels: int) -> int:
    """Steps between two carries that are kept all the while."""
    return round(steps ** (1 - 1 / levels))
