"""Iterate towards x with increment(x) = 0: what a problem is, what a solver does, the loop that runs both.

iterate(solver, problem, x, tolerance)   step until a step is short                     -> x, Stats
unroll(solver, problem, x, tolerance)    the same in a loop that JAX differentiates     -> x, Stats

Problem   increment(x) = f(x) - x, or -F(x), or -grad objective(x), and x moved along it
Solver    start(x) makes what it remembers, advance(problem, x, memory, ...) takes one Step
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from chainrule.core.status import Stats, Status
from chainrule.core.tolerance import (
    Tolerance,
    inexact_leaves,
    is_inexact,
    measure_of,
    other_leaves,
    replace_inexact,
)

MOST_STEPS = 2**24  # that are told apart in float32, see _Record


class Problem(NamedTuple):
    """What there is to solve: x where increment(x) = 0."""

    increment: Callable[[PyTree], PyTree]  # floating leaves as in x; the others mean nothing
    move: Callable[[PyTree, ArrayLike], PyTree]  # x, damping -> x + damping * increment(x)
    objective: Callable[[PyTree], Array] | None = None  # what a minimisation minimises


def map_problem(f: Callable[[PyTree], PyTree]) -> Problem:
    """x = f(x). Integer leaves go where f sends them, undamped."""

    def increment(x):
        return jax.tree.map(lambda y, x: y - x if is_inexact(x) else x, f(x), x)

    def move(x, damping):
        y = f(x)
        if _is_one(damping):
            return y
        pairs = zip(inexact_leaves(x), inexact_leaves(y), strict=True)
        return replace_inexact(y, [x + _like(damping, x) * (y - x) for x, y in pairs])

    return Problem(increment, move)


def increment_problem(
    increment: Callable[[PyTree], PyTree], objective: Callable[[PyTree], Array] | None = None
) -> Problem:
    """increment(x) = 0, on floating leaves."""

    def move(x, damping):
        scale = (lambda d: d) if _is_one(damping) else (lambda d: _like(damping, d) * d)
        return jax.tree.map(lambda x, d: x + scale(d), x, increment(x))

    return Problem(increment, move, objective)


class Step(NamedTuple):
    """One step of a solver from x."""

    image: PyTree  # where the step leads, before any safeguard: the answer, if the step was short
    onward: PyTree  # where to go on from, if it was not
    memory: Any
    trusted: Bool[Array, ""] | bool = True  # False: short as it may be, this step is no sign of a solution


@runtime_checkable
class Solver(Protocol):
    """How to iterate: a frozen dataclass of settings, which may be traced arrays."""

    @property
    def linear_solver(self) -> Any: ...  # for the linear system of the derivative, unless told otherwise

    def start(self, x: PyTree) -> Any: ...

    def advance(
        self, problem: Problem, x: PyTree, memory: Any, steps: Array, tolerance: Tolerance
    ) -> Step: ...


class _Loop(NamedTuple):
    x: PyTree
    record: Float[Array, " 4"]  # one array, as each costs a loop over many lanes a kernel launch
    memory: Any  # the solver's


class _Record(NamedTuple):
    steps: Float[Array, ""]  # taken: exact up to 2**24
    residual: Float[Array, ""]  # length of the last step
    first: Float[Array, ""]  # of the first one, or of rounding noise if that is longer
    short: Float[Array, ""]  # the length from which on a step is short enough to stop


def iterate(solver: Solver, problem: Problem, x: PyTree, tolerance: Tolerance) -> tuple[PyTree, Stats]:
    """Step until a step is short, each vmap lane by itself: the talk's `fixed_point`, with an end."""
    start, goes_on, advance = _loop(solver, problem, x, tolerance)
    return _finish(lax.while_loop(goes_on, advance, start))


def unroll(
    solver: Solver, problem: Problem, x: PyTree, tolerance: Tolerance, max_steps: int
) -> tuple[PyTree, Stats]:
    """The same steps, in a scan that reverse mode can walk back: it keeps every iterate."""
    start, goes_on, advance = _loop(solver, problem, x, tolerance)

    @jax.checkpoint
    def body(loop, _):
        return lax.cond(goes_on(loop), advance, lambda loop: loop, loop), None

    return _finish(lax.scan(body, start, length=max_steps)[0])


def _loop(solver, problem, x, tolerance):
    measure = measure_of(x)
    noise = float(jnp.finfo(measure).eps) ** 0.5
    start = _Loop(x, jnp.array([0, 1, 1, 0], measure), solver.start(x))
    # A count in float32 stays where it is at 2**24.
    most = jnp.minimum(tolerance.max_steps, MOST_STEPS if measure == jnp.float32 else 2**31 - 1)

    def goes_on(loop):
        # NaN compares as short, and so do infinities: they end the loop, and _finish tells them apart.
        last = _Record(*loop.record)
        return (last.residual > last.short) & (last.steps < most.astype(measure))

    def advance(loop):
        last = _Record(*loop.record)
        steps = last.steps.astype(jnp.int32)
        image, onward, memory, trusted = solver.advance(problem, loop.x, loop.memory, steps, tolerance)
        new, old = lax.stop_gradient((image, loop.x))
        residual, size = _residual_and_size(new, old, measure)
        first = jnp.where(last.steps == 0, jnp.maximum(residual, noise * size), last.first)
        short = tolerance.atol + tolerance.rtol * size
        for after, before in zip(other_leaves(new), other_leaves(old), strict=True):
            trusted &= jnp.all(after == before)
        if trusted is not True:
            short = jnp.where(trusted, short, -1)
        if onward is not image:
            on = lambda onward, image: jnp.where(residual > short, onward, image)
            onward = jax.tree.map(on, onward, image)
        record = _Record(last.steps + 1, residual, first, short)
        return _Loop(onward, jnp.stack(record), memory)

    return start, goes_on, advance


def _residual_and_size(new: PyTree, old: PyTree, measure) -> Float[Array, " 2"]:
    """max |new - old| and max |new|, in one reduction: two take a sixth of the time of a small loop."""
    leaves = zip(inexact_leaves(new), inexact_leaves(old), strict=True)
    pairs = [jnp.stack([jnp.abs(new - old), jnp.abs(new)]).reshape(2, -1) for new, old in leaves]
    sizes = [jnp.max(pair, axis=1, initial=0).astype(measure) for pair in pairs]
    return sizes[0] if len(sizes) == 1 else jnp.max(jnp.stack(sizes), axis=0)


def _finish(loop: _Loop) -> tuple[PyTree, Stats]:
    last = _Record(*loop.record)
    finite = jnp.isfinite(last.residual)
    failure = jnp.where(finite, Status.MAX_STEPS, Status.NONFINITE)
    failure = jnp.where(last.residual > last.first, Status.DIVERGED, failure)
    status = jnp.where((last.residual <= last.short) & finite, Status.CONVERGED, failure)
    return loop.x, Stats(last.steps.astype(jnp.int32), last.residual, status.astype(jnp.int32))


def differences(x: PyTree, y: PyTree) -> list[Array]:
    """x - y, floating leaf by floating leaf."""
    return [x - y for x, y in zip(inexact_leaves(x), inexact_leaves(y), strict=True)]


def _is_one(damping: ArrayLike) -> bool:
    return isinstance(damping, int | float) and bool(damping == 1)


def _like(number: ArrayLike, leaf: Array) -> Array:
    """A real number in the precision of the leaf, which it then does not change."""
    return jnp.asarray(number).astype(leaf.real.dtype)
