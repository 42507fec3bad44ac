"""Products, Cholesky factors and triangular solves of small matrices, over any leading axes.

Up to SMALL rows they are written out, number by number: a call of LAPACK on a CPU costs as much as hundreds of
multiplications. In lanes of jax.vmap each number is then a vector over the lanes. A matrix must be so small for
this, or the program grows long and compiles slowly.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SMALL = 4
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def product(a: Float[Array, "... n k"], b: Float[Array, "... k m"]) -> Float[Array, "... n m"]:
    if max(a.shape[-1], a.shape[-2], b.shape[-1]) > SMALL:
        return jnp.matmul(a, b, precision=HIGHEST)
    x, y = _numbers(a), _numbers(b)
    columns = range(b.shape[-1])
    return _matrix([[_dot(row, [y[k][j] for k in range(len(y))]) for j in columns] for row in x])


def apply(a: Float[Array, "... n k"], v: Float[Array, "... k"]) -> Float[Array, "... n"]:
    """a v."""
    if max(a.shape[-2:]) > SMALL:
        return jnp.matmul(a, v[..., None], precision=HIGHEST)[..., 0]
    v = [v[..., k] for k in range(v.shape[-1])]
    return jnp.stack([_dot(row, v) for row in _numbers(a)], -1)


def transposed(a: Float[Array, "... n m"]) -> Float[Array, "... m n"]:
    return jnp.swapaxes(a, -1, -2)


def symmetric(a: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    return (a + transposed(a)) / 2


def square(a: Float[Array, "... n k"]) -> Float[Array, "... n n"]:
    """a a'."""
    return product(a, transposed(a))


def quadratic(a: Float[Array, "... n n"], v: Float[Array, "... n"]) -> Float[Array, "..."]:
    """v' a v."""
    return jnp.sum(v * apply(a, v), -1)


def cholesky(a: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """Lower triangular L with L L' = a, from the lower triangle of a; NaN where a is not positive definite."""
    n = a.shape[-1]
    if n > SMALL:
        return lax.linalg.cholesky(a, symmetrize_input=False)
    x = _numbers(a)
    L = [[jnp.zeros_like(x[0][0])] * n for _ in range(n)]
    for j in range(n):
        L[j][j] = jnp.sqrt(x[j][j] - _dot(L[j][:j], L[j][:j]))
        for i in range(j + 1, n):
            L[i][j] = (x[i][j] - _dot(L[i][:j], L[j][:j])) / L[j][j]
    return _matrix(L)


def solve_lower(L: Float[Array, "... n n"], b: Float[Array, "... n m"]) -> Float[Array, "... n m"]:
    """L^-1 b."""
    n, m = b.shape[-2:]
    if n > SMALL:
        return lax.linalg.triangular_solve(L, b, left_side=True, lower=True)
    l, x = _numbers(L), _numbers(b)
    for i in range(n):
        for j in range(m):
            x[i][j] = (x[i][j] - _dot(l[i][:i], [x[k][j] for k in range(i)])) / l[i][i]
    return _matrix(x)


def solve_upper(L: Float[Array, "... n n"], b: Float[Array, "... n m"]) -> Float[Array, "... n m"]:
    """L'^-1 b."""
    n, m = b.shape[-2:]
    if n > SMALL:
        return lax.linalg.triangular_solve(L, b, left_side=True, lower=True, transpose_a=True)
    l, x = _numbers(L), _numbers(b)
    for i in reversed(range(n)):
        for j in range(m):
            above = [l[k][i] for k in range(i + 1, n)]
            x[i][j] = (x[i][j] - _dot(above, [x[k][j] for k in range(i + 1, n)])) / l[i][i]
    return _matrix(x)


def log_diagonal(L: Float[Array, "... n n"]) -> Float[Array, "..."]:
    """log det L."""
    return jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)


def _numbers(a):
    return [[a[..., i, j] for j in range(a.shape[-1])] for i in range(a.shape[-2])]


def _matrix(rows):
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _dot(x, y):
    if not x:
        return 0.0
    total = x[0] * y[0]
    for p, q in zip(x[1:], y[1:], strict=True):
        total = total + p * q
    return total
