"""Newton's method without matrices, for roots and for minima.

Newton(linear_solver)   x <- x - t (dF/dx)^-1 F, t halved until |F| falls
NewtonCG()              the same for a minimum, by conjugate gradients: t halved until the objective falls

The linear system is solved only as well as the last step was long, which keeps convergence superlinear.

Source: J. Nocedal and S. Wright, Numerical Optimization (2006): algorithm 7.1 for NewtonCG, section 11.2
for roots.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from chainrule.core.iteration import Step
from chainrule.core.linear_solvers import CG, GMRES, LinearSolver, solved
from chainrule.core.tolerance import is_inexact, max_abs, measure_of, over, unit_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Newton:
    """Newton's method, matrix-free and with backtracking: x <- x - t (dF/dx)^-1 F.

    The linear system is solved only as well as the last step was long, which keeps convergence superlinear;
    t is halved until |F| falls. Integer leaves in x are refused.
    """

    linear_solver: LinearSolver = GMRES()  # noqa: RUF009 (frozen)
    max_halvings: int = 30

    def start(self, x):
        _refuse_integers(x, "Newton")
        return jnp.asarray(0.1, measure_of(x))  # relative tolerance of the first linear solve

    def advance(self, problem, x, memory, steps, tolerance):
        r, jacobian = jax.linearize(problem.increment, x)
        linear_tolerance = tolerance._replace(rtol=jnp.maximum(memory, tolerance.rtol).astype(memory.dtype))
        unit = unit_of(r, memory.dtype)  # squares of large and of small numbers are no numbers
        norm = lambda r: _norm(over(r, unit), memory.dtype)
        size = norm(r)
        step, left = solved(self.linear_solver, jacobian, _negative(r), linear_tolerance)
        step = _unless_nonfinite(size, step)
        falls = lambda t, x: norm(problem.increment(x)) <= (1 - 1e-4 * t) * size
        onward = _backtrack(x, step, falls, self.max_halvings, memory.dtype)
        # A solver that broke down, at a singular Jacobian say, may return zero: short, and no solution.
        return Step(_add(x, step), onward, _forcing(x, step, memory.dtype), left <= 0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NewtonCG:
    """Newton's method for a minimum: conjugate gradients on H d = -grad, ended at negative curvature.

    The step is halved until the objective falls by a part of what its slope promises (Armijo), so the
    iteration goes downhill from any start. A short step where curvature was negative is not taken for a
    minimum.
    """

    max_halvings: int = 30

    linear_solver = property(lambda self: CG())

    def start(self, x):
        _refuse_integers(x, "NewtonCG")
        return jnp.asarray(0.1, measure_of(x))

    def advance(self, problem, x, memory, steps, tolerance):
        measure = memory.dtype
        if problem.objective is None:
            raise TypeError(
                "NewtonCG minimises: use it with argmin, and Newton, Anderson or Picard elsewhere"
            )
        downhill, minus_hessian = jax.linearize(problem.increment, x)
        forcing = jnp.maximum(memory, tolerance.rtol).astype(measure)
        step, convex = _truncated_cg(minus_hessian, downhill, forcing, tolerance.max_steps, measure)
        slope = _dot(downhill, step, measure)
        value = problem.objective(x).astype(measure)
        noise = 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        falls = lambda t, x: problem.objective(x) <= value - 1e-4 * t * slope + noise
        onward = _backtrack(x, step, falls, self.max_halvings, measure)
        return Step(_add(x, step), onward, _forcing(x, step, measure), convex)


def _backtrack(x, step, falls, max_halvings, measure):
    """x + t step with the first t of 1, 1/2, 1/4, ... for which falls(t, x + t step)."""
    at = lambda t: jax.tree.map(lambda x, d: x + t.astype(x.real.dtype) * d, x, step)
    shrink = lambda state: (state[0] / 2, state[1] + 1)
    rises = lambda state: ~falls(state[0], at(state[0])) & (state[1] < max_halvings)
    t, _ = lax.while_loop(rises, shrink, (jnp.ones((), measure), jnp.zeros((), jnp.int32)))
    return at(t)


def _forcing(x, step, measure):
    """Tolerance of the next linear solve: as long as this step was, relative to x."""
    return jnp.clip(max_abs(step, measure) / max_abs(x, measure), 0, 0.1)


def _truncated_cg(minus_hessian, downhill, rtol, max_steps, measure):
    """d with H d = downhill to rtol, or the d before curvature turned negative; and whether it did not."""
    inner = lambda x, y: _dot(x, y, measure)
    unit = unit_of(downhill, measure)  # squares of large and of small numbers are no numbers
    downhill = over(downhill, unit)
    enough = rtol**2 * inner(downhill, downhill)

    def goes_on(state):
        _, _, _, rr, steps, convex = state
        return convex & (rr > enough) & (steps < max_steps)

    def advance(state):
        d, r, p, rr, steps, _ = state
        Hp = _negative(minus_hessian(p))
        curvature = inner(p, Hp)
        convex = curvature > 0
        alpha = jnp.where(convex, rr / jnp.where(convex, curvature, 1), jnp.where(steps == 0, 1, 0))
        d = _add(d, p, alpha)
        r = _add(r, Hp, -alpha)
        new = inner(r, r)
        return d, r, _add(r, p, new / rr), new, steps + 1, convex

    zeros = jax.tree.map(jnp.zeros_like, downhill)
    start = (
        zeros,
        downhill,
        downhill,
        inner(downhill, downhill),
        jnp.zeros((), jnp.int32),
        jnp.asarray(True),
    )
    d, *_, convex = lax.while_loop(goes_on, advance, start)
    return _unless_nonfinite(inner(downhill, downhill), over(d, 1 / unit)), convex


def _unless_nonfinite(size, x):
    """x, or NaN where what it was computed from was not finite: Krylov methods return zero then."""
    factor = jnp.where(jnp.isfinite(size), 1, jnp.nan)
    return jax.tree.map(lambda x: factor.astype(x.real.dtype) * x, x)


def _refuse_integers(x, solver):
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if not is_inexact(leaf):
            name = "x0" + jax.tree_util.keystr(path)
            raise TypeError(
                f"{solver}: {name} is {leaf.dtype}, which has no derivative: pass a floating {name}"
            )


def _negative(x):
    return jax.tree.map(jnp.negative, x)


def _add(x, y, scale=None):
    if scale is None:
        return jax.tree.map(jnp.add, x, y)
    return jax.tree.map(lambda x, y: x + scale.astype(x.real.dtype) * y, x, y)


def _dot(x, y, measure):
    """Re <x, y> over all leaves."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return sum(jnp.sum((jnp.conj(x) * y).real.astype(measure)) for x, y in pairs)


def _norm(x, measure):
    return jnp.sqrt(_dot(x, x, measure))
