"""Products, Cholesky factors and triangular solves of small matrices, in the form in which each is quickest.

A call of LAPACK on a CPU costs as much as hundreds of multiplications. So a matrix of up to SMALL rows is a
list of lists of numbers, or of vectors where many matrices are worked on at once, and whatever is done with
it is written out, number by number. A larger one, which would compile slowly so, is an array (..., rows,
columns), for LAPACK and BLAS. The functions here take both forms, of matrices and of vectors.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

SMALL = 4
MEDIUM = 8
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def numbers(a) -> Any:
    """An array as numbers, if it is small."""
    if a.ndim == 0 or max(a.shape) > SMALL:
        return a
    return [numbers(a[i]) for i in range(a.shape[0])]


def array(a) -> Any:
    """The array of numbers."""
    return jnp.stack([array(x) for x in a]) if isinstance(a, list) else a


def lanes(a) -> Any:
    """Many small arrays as numbers which are vectors over the many."""
    return a if max(a.shape[1:]) > SMALL else _listed(jnp.moveaxis(a, 0, -1))


def many(a) -> Any:
    """The array that was made lanes."""
    return jnp.moveaxis(array(a), -1, 0) if isinstance(a, list) else a


def _listed(a) -> Any:
    return a if a.ndim == 1 else [_listed(x) for x in a]


def plus(a, b) -> Any:
    return jax.tree.map(jnp.add, a, b)


def minus(a, b) -> Any:
    return jax.tree.map(jnp.subtract, a, b)


def transposed(a) -> Any:
    if isinstance(a, list):
        return [list(column) for column in zip(*a, strict=True)]
    return jnp.swapaxes(a, -1, -2)


def symmetric(a) -> Any:
    if isinstance(a, list):  # one number for both places: computed twice, it may be rounded differently
        half = [[(a[i][j] + a[j][i]) / 2 for j in range(i + 1)] for i in range(len(a))]
        return [[half[max(i, j)][min(i, j)] for j in range(len(a))] for i in range(len(a))]
    return (a + transposed(a)) / 2


def product(a, b) -> Any:
    """a b."""
    if isinstance(a, list):
        columns = transposed(b)
        return [[_dot(row, column) for column in columns] for row in a]
    if a.shape[-1] <= MEDIUM and a.ndim == 2:
        return _dot(
            [a[..., :, k, None] for k in range(a.shape[-1])], [b[..., None, k, :] for k in range(a.shape[-1])]
        )
    return jnp.matmul(a, b, precision=HIGHEST)


def apply(a, v) -> Any:
    """a v for a vector v."""
    if isinstance(a, list):
        return [_dot(row, v) for row in a]
    if a.shape[-1] <= MEDIUM:
        return jnp.sum(a * v[..., None, :], -1)
    return jnp.matmul(a, v[..., None], precision=HIGHEST)[..., 0]


def scaled(d, a) -> Any:
    """diag(d) a for a vector or matrix a."""
    if isinstance(d, list):
        return [jax.tree.map(lambda x, y=y: x * y, row) for y, row in zip(d, a, strict=True)]
    return d.reshape(d.shape + (1,) * (a.ndim - d.ndim)) * a


def inner(u, v) -> Any:
    """u' v for vectors."""
    return _dot(u, v) if isinstance(u, list) else jnp.sum(u * v, -1)


def square(a) -> Any:
    """a a'."""
    return product(a, transposed(a))


