"""The derivative of a solution x*(a), given x*: five ways, one interface.

Implicit(linear_solver)   the implicit function theorem, in forward and reverse mode, of any order
Neumann(solver)           the talk's own: a custom vjp whose backward pass is a fixed point of the pullback
OneStep(steps)            the derivative of one step from x*: cheap, and wrong by the contraction rate
Unrolled(max_steps)       the derivative of the iteration itself, which keeps every iterate

All take the solution as x = x* + (what JAX differentiates), so that the value stays that of the solver.

With A = d increment / dx at x* (J - I for a fixed point, -dF/dx for a root, minus the Hessian for a
minimum) the first two solve A u = b for a tangent, and its transpose for a cotangent.

Source: the slides "User-defined primitives: fixed point iteration" of the talk The Chain Rule
Unchained (D. Maclaurin); for OneStep, J. Bolte, E. Pauwels and S. Vaiter, One-step differentiation of
iterative algorithms (2023).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

from chainrule.core.iteration import Problem, Solver, increment_problem, iterate, unroll
from chainrule.core.linear_solvers import LinearSolver, checked
from chainrule.core.solvers import Picard
from chainrule.core.status import Stats, Status, raise_unless_converged
from chainrule.core.tolerance import (
    Tolerance,
    default_tolerance,
    inexact_leaves,
    is_inexact,
    measure_of,
    other_leaves,
    over,
    replace_inexact,
    unit_of,
)

OnFailure = Literal["nan", "raise", "ignore"]

_WAY_OUT = {
    Status.MAX_STEPS: "raise max_steps, loosen rtol, or give atol if the solution may be zero; an integer "
    "in the state that changes at every step never settles",
    Status.DIVERGED: "the map does not contract: damp it, take Anderson or Newton, or start nearer to the "
    "solution",
    Status.NONFINITE: "the function, or Newton's step where the Jacobian is singular, is NaN or infinite: "
    "check a and x0",
}
_WAY_OUT_OF_DERIVATIVE = {
    Status.MAX_STEPS: "raise max_steps or loosen rtol, unless the linear system is singular at the solution",
    Status.DIVERGED: "the solution repels the iteration: damp it (same solution, same derivative), or take "
    "adjoint=Implicit(GMRES())",
    Status.NONFINITE: "the Jacobian at the solution, or the (co)tangent itself, holds NaN or infinity",
}


class System(NamedTuple):
    """A problem and all the arrays that it depends on, also those that the user's function closes over."""

    caller: str  # the public function, for messages
    problem: Callable[[Any], Problem]  # of params
    params: Any
    solver: Solver
    tolerance: Tolerance
    max_steps: Any  # as the user gave it: a Python integer still is one
    on_failure: OnFailure

    def stopped(self) -> "System":
        """The same, for iterations that no derivative is to flow through."""
        return self._replace(params=lax.stop_gradient(self.params))

    def ended(self, x: PyTree, stats: Stats, ways_out: dict[Status, str]) -> tuple[PyTree, Stats]:
        """x and stats once on_failure has been seen to."""
        if self.on_failure == "raise":
            stats = raise_unless_converged(stats, self.caller, ways_out)
        return x if self.on_failure == "ignore" else nan_unless_converged(x, stats), stats


def nan_unless_converged(x: PyTree, stats: Stats) -> PyTree:
    """x, its floating leaves NaN if the solve failed, and so are their derivatives."""
    # A product, not a `where`: its derivative is NaN too, in either mode.
    factor = jnp.where(stats.status == Status.CONVERGED, 1.0, jnp.nan)
    return replace_inexact(x, [factor.astype(leaf.dtype) * leaf for leaf in inexact_leaves(x)])


@runtime_checkable
class Adjoint(Protocol):
    """How to differentiate: the solution of a system from x0, with its derivative attached."""

    def solution(self, system: System, x0: PyTree) -> tuple[PyTree, Stats]: ...


class _AtSolution:
    """What the adjoints that need nothing but x* have in common."""

    def attach(self, system: System, x: PyTree) -> PyTree:
        """x with its derivative."""
        raise NotImplementedError

    def solution(self, system, x0):
        stopped = system.stopped()
        x, stats = iterate(system.solver, stopped.problem(stopped.params), x0, system.tolerance)
        return system.ended(self.attach(system, lax.stop_gradient(x)), stats, _WAY_OUT)


