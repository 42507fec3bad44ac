"""The training loss as a function of arrays only: weights, all else, and the number of the step.

    traced(loss, params, hyper, data, key, batch_size)      -> TracedLoss(step, others)

A derivative must know all that the loss depends on. What a user's function closes over, hyperparameters of
an outer derivative among it, is found by tracing it once, and joins the arguments. What is random in a step
is drawn apart, and so is the batch picked: these are integers and copies, the same wherever they are
computed, and whoever asks twice for the loss of a step draws and picks once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jaxtyping import Array, Int32, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class StepLoss:
    """The loss of a step in its parts, functions of arrays."""

    draw: Callable[[list[Array], Int32[Array, ""]], Any]  # others, step -> rows of the batch, a key
    pick: Callable[[list[Array], Any], Any]  # others, drawn -> the batch; None if data are not drawn from
    at: Callable[[list[Array], list[Array], Any, Any, Int32[Array, ""]], Array]
    """weights, others, batch, drawn, step -> the loss."""
    data: range  # the places, among others, of the leaves of data


@dataclasses.dataclass(frozen=True)
class TracedLoss:
    step: StepLoss
    others: list[Array]  # leaves of hyper, of data, the key, and what was closed over

    def value(self, weights: list[Array], others: list[Array], t: Int32[Array, ""]) -> Array:
        drawn = self.step.draw(others, t)
        return self.step.at(weights, others, self.step.pick(others, drawn), drawn, t)


def traced(
    loss: Callable, params: PyTree, hyper: PyTree, data: Any, key: Array | None, batch_size: int | None
) -> TracedLoss:
    """The loss of a step, the choice of its batch included."""
    if not callable(loss):
        raise TypeError(f"train: loss must be a function loss(params, hyper, batch, key), got {loss!r}")
    arrays = None if callable(data) else jax.tree.map(jnp.asarray, data)
    _check_batches(data, arrays, key, batch_size)

    def draw(others, t):
        _, arrays, key = jax.tree.unflatten(structure, others[: structure.num_leaves])
        if key is None:
            return None, None
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, t))
        if batch_size is None:
            return None, loss_key
        return jax.random.randint(batch_key, (batch_size,), 0, len(jax.tree.leaves(arrays)[0])), loss_key

    def pick(others, drawn):
        _, arrays, _ = jax.tree.unflatten(structure, others[: structure.num_leaves])
        rows, _ = drawn
        return None if rows is None else jax.tree.map(lambda x: x[rows], arrays)

    def at_step(params, others, batch, drawn, t):
        hyper, arrays, _ = others
        _, loss_key = drawn
        if batch_size is None:
            batch = data(t) if callable(data) else arrays
        return loss(params, hyper, batch, loss_key)

    others = jax.tree.map(jnp.asarray, hyper), arrays, key
    explicit, structure = jax.tree.flatten(others)
    first = len(jax.tree.leaves(hyper))
    drawn = jax.eval_shape(draw, explicit, jnp.int32(0))
    batch = jax.eval_shape(pick, explicit, drawn)
    jaxpr, shape = jax.make_jaxpr(at_step, return_shape=True)(params, others, batch, drawn, jnp.int32(0))
    real = lambda x: x.shape == () and jnp.issubdtype(x.dtype, jnp.floating)
    if jax.tree.structure(shape) != jax.tree.structure(0) or not real(shape):
        raise TypeError(f"train: loss(params, hyper, batch, key) must return one real number, got {shape}")

    def at(weights, all_others, batch, drawn, t):
        known, closed_over = all_others[: structure.num_leaves], all_others[structure.num_leaves :]
        closed = jax.extend.core.ClosedJaxpr(jaxpr.jaxpr, closed_over)
        given = [*weights, *known, *jax.tree.leaves((batch, drawn)), t]
        (number,) = jax.extend.core.jaxpr_as_fun(closed)(*given)
        return number

    step = StepLoss(draw, pick, at, range(first, first + len(jax.tree.leaves(arrays))))
    return TracedLoss(step, [*explicit, *map(jnp.asarray, jaxpr.consts)])


def _check_batches(data, arrays, key, batch_size):
    if batch_size is None:
        return
    if batch_size < 1:
        raise ValueError(
            f"train: batch_size = {batch_size} must be a whole number from 1 on; None is for all of the data"
        )
    if key is None:
        raise ValueError("train: batch_size asks for random batches: give a key=jax.random.key(...)")
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(arrays)}
    if callable(data) or len(lengths) != 1 or () in lengths:
        raise ValueError(
            "train: batch_size draws rows of data, arrays with one and the same leading axis; got "
            f"{data if callable(data) else jax.tree.map(jnp.shape, arrays)}. A data(t) makes its own batches"
        )
    if (0,) in lengths:
        raise ValueError(
            f"train: batch_size = {batch_size} draws rows of data, which have no rows: "
            f"{jax.tree.map(jnp.shape, arrays)}"
        )