def one_plus(a) -> Any:
    """I + a."""
    if isinstance(a, list):
        return [[x + 1 if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return a + jnp.eye(a.shape[-1], dtype=a.dtype)


def guarded(a) -> Any:
    """a with its diagonal raised by rounding, so that it has a Cholesky factor although it was rounded."""
    n = len(a) if isinstance(a, list) else a.shape[-1]
    dtype = jnp.result_type(jax.tree.leaves(a)[0])
    more = 1 + n * jnp.finfo(dtype).eps
    if isinstance(a, list):
        return [[x * more if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return jnp.where(jnp.eye(n, dtype=bool), a * more, a)


def cholesky(a) -> Any:
    """Lower triangular L with L L' = a, from the lower triangle of a; NaN where a is not positive
    definite.
    """
    if not isinstance(a, list):
        return lax.linalg.cholesky(a, symmetrize_input=False)
    n = len(a)
    L = [[jnp.zeros_like(a[0][0])] * n for _ in range(n)]
    for j in range(n):
        pivot = a[j][j] - _dot(L[j][:j], L[j][:j])
        unit = lax.rsqrt(pivot)
        L[j][j] = pivot * unit
        for i in range(j + 1, n):
            L[i][j] = (a[i][j] - _dot(L[i][:j], L[j][:j])) * unit
    return L


def solve_lower(L, b) -> Any:
    """L^-1 b for a matrix b."""
    if isinstance(L, list):
        x = [list(row) for row in b]
        for i in range(len(L)):
            for j in range(len(x[0])):
                x[i][j] = (x[i][j] - _dot(L[i][:i], [x[k][j] for k in range(i)])) / L[i][i]
        return x
    if L.shape[-1] > MEDIUM:
        return product(inverse_lower(L), b)
    return lax.linalg.triangular_solve(L, b, left_side=True, lower=True)


def solve_upper_vector(L, v) -> Any:
    """L'^-1 v of a lower triangular L."""
    if isinstance(L, list):
        x = list(v)
        for i in reversed(range(len(L))):
            later = range(i + 1, len(L))
            x[i] = (x[i] - _dot([L[k][i] for k in later], [x[k] for k in later])) / L[i][i]
        return x
    if len(L) > MEDIUM:
        return apply(transposed(inverse_lower(L)), v)
    return lax.linalg.triangular_solve(L, v[:, None], left_side=True, lower=True, transpose_a=True)[:, 0]


def solve_upper(L, b) -> Any:
    """L'^-1 b for a matrix b and lower triangular L."""
    if isinstance(L, list) or L.shape[-1] > MEDIUM:
        return product(transposed(inverse_lower(L)), b)
    return lax.linalg.triangular_solve(L, b, left_side=True, lower=True, transpose_a=True)


def inverse_lower(L) -> Any:
    """L^-1 of a lower triangular L, by halves: solving with many columns takes BLAS several times as long."""
    if isinstance(L, list):
        n = len(L)
        x = [[jnp.zeros_like(L[0][0])] * n for _ in range(n)]
        for i in range(n):
            x[i][i] = 1 / L[i][i]
            for j in range(i):
                x[i][j] = -_dot(L[i][j:i], [x[k][j] for k in range(j, i)]) * x[i][i]
        return x
    n = L.shape[-1]
    if n <= SMALL:
        entries = [[L[..., i, j] for j in range(n)] for i in range(n)]
        return jnp.stack([jnp.stack(row, -1) for row in inverse_lower(entries)], -2)
    half = n // 2
    first, corner, second = L[..., :half, :half], L[..., half:, :half], L[..., half:, half:]
    if n % 2:
        first, second = inverse_lower(first), inverse_lower(second)
    else:
        both = inverse_lower(jnp.stack([first, second]))
        first, second = both[0], both[1]
    corner = -product(second, product(corner, first))
    above = jnp.zeros_like(transposed(corner))
    return jnp.concatenate([jnp.concatenate([first, above], -1), jnp.concatenate([corner, second], -1)], -2)


def log_determinant(L) -> Any:
    """log det L of a triangular L: a number, or one for each of many."""
    if isinstance(L, list):
        return sum(jnp.log(L[i][i]) for i in range(len(L)))
    return jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)


def _dot(x, y) -> Any:
    """sum_i x_i y_i."""
    total = 0.0
    for i, (p, q) in enumerate(zip(x, y, strict=True)):
        total = p * q if i == 0 else total + p * q
    return total
