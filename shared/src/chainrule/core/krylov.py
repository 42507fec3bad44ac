"""Eigenvalues of self-adjoint matrices that are known by their products with vectors only.

    lanczos(matvec, v0, steps)               V^H A V = T, tridiagonal, V orthonormal  -> Lanczos
    largest_eigenvalue(key, matvec, like)    with its vector and an error bound       -> Eigenpair
    extremal_eigenvalues(key, matvec, like)  the smallest and the largest             -> two Eigenpairs

`matvec` maps a pytree of arrays to its like, such as `hvp(f, x)` or `ggnvp(f, g, x)` do, and must be linear
and self-adjoint: <u, A v> = <A u, v>. Whether it is shows on the way, at no cost, and a matvec that is not
makes NaN. For complex vectors it must be linear over the complex numbers, which products with Hessians are
not in general: take real and imaginary parts there.

Source: Parlett, The Symmetric Eigenvalue Problem, 1998: chapter 13, and section 6.9 for the second
orthogonalisation.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Inexact, Int, Key, PyTree

from chainrule.core._linalg import Flat, coefficients, combination, eigh, length
from chainrule.core._varying import varying_as
from chainrule.core.status import Status

Matvec = Callable[[PyTree], PyTree]

# A new direction shorter than so many roundings of |A| is rounding itself: to drop it changes A by as much.
ROUNDINGS = 100.0
# A is self-adjoint if that holds to half the digits: rounding alone leaves more of them.
DIGITS = 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanczos:
    """V^H A V = T with V^H V = 1, as far as `rank` goes; what lies beyond is zero."""

    diagonal: Float[Array, "*lanes steps"]  # of T, in units of A
    off_diagonal: Float[Array, "*lanes steps"]  # of T; the last is what A V - V T has left in its last column
    vectors: PyTree  # the columns of V, each like v0, along a new first axis
    rank: Int[Array, "*lanes"]  # how many columns there are; fewer than steps span an invariant subspace
    asymmetry: Float[Array, "*lanes"]  # largest |<v_i, A v_j> - T_ij| over largest |A v_j|: rounding or worse

    def is_self_adjoint(self, eps: float) -> Bool[Array, ""]:
        """Whether A is, from what has been seen of it; eps is the rounding of its products."""
        return self.asymmetry <= eps**DIGITS

    def matrix(
        self, beyond: Float[Array, " #steps"], rank: Int[Array, ""] | None = None
    ) -> Float[Array, "steps steps"]:
        """The leading part of T, up to its rank or a smaller one, and then a diagonal of `beyond`."""
        rank = self.rank if rank is None else jnp.minimum(rank, self.rank)
        index = jnp.arange(self.diagonal.size)
        diagonal = jnp.where(index < rank, self.diagonal, beyond)
        beside = jnp.where(index < rank - 1, self.off_diagonal, 0)[:-1]
        return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Eigenpair:
    """A v = value v, but for `residual`: an eigenvalue is no further than that from `value`."""

    value: Float[Array, "*lanes"]  # in units of A
    vector: PyTree  # v, like `like`, of norm one
    residual: Float[Array, "*lanes"]  # |A v - value v|, in units of A
    status: Int[Array, "*lanes"]  # a Status code


def lanczos(matvec: Matvec, v0: PyTree, steps: int) -> Lanczos:
    """Project a self-adjoint A onto the Krylov space of v0: V^H A V = T, tridiagonal.

    The first column of V is v0 / |v0|; A times each column adds the next,

        beta_j v_{j+1} = A v_j - alpha_j v_j - beta_{j-1} v_{j-1},

    orthogonalised twice against all that came before: V stays orthonormal to rounding. This takes
    steps matvecs, 4 steps^2 inner products, and memory for steps vectors.

    Where nothing is added, the columns span an invariant subspace of A: beta_j and all that follows are
    zero, `rank` is the number of columns, and the eigenvalues of the leading part of T are some of A's.

    Args:
        matvec: v -> A v, linear and self-adjoint; `asymmetry` in the result tells.
        v0: where to start, a pytree of floating or complex arrays, not zero (or `rank` is zero).
            Half-precision leaves are worked with in float32.
        steps: how many columns; at most as many as v0 has numbers.

    Returns:
        Lanczos; its derivative is that of the recurrence.

    Raises:
        TypeError, ValueError: at once, for a matvec that does not map v0 to its like, and for steps out
            of range.

    Example:
        >>> T = lanczos(lambda v: jnp.array([1.0, 2.0, 4.0]) * v, jnp.ones(3), 3)
        >>> print(f"{T.diagonal[0]:.4f} {T.off_diagonal[0] ** 2:.4f} {T.rank}")  # mean, variance
        2.3333 1.5556 3
    """
    space = Flat("lanczos", matvec, v0)
    if not 1 <= steps <= space.size:
        raise ValueError(f"lanczos: steps must be from 1 to {space.size}, the size of v0, got {steps}")
    T = lanczos_flat(space.matvec, space.ravel(v0), steps)
    return dataclasses.replace(T, vectors=jax.vmap(space.unravel)(T.vectors))


def largest_eigenvalue(
    key: Key[Array, ""], matvec: Matvec, like: PyTree, *, steps: int = 100, rtol: ArrayLike | None = None
) -> Eigenpair:
    """Find the largest eigenvalue of a self-adjoint A, and its vector, by Lanczos from a random start.

    The value is a Rayleigh quotient, and so a lower bound of the largest eigenvalue but for rounding.

    Args:
        key: for the start.
        matvec: v -> A v, linear and self-adjoint.
        like: what v is like, arrays or `jax.ShapeDtypeStruct`s.
        steps: matvecs to spend, one more for the residual; memory is that of so many vectors. No more are
            taken than A has rows.
        rtol: residual allowed, relative to |A|; default eps**(3/4) of the coarsest dtype in `like`.

    Returns:
        Eigenpair, with status CONVERGED if the residual is within rtol |A|; MAX_STEPS if not: then `value`
        has that error, and more steps are the way out; NONFINITE, and NaN for all, if A v is not
        finite, or A not self-adjoint. Derivatives are those of the recurrence, in memory of steps^2 vectors.

    Example:
        >>> A = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> top = largest_eigenvalue(jax.random.key(0), lambda v: A @ v, jnp.zeros(2))
        >>> print(f"{top.value:.4f} {Status(top.status).name}")
        3.0000 CONVERGED
    """
    return extremal_eigenvalues(key, matvec, like, steps=steps, rtol=rtol)[1]


def extremal_eigenvalues(
    key: Key[Array, ""], matvec: Matvec, like: PyTree, *, steps: int = 100, rtol: ArrayLike | None = None
) -> tuple[Eigenpair, Eigenpair]:
    """Find the smallest (most negative) and the largest eigenvalue of a self-adjoint A.

    Everything is as in `largest_eigenvalue`, which does the same work.
    """
    space = Flat("extremal_eigenvalues", matvec, like)
    if steps < 1:
        raise ValueError(f"extremal_eigenvalues: steps must be at least 1, got {steps}")
    T = lanczos_flat(space.matvec, jax.random.normal(key, (space.size,), space.dtype), min(steps, space.size))
    rtol = space.eps**0.75 if rtol is None else rtol
    both = jax.vmap(lambda sign: _eigenpair(space, T, rtol, sign))(jnp.array([-1, 1], T.diagonal.dtype))
    return jax.tree.map(lambda x: x[0], both), jax.tree.map(lambda x: x[1], both)


def lanczos_flat(matvec: Matvec, v0: Inexact[Array, " n"], steps: int) -> Lanczos:
    """`lanczos` for a matvec between vectors of float32 or wider, as of `Flat`."""
    real = jnp.finfo(v0.dtype).dtype
    eps = jnp.finfo(real).eps

    def advance(carry, j):
        V, v, previous, alive, largest, asymmetry = carry
        V = V.at[j].set(v)
        w = matvec(v)
        h = coefficients(V, w)
        alpha = h[j].real
        # What h would be, were A self-adjoint; v_{-1} is V's last row, and zero.
        expected = jnp.zeros_like(h).at[j].set(alpha).at[j - 1].add(previous)
        largest = jnp.maximum(largest, length(w))
        asymmetry = jnp.maximum(asymmetry, jnp.where(alive, jnp.max(jnp.abs(h - expected)), 0.0))
        r = w - combination(V, h)
        r = r - combination(V, coefficients(V, r))  # twice is enough
        adds = alive & (length(r) > ROUNDINGS * eps * largest)
        r = jnp.where(adds, r, 1)  # a vector of ones has a length, and that a derivative
        beta = jnp.where(adds, length(r), 0)
        following = jnp.where(adds, r / length(r), 0)
        output = jnp.where(alive, alpha, 0), beta, alive
        return (V, following, beta, adds, largest, asymmetry), output

    exists = ~jnp.all(v0 == 0)
    v0 = jnp.where(exists, v0, 1)
    v = jnp.where(exists, v0 / length(v0), 0)
    zero = jnp.zeros((), real)
    start = (jnp.zeros((steps, *v.shape), v.dtype), v, zero, exists, zero, zero)
    start = varying_as(start, lambda carry: advance(carry, 0)[0])
    end, (diagonal, off_diagonal, alive) = lax.scan(advance, start, jnp.arange(steps))
    V, *_, largest, asymmetry = end
    asymmetry = asymmetry / jnp.where(largest > 0, largest, 1)
    return Lanczos(diagonal, off_diagonal, V, jnp.sum(alive, dtype=jnp.int32), asymmetry)


def _eigenpair(space: Flat, T: Lanczos, rtol: ArrayLike, sign: Float[Array, ""]) -> Eigenpair:
    """The eigenpair of A whose value is the largest of sign * A."""
    # Beyond the rank, eigenvalues below all others, and different ones: they have a derivative.
    norm = jnp.maximum(jnp.max(jnp.abs(T.diagonal)), jnp.max(T.off_diagonal))
    below = -jnp.where(norm > 0, norm, 1) * (4 + jnp.linspace(0, 1, T.diagonal.size, dtype=norm.dtype))
    theta, S = eigh(sign * T.matrix(sign * below))
    y = combination(T.vectors, S[:, -1].astype(T.vectors.dtype))
    y = y / length(y)
    value = sign * theta[-1]
    residual = length(space.matvec(y) - value * y)
    size = jnp.max(jnp.abs(theta), initial=0, where=jnp.arange(theta.size) >= theta.size - T.rank)
    converged = residual <= rtol * size
    sound = jnp.isfinite(residual) & T.is_self_adjoint(space.eps)
    status = jnp.where(sound, jnp.where(converged, Status.CONVERGED, Status.MAX_STEPS), Status.NONFINITE)
    nan_if_not = jnp.where(sound, 1.0, jnp.nan).astype(residual.dtype)
    vector = space.unravel(nan_if_not * y)
    return Eigenpair(nan_if_not * value, vector, nan_if_not * residual, status.astype(jnp.int32))
