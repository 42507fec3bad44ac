"""The Markov chain on theta and brightness: `init` and `step`, pure functions for jit, vmap and scan.

    firefly = Firefly(log_prior, bound, move=MALA(), brightness=Implicit(0.01))
    state = firefly.init(key, theta)
    state, info = firefly.step(key, state)

Its stationary distribution has the posterior of all data as its marginal over theta:

    p(theta, z) = p(theta) prod_n B_n(theta) prod_{n bright} (L_n(theta) / B_n(theta) - 1).

A step updates z given theta, then moves theta given z. It looks at bright points and at dark candidates, and
at the sum of all log bounds, whose cost does not depend on N.

Source: D. Maclaurin and R. P. Adams, Firefly Monte Carlo: exact MCMC with subsets of data, UAI 2014.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from chainrule.inference.flymc.bound import floor_of, log_expm1
from chainrule.inference.flymc.brightness import Bright, Implicit, Update, refresh
from chainrule.inference.flymc.moves import MALA, Evaluated, Move, Moved, Point, evaluate
from chainrule.inference.flymc.preflight import check_fit, check_is
from chainrule.inference.flymc.weighted import over_blocks

LEAST_CAPACITY = 64


class State(NamedTuple):
    """Where a chain is."""

    position: PyTree  # theta; NaN once bright points found no room
    base: Float[Array, ""]  # log prior and sum of log bounds there, up to a constant
    bright: Bright  # the bright points, and their gaps at this theta


class Info(NamedTuple):
    """What a step did."""

    acceptance: Float[
        Array, ""
    ]  # acceptance probability of the move of theta, the mean if there were several
    accepted: Float[Array, ""]  # fraction of the moves that were accepted
    num_bright: Int[Array, ""]  # bright points after the update of z, at which theta then moved
    # Gaps evaluated, one for each row and theta, with its derivative or without: dark candidates once; bright
    # points once for each pass of the move, and once before it if it uses the gradient.
    evaluations: Int[Array, ""]
    flips: Int[Array, ""]  # points whose brightness changed
    overflow: Bool[Array, ""]  # bright points, or candidates, had no room; the position is NaN from now on
    violations: Int[Array, ""]  # gaps below minus the floor, or NaN at the current theta: the bound is none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Firefly:
    """Firefly Monte Carlo as a pytree: data and tuning are arguments of what is compiled.

    The dtype of everything is that of theta; the bound's arrays must have it too.
    """

    log_prior: Callable[[PyTree], Array] = dataclasses.field(metadata={"static": True})  # of theta
    bound: Any  # a Bound
    move: Move = dataclasses.field(default=MALA(), metadata={"static": True})
    brightness: Update = dataclasses.field(default=Implicit())
    step_size: Float[Array, ""] | float | None = None  # of the move; None for where warm-up begins
    scale: Float[Array, "..."] | None = None  # (dims, dims), or (dims,) if diagonal; see `preconditioned`
    moves: int = dataclasses.field(default=1, metadata={"static": True})  # of theta for each update of z
    floor: float | None = dataclasses.field(default=None, metadata={"static": True})  # see bound.py
    room: int | None = dataclasses.field(
        default=None, metadata={"static": True}
    )  # for candidates; None: enough

    def init(self, key: Key[Array, ""], position: PyTree, capacity: int | None = None) -> State:
        """A state at this theta, with brightness drawn exactly: the one time that all data are looked at.

        Args:
            key: for the brightness.
            position: theta, a floating array or a pytree of them.
            capacity: places for bright points. None for twice as many as are bright now, which needs to be
                known outside jit and vmap.

        Raises:
            TypeError: if theta, prior and bound do not go together in shapes or dtypes.
            ValueError: if the capacity is missing under jit.
        """
        position = jax.tree.map(jnp.asarray, position)
        check_is("Firefly.init", "move", self.move, Move, "MALA() or HMC(8)")
        check_is("Firefly.init", "brightness", self.brightness, Update, "Implicit(0.01)")
        check_fit("Firefly.init", self.log_prior, self.bound, position)
        gap = self._all_gaps(position)
        uniform = jax.random.uniform(key, gap.shape, gap.dtype)
        is_bright = uniform < -jnp.expm1(-gap)
        count = jnp.sum(is_bright, dtype=jnp.int32)
        if capacity is None:
            if isinstance(count, jax.core.Tracer):
                raise ValueError("Firefly.init: under jit or vmap, the capacity must be given: capacity=256")
            capacity = capacity_for(int(count))
        (rows,) = jnp.nonzero(is_bright, size=capacity, fill_value=len(gap))
        rows = rows.astype(jnp.int32)
        alive = rows < len(gap)
        near = jnp.where(alive, gap[jnp.minimum(rows, len(gap) - 1)], 1)
        position = _nan_if(count > capacity, position)
        return State(position, self.smooth_log_density(position), Bright(rows, count, near))

    def step(self, key: Key[Array, ""], state: State) -> tuple[State, Info]:
        """Update the brightness given theta, then move theta given the brightness."""
        brightness_key, move_key = jax.random.split(key)
        gap = lambda rows: self._gap(state.position, rows)
        room = self.room or self.brightness.room(self.bound.num_data)
        done = refresh(self.brightness, brightness_key, state.bright, gap, self.bound.num_data, room)

        bright, overflow = done.bright, done.overflow
        flat, unravel = ravel_pytree(_nan_if(overflow, state.position))
        density = self._density(unravel, bright)
        alive = jnp.arange(len(bright.rows)) < bright.count
        if self.move.uses_gradient:
            point, violations = evaluate(density, flat)
        else:
            value = state.base + _sum_log_odds(bright.gap, alive)
            point = Point(flat, value, jnp.zeros_like(flat), (state.base, bright.gap))
            violations = jnp.zeros((), jnp.int32)
        point, moved = moved_often(self, move_key, point, density)
        base, near = point.aux

        passes = jnp.sum(moved.passes) + self.move.uses_gradient
        info = Info(
            acceptance=jnp.mean(moved.acceptance),
            accepted=jnp.mean(moved.accepted, dtype=flat.dtype),
            num_bright=bright.count,
            evaluations=done.evaluations + passes.astype(jnp.int32) * bright.count,
            flips=done.flips,
            overflow=overflow,
            violations=done.violations + violations + jnp.sum(moved.violations, dtype=jnp.int32),
        )
        return State(unravel(point.position), base, bright._replace(gap=near)), info

    def smooth_log_density(self, position: PyTree) -> Float[Array, ""]:
        """Log prior and the sum of log bounds: the density where all are dark; its curvature scales moves."""
        return self.log_prior(position) + self.bound.collapsed(position)

    def overdue(self, state: State) -> Int[Array, "*chains"]:
        """Bright points, to be compared with the capacity."""
        return state.bright.count

    def grown(self, state: State, capacity: int) -> State:
        """The same state, of chains or of one, with room for more bright points."""
        rows, gap = state.bright.rows, state.bright.gap
        wider = [(0, 0)] * (rows.ndim - 1) + [(0, capacity - rows.shape[-1])]
        rows = jnp.pad(rows, wider, constant_values=self.bound.num_data)
        gap = jnp.pad(gap, wider, constant_values=1)
        return state._replace(bright=state.bright._replace(rows=rows, gap=gap))

    def _density(self, unravel, bright):
        alive = jnp.arange(len(bright.rows)) < bright.count
        rows = jnp.minimum(bright.rows, self.bound.num_data - 1)

        def density(flat):
            theta = unravel(flat)
            gap = jnp.where(alive, self._gap(theta, rows), 1)
            base = self.smooth_log_density(theta)
            violations = jnp.sum(gap < 0, dtype=jnp.int32)
            return Evaluated(base + _sum_log_odds(gap, alive), (base, gap), violations)

        return density

    def _gap(self, theta, rows):
        gap = self.bound.gap(theta, rows)
        return gap + jnp.asarray(floor_of(gap.dtype) if self.floor is None else self.floor, gap.dtype)

    def _all_gaps(self, theta):
        return over_blocks(lambda rows: self._gap(theta, rows), self.bound.num_data)


def moved_often(kernel, key, point: Point, density) -> tuple[Point, Moved]:
    """The kernel's moves of theta, one after the other, at a fixed density."""
    if kernel.moves < 1:
        raise ValueError(f"{type(kernel).__name__}: moves = {kernel.moves} must be at least 1")
    dims = len(point.position)
    step_size = kernel.move.first_step_size(dims) if kernel.step_size is None else kernel.step_size
    dtype = point.position.dtype
    step_size = jnp.asarray(step_size, dtype)
    scale = jnp.ones(dims, dtype) if kernel.scale is None else jnp.asarray(kernel.scale, dtype)

    def once(point, number):
        move_key = jax.random.fold_in(key, number)
        return kernel.move.move(move_key, point, density, step_size, scale)

    return lax.scan(once, point, jnp.arange(kernel.moves))


def capacity_for(count: int) -> int:
    """A power of two with room for twice as many bright points."""
    return max(LEAST_CAPACITY, 1 << (2 * count - 1).bit_length() if count else 0)


def _sum_log_odds(gap, alive):
    return jnp.sum(jnp.where(alive, log_expm1(gap), 0))


def _nan_if(bad, tree):
    return jax.tree.map(lambda x: jnp.where(bad, jnp.asarray(jnp.nan, x.dtype), x), tree)