@dataclasses.dataclass(frozen=True)
class Implicit(_AtSolution):
    """The implicit function theorem: jvp, vjp, jax.hessian and any other mixture, under vmap.

    Memory is that of a few copies of x, whatever the number of steps. A linear solve that fails makes
    the derivative NaN, or raises, as on_failure says.
    """

    # Picard() sums the Neumann series, Anderson() accelerates it, CG(), GMRES(), BiCGStab() and Dense() do as
    # they say. None: what goes with the solver that found x*: itself, or its own linear solver.
    linear_solver: Solver | LinearSolver | None = None

    def __post_init__(self):
        solver = self.linear_solver
        iterates = isinstance(solver, Solver) and hasattr(solver, "damping")
        if isinstance(solver, type) or not (solver is None or iterates or isinstance(solver, LinearSolver)):
            raise TypeError(
                "Implicit: linear_solver must be Picard(), Anderson(), CG(), GMRES(), BiCGStab() or Dense(), "
                f"got {solver!r}"
            )

    def attach(self, system, x):
        linear_solver = self.linear_solver or system.solver.linear_solver
        increment = system.problem(system.params).increment

        def solve_linear(A, b):
            return _linear_solve(linear_solver, A, b, system)

        def solve_tangent(A, b):
            # custom_linear_solve lets the while loop in here be transposed and differentiated again; but only
            # one vector at a time, as it fails where some leaves of b depend on what is differentiated and
            # others do not.
            b, leaves_of = _flat(b)
            A_flat = lambda u: _flat(A(leaves_of(u)))[0]
            return leaves_of(lax.custom_linear_solve(A_flat, b, solve_linear, solve_linear))

        zero = lambda floats: inexact_leaves(increment(replace_inexact(x, floats)))
        floats = lax.custom_root(zero, inexact_leaves(x), lambda _, floats: floats, solve_tangent)
        return replace_inexact(x, floats)


def _flat(leaves):
    """The leaves as one vector, and the way back."""
    if len(leaves) == 1:
        return leaves[0], lambda flat: [flat]
    dtype = jnp.result_type(*leaves)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def leaves_of(flat):
        pairs = zip(jnp.split(flat, ends), leaves, strict=True)
        return [_as(part, leaf.dtype).reshape(leaf.shape) for part, leaf in pairs]

    return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves]), leaves_of


def _as(x, dtype):
    """x in another dtype; where that is real, without an imaginary part that is zero."""
    return (x if jnp.issubdtype(dtype, jnp.complexfloating) else x.real).astype(dtype)


def _linear_solve(solver, A, b, system):
    """u with A u = b to the forward rtol, or to the default where that was zero ("atol only")."""
    default = default_tolerance(b)
    rtol = system.tolerance.rtol
    tolerance = Tolerance(jnp.where(rtol > 0, rtol, default.rtol), default.atol, system.tolerance.max_steps)
    if isinstance(solver, LinearSolver):
        u, stats = checked(solver, A, b, tolerance)
    else:
        unit = unit_of(b, measure_of(b))  # a derivative has no size of its own
        b = over(b, unit)
        increment = lambda u: jax.tree.map(jnp.subtract, A(u), b)
        start = jax.tree.map(lambda b: -jnp.asarray(solver.damping).astype(b.dtype) * b, b)
        u, stats = iterate(solver, increment_problem(increment), start, tolerance)
        u = over(u, 1 / unit)
    named = system._replace(caller=f"the derivative of {system.caller}")
    return named.ended(u, stats, _WAY_OUT_OF_DERIVATIVE)[0]


