"""Training by momentum in fixed-point numbers, and its exact reversal with the derivatives.

forward(program, inputs)                  train, keeping only the bits that are lost   -> Final
backward(program, inputs, final, ...)     train backwards, down to the initial weights -> Reversed

A step, with learning rate a and momentum b, is

    g = grad loss(x),    v <- b v - (1 - b) g,    x <- x + a v.

Each of its three lines can be undone exactly once the ones after it are. Of what follows from the weights
and the velocity at the end, dx and dv being its derivatives with respect to these, a step backwards gets

    da = <dx, v>,    dv <- dv + a dx,    db = <dv, v + g>,
    dx <- dx - (1 - b) H dv,    dh <- dh - (1 - b) d<g, dv>/dh,    dv <- b dv,

where v is that after the step in da, before it in db, H the Hessian of the loss, and h anything else it
depends on. The products are one derivative along dv, of the gradient by x and by h. g itself comes from the
same program as on the way there (gradient.py).
Rounding is differentiated as if there were none.

Source: Algorithm 2 of Maclaurin, Duvenaud and Adams, Gradient-based hyperparameter optimization through
reversible learning, ICML 2015.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from chainrule.hypergrad.bits import (
    NO_ROW,
    SpillPlan,
    read,
    spill,
    spill_rest,
    unspill,
    unspill_rest,
    write,
)
from chainrule.hypergrad.exact import Fixed, wide
from chainrule.hypergrad.gradient import gradient_at
from chainrule.hypergrad.losses import StepLoss


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What of a training run is no array."""

    loss: StepLoss
    fixed: type[Fixed]
    steps: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
    """What of it is arrays."""

    params: list[Array]  # initial
    others: list[Array]  # all else that the loss depends on: hyperparameters, data, keys
    rates: list[Float[Array, "*lanes steps"]]  # one for each group
    plans: list[SpillPlan]  # likewise
    # Places in params of those that have all this in common, and move as one vector: a small step is most of
    # all the starts of its loops.
    groups: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moved:
    """A group of params on their way."""

    x: Fixed
    v: Fixed
    lost: UInt32[Array, "*shape"]  # the register
    tape: Array  # bytes, with an axis of rows in front
    erased: Fixed  # velocities that were multiplied by zero, with an axis for erased_rows in front


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Final:
    """The end of training."""

    moved: list[Moved]  # all registers on the tape
    overflow: Bool[Array, "*lanes"]  # a number left the range or was NaN, or the tape was too short


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adjoints:
    """Derivatives of what follows from the weights and velocities at some step."""

    params: list[Array]
    velocities: list[Array]
    others: list[Array]  # of those that were wanted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reversed:
    """The start of training, reached from its end."""

    moved: list[Moved]
    mismatches: Int[Array, "*lanes"]  # weights, velocities and registers that are not as they were
    adjoints: Any  # Adjoints; None without cotangents
    schedules: Any  # likewise: derivatives by rates, and by momenta, an array of steps for each group


def forward(program: Program, inputs: Inputs, wanted: Sequence[int] = ()) -> Final:
    """Train.

    Args:
        wanted: as in `backward`, which undoes this.
    """
    vectors = functools.partial(_vectors, inputs)

    def step(carry, at):
        moved, overflow = carry
        t, schedules = at
        weights = floats(inputs, [m.x for m in moved])
        g, _ = gradient_at(program.loss, weights, inputs.others, t, wanted, vectors)
        pairs = [_advance(*args) for args in zip(moved, g, schedules, strict=True)]
        return _unzip(pairs, overflow), None

    pairs = [_start(program, *args) for args in zip(vectors(inputs.params), inputs.plans, strict=True)]
    kept = [plan.kept for plan in inputs.plans]
    start = _unzip(pairs, ~jnp.stack(kept).all())
    (moved, overflow), _ = lax.scan(step, start, _steps(program, inputs))
    return Final([_put_away(m, plan) for m, plan in zip(moved, inputs.plans, strict=True)], overflow)


