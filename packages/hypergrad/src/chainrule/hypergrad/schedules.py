"""Learning rates and momenta, for all of training or step by step, for all parameters or layer by layer.

spread(name, schedule, params, steps)     one array of steps for each leaf of params
groups(learning_rate, momentum, ...)      what has its schedules in common
spill_plans(momentum, params, ...)        the momenta that are really used, and where their bits go
to_sgd(learning_rate, momentum)           the same training in the convention of optax.sgd
as_schedule(values)                       a learned schedule as one of optax

A schedule is a number, an array of one number a step, or a prefix of the tree of parameters with such
leaves: {"encoder": 0.1, "decoder": jnp.linspace(0.1, 0.0, steps)}.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from chainrule.hypergrad.bits import IMPOSSIBLE, SpillPlan, bounded_spill_plan, numerators, spill_plan
from chainrule.hypergrad.exact import wide


def to_sgd(learning_rate: PyTree, momentum: PyTree) -> tuple[PyTree, PyTree]:
    """The learning rate and momentum with which optax.sgd makes the same steps.

    We train by v <- b v - (1 - b) g, x <- x + a v; optax.sgd by m <- u m + g, x <- x - l m. From rest, both
    go through the same x if m = -v / (1 - b), which means

        l[t] = a[t] (1 - b[t]),    u[t] = b[t] (1 - b[t - 1]) / (1 - b[t]).

    A constant momentum stays what it is. The other way for such a one: a = l / (1 - u).

    Args:
        learning_rate: numbers, or arrays of one a step, in any tree.
        momentum: likewise, in the same tree, below one everywhere.

    Returns:
        The two, each like `momentum` and `learning_rate` taken together.

    Raises:
        ValueError: for a momentum of one, or NaN; if it is traced, numbers are infinite or NaN there.

    Example:
        >>> rate, momentum = to_sgd(1.0, 0.9)
        >>> print(f"{rate:.2f} {momentum:.2f}")
        0.10 0.90
    """

    def convert(a, b):
        a, b = jnp.asarray(a), jnp.asarray(b)
        if not isinstance(b, jax.core.Tracer) and not (b < 1).all():
            raise ValueError(
                f"to_sgd: momentum is {b.max()}: a step that takes no gradient has no equal in optax.sgd; "
                "give momenta below 1"
            )
        before = b if b.ndim == 0 else jnp.concatenate([b[:1], b[:-1]])
        return a * (1 - b), b * (1 - before) / (1 - b)

    pairs = jax.tree.map(convert, learning_rate, momentum)
    structure = jax.tree.structure(learning_rate)
    return jax.tree.transpose(structure, jax.tree.structure((0, 0)), pairs)


def as_schedule(values: ArrayLike) -> optax.Schedule:
    """A schedule of optax: the value of each step, and after the last step the last value.

    Args:
        values: one number for each step; or a single one.

    Returns:
        schedule(step) -> value, for optax.sgd(schedule) and optax.inject_hyperparams, after `to_sgd`.

    Example:
        >>> schedule = as_schedule(np.array([0.3, 0.2, 0.1]))
        >>> print([f"{schedule(step):.1f}" for step in (0, 2, 7)])
        ['0.3', '0.1', '0.1']
    """
    values = jnp.atleast_1d(jnp.asarray(values))
    if values.ndim != 1 or not values.size:
        raise ValueError(f"as_schedule: values have shape {values.shape}: give one number for each step")
    return lambda step: values[jnp.minimum(step, len(values) - 1)]


def spread(name: str, schedule: PyTree, params: PyTree, steps: int) -> list[Float[Array, "*lanes steps"]]:
    """The schedule of each leaf of params, in that leaf's dtype, or float32 if it is shorter; differentiable.

    In bfloat16 a momentum of 0.999 would be 1, and the gradient lost.
    """
    pairs = zip(_leaf_by_leaf(name, schedule, params, steps), jax.tree.leaves(params), strict=True)
    return [jnp.broadcast_to(jnp.asarray(s, wide(x.dtype)), steps) for s, x in pairs]


def groups(
    learning_rate: PyTree, momentum: PyTree, params: PyTree, steps: int
) -> tuple[tuple[int, ...], ...]:
    """The leaves of params, by their number, that have one and the same schedules, and a dtype."""
    found: dict[tuple, list[int]] = {}
    schedules = zip(
        _leaf_by_leaf("learning_rate", learning_rate, params, steps),
        _leaf_by_leaf("momentum", momentum, params, steps),
        jax.tree.leaves(params),
        strict=True,
    )
    for i, (rate, m, x) in enumerate(schedules):
        found.setdefault((id(rate), id(m), x.dtype), []).append(i)
    return tuple(map(tuple, found.values()))


def spill_plans(
    momentum: PyTree, params: PyTree, steps: int, min_momentum: float | None, denominator_bits: int
) -> tuple[list[SpillPlan], PyTree]:
    """A plan for each leaf of params, and the momenta that are really used, a tree like `momentum`."""
    if min_momentum is not None and not 1 / 256 <= min_momentum <= 1:
        raise ValueError(f"train: min_momentum is {min_momentum}: it must be from 1/256 to 1")
    leaves = _leaf_by_leaf("momentum", momentum, params, steps)
    plans = {
        id(m): _spill_plan("momentum" + jax.tree_util.keystr(path), m, steps, min_momentum, denominator_bits)
        for path, m in jax.tree_util.tree_leaves_with_path(momentum)
    }
    return [plans[id(m)] for m in leaves], jax.tree.map(lambda m: plans[id(m)].momenta, momentum)


def _spill_plan(
    place: str, momentum: ArrayLike, steps: int, min_momentum: float | None, denominator_bits: int
) -> SpillPlan:
    with jax.ensure_compile_time_eval():
        momentum = lax.stop_gradient(momentum)  # the number itself, if nothing but jax.grad traces it
    if isinstance(momentum, jax.core.Tracer):
        if min_momentum is None:
            raise ValueError(
                f"train: {place} is traced, so that nobody can tell beforehand how many bits it will lose: "
                "say min_momentum, the least that it will be, or keep it out of jax.jit and jax.vmap"
            )
        n = numerators(jnp.broadcast_to(momentum, steps), denominator_bits)
        return bounded_spill_plan(n, int(min_momentum * 2**denominator_bits), denominator_bits)
    with jax.ensure_compile_time_eval():
        n = numerators(jnp.broadcast_to(momentum, steps), denominator_bits)
        if (wrong := np.flatnonzero(np.asarray(n) == IMPOSSIBLE)).size:
            value = np.broadcast_to(np.asarray(momentum), steps)[wrong[0]]
            raise ValueError(
                f"train: {place} is {value} at step {wrong[0]}: give 0, or 1, or a number from 1/256, below "
                f"which a step loses more than a byte, to 1 - 2^-{denominator_bits + 1}, beyond which it "
                "would be rounded to 1. With precision='double' that is 1 - 2^-17"
            )
        return spill_plan(n, denominator_bits)


def _leaf_by_leaf(name: str, schedule: PyTree, params: PyTree, steps: int) -> list[ArrayLike]:
    """The leaf of the schedule that is meant for each leaf of params."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(schedule):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"train: {name}{jax.tree_util.keystr(path)} is complex: give real numbers")
        if jnp.shape(leaf) not in ((), (steps,)):
            raise ValueError(
                f"train: {name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}: give one number, or "
                f"one for each of the {steps} steps"
            )
    try:
        return jax.tree.leaves(jax.tree.broadcast(schedule, params))
    except ValueError as error:
        raise ValueError(
            f"train: {name} is {jax.tree.structure(schedule)}, no prefix of the tree of params, "
            f"{jax.tree.structure(params)}: give one number or array for all, or one for each branch"
        ) from error