@dataclasses.dataclass(frozen=True)
class Neumann(_AtSolution):
    """The talk's adjoint: a custom vjp whose backward pass is a fixed point of the pullback, solved likewise.

    Reverse mode only, of any order. `Implicit` gives the same numbers and forward mode besides.
    """

    solver: Solver | None = None  # of the backward pass; None: the forward solver, or Picard() after Newton

    def attach(self, system, x):
        solver = self.solver or (system.solver if hasattr(system.solver, "damping") else Picard())
        # All arrays enter by the front door: what a custom vjp closes over, its backward pass may outlive.
        solver_arrays, solver_of = _arrays_of(solver)
        problem_of, caller, on_failure = system.problem, system.caller, system.on_failure
        merge = _merger(x)

        def increment(inputs, floats):
            params, others = inputs[:2]
            return inexact_leaves(problem_of(params).increment(merge(floats, others)))

        def backward_system(inputs, floats, g):
            _, _, solver_arrays, tolerance = inputs
            default = default_tolerance(g)
            rtol = jnp.where(tolerance.rtol > 0, tolerance.rtol, default.rtol)

            def rev_iter(params):  # u with A^T u + g = 0, and so u = J^T u + g on the slide
                inputs, floats, g = params
                _, pull = jax.vjp(lambda floats: increment(inputs, floats), floats)
                return increment_problem(lambda u: jax.tree.map(jnp.add, pull(u)[0], g))

            tolerance = Tolerance(rtol, default.atol, tolerance.max_steps)
            name = f"the derivative of {caller}"
            params, max_steps = (inputs, floats, g), tolerance.max_steps
            return System(name, rev_iter, params, solver_of(solver_arrays), tolerance, max_steps, on_failure)

        @jax.custom_vjp
        def solution(inputs, floats):
            return floats

        def forward(inputs, floats):
            floats = solution(inputs, floats)
            return floats, (inputs, floats)

        def backward(saved, g):
            inputs, floats = saved
            unit = unit_of(g, measure_of(g))
            g = over(g, unit)
            u, _ = self.solution(backward_system(inputs, floats, g), g)
            u = over(u, 1 / unit)
            _, pull = jax.vjp(lambda inputs: increment(inputs, floats), inputs)
            return pull(u)[0], jax.tree.map(jnp.zeros_like, floats)

        solution.defvjp(forward, backward)
        inputs = system.params, other_leaves(x), solver_arrays, system.tolerance
        return replace_inexact(x, solution(inputs, inexact_leaves(x)))


@dataclasses.dataclass(frozen=True)
class OneStep(_AtSolution):
    """Differentiate the last steps only, from x* held fixed: no linear system, in any mode.

    The derivative is (I + J + ... + J^(steps-1)) df/da instead of (I - J)^-1 df/da: its relative error is
    about rho^steps, and none for Newton's map, whose J is zero. Second derivatives are wrong.
    """

    steps: int = 1

    def __post_init__(self):
        _at_least_one("OneStep: steps", self.steps)

    def attach(self, system, x):
        if not hasattr(system.solver, "damping"):
            raise TypeError(
                f"{system.caller}: OneStep differentiates a step of Picard or Anderson; a step of "
                f"{type(system.solver).__name__} solves the linear system of Implicit(): take that"
            )
        move = system.problem(system.params).move
        stepped = x
        for _ in range(self.steps):
            stepped = move(stepped, system.solver.damping)
        # The value stays x: (stepped - stop(stepped)) is zero, and carries the derivative.
        pairs = zip(inexact_leaves(x), inexact_leaves(stepped), strict=True)
        return replace_inexact(x, [x + (y - lax.stop_gradient(y)) for x, y in pairs])


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Differentiate the iteration itself: memory grows with max_steps, and no solution is needed.

    The steps run in a scan of their full number, those after convergence doing nothing. Its derivative
    is that of the iterate, which may lag behind the iterate itself.
    """

    max_steps: int | None = None  # None: that of the solve, which must then be a Python integer

    def __post_init__(self):
        if self.max_steps is not None:
            _at_least_one("Unrolled: max_steps", self.max_steps)

    def solution(self, system, x0):
        if not hasattr(system.solver, "damping"):
            raise TypeError(
                f"{system.caller}: Unrolled differentiates the steps of Picard and Anderson; those of "
                f"{type(system.solver).__name__} hold searches that have no derivative: take Implicit()"
            )
        max_steps = system.max_steps if self.max_steps is None else self.max_steps
        if isinstance(max_steps, jax.core.Tracer):
            raise TypeError(
                f"{system.caller}: Unrolled keeps every iterate and must know how many before it runs, but "
                "max_steps is traced: pass a Python integer, or Unrolled(max_steps=...)"
            )
        x, stats = unroll(system.solver, system.problem(system.params), x0, system.tolerance, int(max_steps))
        return system.ended(x, stats, _WAY_OUT)


def _at_least_one(name, value):
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _merger(x):
    """The function that makes a pytree like x of its floating leaves and its others."""
    structure, are_inexact = jax.tree.structure(x), [is_inexact(leaf) for leaf in jax.tree.leaves(x)]

    def merge(floats, others):
        floats, others = iter(floats), iter(others)
        return jax.tree.unflatten(structure, [next(floats if inexact else others) for inexact in are_inexact])

    return merge


def _arrays_of(tree):
    """The array leaves of a pytree, and the function that puts them back among the others."""
    leaves, structure = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

    def restored(arrays):
        arrays = iter(arrays)
        return jax.tree.unflatten(
            structure, [next(arrays) if a else leaf for a, leaf in zip(is_array, leaves, strict=True)]
        )

    return [leaf for a, leaf in zip(is_array, leaves, strict=True) if a], restored
