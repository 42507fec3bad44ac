"""Positive definite matrices in batches, and the refusal of those that are not.

cholesky, solve, inverse         of a symmetric matrix, with a symmetric derivative; half_log_det
excess(L, P)                     tr(Q^-1 P) - n - log|Q^-1 P| with Q = L L', never negative
require(name, value, ok, what)   a ValueError on the host, for standard parameters that are none
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

NEAR = 0.5  # up to here log(1 + e) is better than the log of what was rounded
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def cholesky(S: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """L with L L' = (S + S')/2; NaN where that is not positive definite."""
    return lax.linalg.cholesky(S, symmetrize_input=True)


def solve(L: Float[Array, "*batch n n"], b: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
    """(L L')^-1 b."""
    return jax.scipy.linalg.cho_solve((L, True), b)


def half_log_det(L: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """log|L| = log|L L'| / 2."""
    return jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)


def excess(
    L: Float[Array, "*batch n n"], P: Float[Array, "*batch n n"], ratio: Float[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """tr C - n - log|C| for C = ratio L^-1 P L^-T: what the KL of Gaussians and Wisharts is made of.

    With G G' = C and e_i = C_ii - 1 - sum_{j<i} G_ij^2, so that log|C| = sum_i log(1 + e_i), it is

        sum_i (e_i - log(1 + e_i)) + sum_{j<i} G_ij^2,

    all terms of which are squares, or like them: near C = I nothing cancels. Far from it, log(1 + e_i) is
    taken from G_ii, as 1 + e_i itself would have lost its digits.
    """
    half = jax.scipy.linalg.solve_triangular(L, symmetric(P), lower=True)
    C = jax.scipy.linalg.solve_triangular(L, half.mT, lower=True)
    if ratio is not None:
        C = C * ratio[..., None, None]
    G = cholesky(C)
    below = jnp.sum(jnp.tril(G, -1) ** 2, -1)
    e = jnp.diagonal(C, axis1=-2, axis2=-1) - 1 - below
    near = jnp.abs(e) < NEAR
    log = jnp.where(near, jnp.log1p(jnp.where(near, e, 0)), 2 * jnp.log(jnp.diagonal(G, axis1=-2, axis2=-1)))
    return jnp.sum(e - log + below, -1)


def trace_of_product(A: Float[Array, "*batch n m"], B: Float[Array, "*batch n m"]) -> Float[Array, "*batch"]:
    """tr(A' B)."""
    return jnp.sum(A * B, (-2, -1))


def inverse(L: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """(L L')^-1."""
    return symmetric(solve(L, eye_like(L)))


def eye_like(S: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    return jnp.broadcast_to(jnp.eye(S.shape[-1], dtype=S.dtype), S.shape)


def symmetric(S: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    return (S + S.mT) / 2


def is_positive_definite(S: Float[Array, "*batch n n"]) -> Bool[Array, "*batch"]:
    """Whether a Cholesky factor is finite; False for NaN."""
    finite = jnp.all(jnp.isfinite(S), (-2, -1))
    L = cholesky(jnp.where(finite[..., None, None], S, -eye_like(S)))  # of -I it is NaN
    return jnp.all(jnp.isfinite(L), (-2, -1))


def as_floats(*values: Any) -> list[Array]:
    """Arrays of one floating dtype."""
    dtype = jnp.result_type(float, *values) if not any(map(_is_floating, values)) else None
    dtype = dtype or jnp.result_type(*(v for v in values if _is_floating(v)))
    return [jnp.asarray(v, dtype) for v in values]


def require(name: str, value: Array, ok: Bool[Array, "*batch"], what: str) -> None:
    """Refuse what is known now not to be a parameter; what is traced becomes NaN by itself."""
    if isinstance(ok, jax.core.Tracer) or isinstance(value, jax.core.Tracer):
        return
    fine, values = np.asarray(ok), np.asarray(value)
    if not fine.all():
        where = np.unravel_index(np.argmin(fine), fine.shape)  # the first that is not
        entry = f" (entry {list(map(int, where))} of the batch)" if fine.ndim else ""
        raise ValueError(f"{name} must be {what}, got {values[where].tolist()}{entry}")


def require_symmetric(name: str, S: Array) -> None:
    """A matrix that is not symmetric is a mistake; half of it would be overlooked."""
    if not isinstance(S, jax.core.Tracer):
        gap = jnp.max(jnp.abs(S - S.mT), (-2, -1))
        size = jnp.max(jnp.abs(S), (-2, -1))
        require(name, S, gap <= 1e-5 * size, "symmetric")


def _is_floating(value):
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)
