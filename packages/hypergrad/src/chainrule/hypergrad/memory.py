"""What each method would need, before anything is run: from shapes and schedules alone.

memory_estimate(loss, params, ...)      method -> Memory(kept, moving, at_work)

With T steps, and bytes

    s    of what a step hands to the next: weights and velocities, or the state of an optimizer
    r    of what reverse mode keeps of one step: the residuals of its derivative, read off its jaxpr, but
         for those that are the same for all steps
    q    of the derivatives by learning rates and momenta at one step, one for each array of the parameters

the methods need

    naive         T (r + q)                  kept    2 s     moving
    checkpoint    (T / k + k) s + T q        kept    2 s     moving    r   at work, where k = sqrt(T)
    reversible    tape + T q                 kept    2 s'    moving    r   at work

where the tape of lost bits is as long as the spill plan says, and s' is fixed-point weights, velocities and
registers with their derivatives; traced momenta add the numbers of the plan. What moves is there twice: as
it arrives at a step, and as it leaves it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from chainrule.hypergrad.bits import SpillPlan
from chainrule.hypergrad.exact import Fixed
from chainrule.hypergrad.losses import traced
from chainrule.hypergrad.methods import block_length, momentum_scan, optimizer_scan
from chainrule.hypergrad.schedules import spill_plans, spread
from chainrule.hypergrad.training import FIXED, LEVELS

REGISTER_BYTES = 4
COPIES = 2  # of what moves


class Memory(NamedTuple):
    """Bytes."""

    kept: int  # for the way back: what grows with the number of steps
    moving: int  # weights, velocities, registers, and derivatives by these
    at_work: int  # the inside of one step

    @property
    def total(self) -> int:
        return sum(self)


def memory_estimate(
    loss: Callable[[PyTree, Any, Any, Any], Array],
    params: PyTree,
    hyper: PyTree,
    learning_rate: PyTree,
    momentum: PyTree,
    *,
    wrt: Sequence[str] = ("params", "hyper", "learning_rate", "momentum"),
    data: Any = None,
    batch_size: int | None = None,
    key: Array | None = None,
    steps: int,
    min_momentum: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> dict[str, Memory]:
    """The temporary memory of a value with its hypergradient, by each method; nothing is run.

    Args:
        params, hyper, data: arrays, or only their shapes, as `jax.eval_shape` gives them.
        wrt: what will be differentiated by, as in `value_and_hypergrad`.
        momentum: numbers, for they say how many bits are lost.
        min_momentum: of momenta that will be traced; then the tape is that for this one.
        others: as in `train`.

    Returns:
        A Memory for each of "naive", "checkpoint", "reversible single" and "reversible double"; for the first
        two only with an optimizer. ("implicit" keeps nothing that grows with the steps.) Neither arguments
        nor results are in it. The tests hold the total to within a factor of 1.5 of
        `compiled.memory_analysis()` of a small perceptron on CPU. Where the inside of one step is most of it,
        XLA may do with less; where it pads arrays, it needs more.

    Example:
        >>> loss = lambda x, target, batch, key: jnp.sum((x - target) ** 2)
        >>> weights = jnp.zeros(10_000, jnp.float32)
        >>> need = memory_estimate(loss, weights, weights, 0.1, 0.98, steps=10_000)
        >>> for method, memory in need.items():
        ...     print(f"{method:18} {memory.total / 1e6:6.1f} MB")
        naive              1200.4 MB
        checkpoint           16.4 MB
        reversible single     1.1 MB
        reversible double     1.2 MB
    """
    if "data" in wrt and callable(data):
        raise ValueError("memory_estimate: wrt = 'data' needs data that are arrays, not a function")
    given = params, hyper, key, learning_rate, momentum, *([] if callable(data) else [data])

    def scan(params, hyper, key, rate, momentum, *arrays):
        params = jax.tree.map(jnp.asarray, params)
        batches = arrays[0] if arrays else data
        traced_loss = traced(loss, params, hyper, batches, key, batch_size)
        if optimizer is not None:
            return optimizer_scan(traced_loss, params, optimizer, steps)
        rates = spread("learning_rate", rate, params, steps)
        momenta = spread("momentum", momentum, params, steps)
        return momentum_scan(traced_loss, jax.tree.leaves(params), rates, momenta, steps)

    carry, xs = jax.eval_shape(lambda *given: scan(*given)[1:], *given)
    at = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    places = lambda **names: [place for name, place in names.items() if name in wrt]
    by_others = places(hyper=1, data=5)
    by_schedules = places(learning_rate=1, momentum=2) if optimizer is None else []

    def residuals(carry, at, *given):
        def step(carry, schedules, others):
            at_step = _replaced(at, by_schedules, schedules) if by_schedules else at
            return scan(*_replaced(given, by_others, others)).step(carry, at_step)

        chosen = [at[place] for place in by_schedules], [given[place] for place in by_others]
        return jax.tree.leaves(jax.vjp(step, carry, *chosen)[1])

    jaxpr = jax.make_jaxpr(residuals)(carry, at, *given).jaxpr
    s, r = _bytes(carry), _varying(jaxpr, len(jax.tree.leaves((carry, at))))
    q = _bytes([at[place] for place in by_schedules])
    block = block_length(steps, LEVELS["checkpoint"])
    states = -(-steps // block) + block
    memories = {
        "naive": Memory(steps * (r + q), COPIES * s, 0),
        "checkpoint": Memory(states * s + steps * q, COPIES * s, r),
    }
    if optimizer is not None:
        return memories
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    others = _bytes(jax.eval_shape(lambda *given: [given[place] for place in by_others], *given))
    planned = momentum if min_momentum is None else jax.tree.map(lambda _: min_momentum, momentum)
    for precision, fixed in FIXED.items():
        plans, _ = spill_plans(planned, shapes, steps, min_momentum, fixed.denominator_bits)
        distinct = {id(plan): plan for plan in plans} if min_momentum is not None else {}
        numbers = sum(_bytes(plan) for plan in distinct.values())
        tape = sum(_tape_bytes(*pair, fixed) for pair in zip(plans, jax.tree.leaves(shapes), strict=True))
        moving = sum(x.size * (2 * fixed.bits // 8 + REGISTER_BYTES) for x in jax.tree.leaves(shapes))
        moving += s + others  # derivatives are as large as what they are by
        memories[f"reversible {precision}"] = Memory(tape + numbers + steps * q, COPIES * moving, r)
    return memories


def _replaced(items: Sequence, places: Sequence[int], others: Sequence) -> list:
    """The items, but others at those places."""
    changed = dict(enumerate(items)) | dict(zip(places, others, strict=True))
    return [*changed.values()]


def _tape_bytes(plan: SpillPlan, x: jax.ShapeDtypeStruct, fixed: type[Fixed]) -> int:
    return x.size * plan.bits(fixed.bits) // 8


def _varying(jaxpr: Any, first: int) -> int:
    """Bytes of the outputs that depend on one of the first inputs, each counted once."""
    varying = {*jaxpr.invars[:first]}
    known = lambda atom: not isinstance(atom, jax.extend.core.Literal)
    for equation in jaxpr.eqns:
        if varying & {atom for atom in equation.invars if known(atom)}:
            varying |= {*equation.outvars}
    return _bytes([out.aval for out in {atom for atom in jaxpr.outvars if known(atom)} & varying])


def _bytes(arrays: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
