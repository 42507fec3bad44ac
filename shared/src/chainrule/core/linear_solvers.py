"""Linear systems A u = b with A known by its products only, as derivatives of solutions need them.

CG()        for symmetric A, as of a minimum
GMRES()     for any A, restarted
BiCGStab()  for any A, in less memory, and less surely
Dense()     builds the matrix and factors it: for few unknowns

They wrap JAX's own. `solved` gives them a system in units of its own, `checked` looks at the residual, so
that a solve that failed says so.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from chainrule.core.status import Stats, Status
from chainrule.core.tolerance import Tolerance, max_abs, measure_of, over, unit_of

MARGIN = 10.0  # a residual of so many tolerances still counts: recurrences drift from true residuals


@runtime_checkable
class LinearSolver(Protocol):
    """u with A u = b to |A u - b| <= rtol |b|, in the 2-norm."""

    def solve(self, A: Callable[[PyTree], PyTree], b: PyTree, tolerance: Tolerance) -> PyTree: ...


@dataclasses.dataclass(frozen=True)
class CG:
    """Conjugate gradients: for A symmetric and definite, positive or negative."""

    def solve(self, A, b, tolerance):
        return jax.scipy.sparse.linalg.cg(A, b, tol=tolerance.rtol, atol=0.0, maxiter=tolerance.max_steps)[0]


@dataclasses.dataclass(frozen=True)
class GMRES:
    """Generalised minimal residuals, restarted: memory of `restart` copies of u."""

    restart: int = 20

    def solve(self, A, b, tolerance):
        restart = min(self.restart, sum(leaf.size for leaf in jax.tree.leaves(b)))
        maxiter = -(-tolerance.max_steps // restart)  # of rounds
        return jax.scipy.sparse.linalg.gmres(
            A, b, tol=tolerance.rtol, atol=0.0, restart=restart, maxiter=maxiter, solve_method="incremental"
        )[0]


@dataclasses.dataclass(frozen=True)
class BiCGStab:
    """Stabilised biconjugate gradients: two products a step, memory of a few copies of u."""

    def solve(self, A, b, tolerance):
        return jax.scipy.sparse.linalg.bicgstab(
            A, b, tol=tolerance.rtol, atol=0.0, maxiter=tolerance.max_steps
        )[0]


@dataclasses.dataclass(frozen=True)
class Dense:
    """The matrix, column by column, and its LU factors: n products, n^2 memory."""

    def solve(self, A, b, tolerance):
        flat, unravel = ravel_pytree(b)
        columns = jax.vmap(lambda e: ravel_pytree(A(unravel(e)))[0])(jnp.eye(flat.size, dtype=flat.dtype))
        return unravel(jnp.linalg.solve(columns.T, flat))


def solved(
    solver: LinearSolver, A: Callable[[PyTree], PyTree], b: PyTree, tolerance: Tolerance
) -> tuple[PyTree, Float[Array, ""]]:
    """u with A u = b, and |A u - b| / |b|, in whatever units.

    JAX's solvers square what they are given, and take for zero what is small beside one. So they are given
    b / max |b|, and A over how much it stretches that. And they take A for linear over complex numbers,
    which d conj(x) is not: so they are given real and imaginary parts.
    """
    leaves, tree = jax.tree.flatten(b)
    if not sum(leaf.size for leaf in leaves):
        return b, jnp.zeros((), measure_of(b))
    joined = lambda parts: tree.unflatten(map(_joined, parts, leaves))
    parts = lambda u: [_parts(leaf) for leaf in jax.tree.leaves(u)]
    measure = measure_of(b)
    of_b = unit_of(parts(b), measure)
    b1 = over(parts(b), of_b)
    of_A = unit_of(parts(A(joined(b1))), measure)
    A1 = lambda u: over(parts(A(joined(u))), of_A)
    u = solver.solve(A1, b1, tolerance)
    left = _norm(jax.tree.map(jnp.subtract, A1(u), b1), measure) / _norm(b1, measure)
    return joined(over(u, of_A / of_b)), jnp.where(_norm(b1, measure) == 0, 0, left)


def checked(
    solver: LinearSolver, A: Callable[[PyTree], PyTree], b: PyTree, tolerance: Tolerance
) -> tuple[PyTree, Stats]:
    """u, and whether its true residual is what the solver was asked for; steps are not counted."""
    u, left = solved(solver, A, b, tolerance)
    met = left <= MARGIN * tolerance.rtol
    failure = jnp.where(jnp.isfinite(left), Status.MAX_STEPS, Status.NONFINITE)
    status = jnp.where(met, Status.CONVERGED, failure).astype(jnp.int32)
    return u, Stats(tolerance.max_steps.astype(jnp.int32), left * max_abs(b, left.dtype), status)


def _parts(leaf: Array) -> Array:
    return jnp.stack([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf


def _joined(parts: Array, like: Array) -> Array:
    return (parts[0] + 1j * parts[1]).astype(like.dtype) if jnp.iscomplexobj(like) else parts


def _norm(x: PyTree, measure) -> Float[Array, ""]:
    return jnp.sqrt(sum(jnp.sum(leaf.astype(measure) ** 2) for leaf in jax.tree.leaves(x)))