def backward(
    program: Program,
    inputs: Inputs,
    final: Final,
    cotangents: tuple[list[Array], list[Array]] | None = None,
    wanted: Sequence[int] = (),
) -> Reversed:
    """Undo `forward`, and differentiate it if there are cotangents.

    Args:
        cotangents: derivatives by the final weights and velocities, the start of all others.
        wanted: the places, among inputs.others, of what else to differentiate by.
    """
    vectors = functools.partial(_vectors, inputs)

    def step(carry, at):
        moved, adjoints = carry
        t, schedules = at
        after = _values(inputs, [m.v for m in moved])
        moved = [
            dataclasses.replace(m, x=m.x.minus(rate * v))
            for m, v, (rate, *_) in zip(moved, after, schedules, strict=True)
        ]
        weights = floats(inputs, [m.x for m in moved])
        g, derivative = gradient_at(program.loss, weights, inputs.others, t, wanted, vectors)
        moved = [_regain(*args) for args in zip(moved, g, schedules, strict=True)]
        if adjoints is None:
            return (moved, None), None

        rates, momenta, *_ = zip(*schedules, strict=True)
        by_x, by_v = adjoints.params, adjoints.velocities
        by_v = [dv + a * dx for dv, a, dx in zip(by_v, rates, by_x, strict=True)]
        along = _shaped(inputs, [(b - 1) * dv for b, dv in zip(momenta, by_v, strict=True)])
        more_by_x, more_by_others = derivative(along)
        before = _values(inputs, [m.v for m in moved])
        by_rates = [jnp.vdot(dx, v) for dx, v in zip(by_x, after, strict=True)]
        by_momenta = [jnp.vdot(dv, v + g) for dv, v, g in zip(by_v, before, g, strict=True)]
        adjoints = Adjoints(
            _sums(by_x, vectors(more_by_x)),
            [b * dv for b, dv in zip(momenta, by_v, strict=True)],
            _sums(adjoints.others, more_by_others),
        )
        return (moved, adjoints), (by_rates, by_momenta)

    adjoints = None
    if cotangents is not None:
        by_x, by_v = cotangents
        by_others = [jnp.zeros_like(inputs.others[place]) for place in wanted]
        adjoints = Adjoints(vectors(by_x), vectors(by_v), by_others)
    moved = [_take_out(m, plan) for m, plan in zip(final.moved, inputs.plans, strict=True)]
    (moved, adjoints), schedules = lax.scan(step, (moved, adjoints), _steps(program, inputs), reverse=True)
    if adjoints is not None:
        by_x, by_v = _shaped(inputs, adjoints.params), _shaped(inputs, adjoints.velocities)
        adjoints = Adjoints(by_x, by_v, adjoints.others)
    return Reversed(moved, _mismatches(program, inputs, moved), adjoints, schedules)


def floats(inputs: Inputs, numbers: list[Fixed]) -> list[Array]:
    """The numbers of all groups, like inputs.params, in their shapes and dtypes."""
    return _shaped(inputs, _values(inputs, numbers))


def _start(program: Program, x: Array, plan: SpillPlan) -> tuple[Moved, Array]:
    """At rest, with empty registers, and where x is out of range."""
    fixed, left = program.fixed.of(x)
    rows = lambda n, like: jnp.zeros((n, *like.shape), like.dtype)
    v = jax.tree.map(jnp.zeros_like, fixed)
    lost = jnp.zeros(x.size, jnp.uint32)
    tape = rows(plan.rows + plan.last_rows, lost.astype(jnp.uint8))
    return Moved(fixed, v, lost, tape, jax.tree.map(lambda limb: rows(plan.erased_rows, limb), v)), left


def _advance(m: Moved, g: Array, schedule: tuple) -> tuple[Moved, Array]:
    """One step, and where it led out of the range."""
    rate, b, scale, row, erased_row = schedule
    v, lost = m.v.times(scale, m.lost)
    erased, tape = m.erased, m.tape
    if _rows(erased):
        erased = write(erased, erased_row, m.v)
        v = jax.tree.map(lambda limb: jnp.where(erased_row == NO_ROW, limb, 0), v)
    if _rows(tape):
        tape, lost = spill(tape, row, lost)
    v, v_left = v.plus((b - 1) * g)
    x, x_left = m.x.plus(rate * v.value(g.dtype))
    return Moved(x, v, lost, tape, erased), v_left | x_left


def _regain(m: Moved, g: Array, schedule: tuple) -> Moved:
    """The velocity and the register before `_advance`, once x is as it was."""
    _, b, scale, row, erased_row = schedule
    v = m.v.minus((b - 1) * g)
    lost = unspill(m.tape, row, m.lost) if _rows(m.tape) else m.lost
    if _rows(m.erased):  # there, `times` was given what it will now be given back
        kept = read(m.erased, erased_row)
        v = jax.tree.map(lambda kept, limb: jnp.where(erased_row == NO_ROW, limb, kept), kept, v)
    v, lost = v.over(scale, lost)
    return dataclasses.replace(m, v=v, lost=lost)


def _put_away(m: Moved, plan: SpillPlan) -> Moved:
    """The registers go onto the tape."""
    return dataclasses.replace(
        m, tape=spill_rest(m.tape, plan.last_rows, m.lost), lost=jnp.zeros_like(m.lost)
    )


def _take_out(m: Moved, plan: SpillPlan) -> Moved:
    return dataclasses.replace(m, lost=unspill_rest(m.tape, plan.last_rows))


def _mismatches(program: Program, inputs: Inputs, moved: list[Moved]) -> Array:
    def count(m, x):
        start, _ = program.fixed.of(x)
        rest = jax.tree.map(jnp.zeros_like, m.v)
        return jnp.sum(m.x.differs(start) | m.v.differs(rest) | (m.lost != 0))

    vectors = _vectors(inputs, inputs.params)
    return jnp.stack([count(m, x) for m, x in zip(moved, vectors, strict=True)]).sum()


def _steps(program: Program, inputs: Inputs) -> tuple:
    """What the scan goes through: the step's number, and for each group its part of the schedules."""
    schedules = [
        (rate, plan.momenta.astype(rate.dtype), plan.scale, plan.row, plan.erased_row)
        for rate, plan in zip(inputs.rates, inputs.plans, strict=True)
    ]
    return np.arange(program.steps, dtype=np.int32), schedules


def _values(inputs: Inputs, numbers: list[Fixed]) -> list[Array]:
    dtypes = [wide(inputs.params[group[0]].dtype) for group in inputs.groups]
    return [number.value(dtype) for number, dtype in zip(numbers, dtypes, strict=True)]


def _vectors(inputs: Inputs, arrays: list[Array]) -> list[Array]:
    """Of arrays like inputs.params, the vectors of the groups, in float32 at least."""
    vectors = [jnp.concatenate([arrays[i].ravel() for i in group]) for group in inputs.groups]
    return [vector.astype(wide(vector.dtype)) for vector in vectors]


def _shaped(inputs: Inputs, vectors: list[Array]) -> list[Array]:
    """And back."""
    arrays = {}
    for group, vector in zip(inputs.groups, vectors, strict=True):
        ends = np.cumsum([inputs.params[i].size for i in group])
        for i, part in zip(group, jnp.split(vector, ends[:-1]), strict=True):
            arrays[i] = part.reshape(inputs.params[i].shape).astype(inputs.params[i].dtype)
    return [arrays[i] for i in range(len(arrays))]


def _sums(xs: list[Array], ys: list[Array]) -> list[Array]:
    return [x + y for x, y in zip(xs, ys, strict=True)]


def _rows(tape: Any) -> int:
    return jax.tree.leaves(tape)[0].shape[0]


def _unzip(pairs: list[tuple[Moved, Array]], overflow: Array) -> tuple[list[Moved], Array]:
    return [m for m, _ in pairs], overflow | jnp.stack([left.any() for _, left in pairs]).any()
