"""Products, Cholesky factors and triangular solves of small matrices, in the form in which each is quickest.

A call of LAPACK on a CPU costs as much as hundreds of multiplications. So a matrix of up to SMALL rows is a
list of lists of numbers, or of vectors where many matrices are worked on at once, and whatever is done with
it is written out, number by number. A larger one, which would compile slowly so, is an array (..., rows,
columns), for LAPACK and BLAS. The functions here take both forms, of matrices and of vectors.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SMALL = 4
MEDIUM = 16
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def numbers(a):
    """An array as numbers, if it is small."""
    if a.ndim == 0 or max(a.shape) > SMALL:
        return a
    return [numbers(a[i]) for i in range(a.shape[0])]


def array(a):
    """The array of numbers."""
    return jnp.stack([array(x) for x in a]) if isinstance(a, list) else a


def lanes(a: Float[Array, "many rows *columns"]):
    """Many small arrays as numbers which are vectors over the many."""
    return a if max(a.shape[1:]) > SMALL else _listed(jnp.moveaxis(a, 0, -1))


def many(a) -> Float[Array, "many rows *columns"]:
    """The array that was made lanes."""
    return jnp.moveaxis(array(a), -1, 0) if isinstance(a, list) else a


def _listed(a):
    return a if a.ndim == 1 else [_listed(x) for x in a]


def plus(a, b):
    return jax.tree.map(jnp.add, a, b)


def minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def transposed(a):
    if isinstance(a, list):
        return [list(column) for column in zip(*a, strict=True)]
    return jnp.swapaxes(a, -1, -2)


def symmetric(a):
    return jax.tree.map(lambda x, y: (x + y) / 2, a, transposed(a))


def product(a, b):
    """a b."""
    if isinstance(a, list):
        columns = transposed(b)
        return [[_dot(row, column) for column in columns] for row in a]
    return jnp.matmul(a, b, precision=HIGHEST)


def apply(a, v):
    """a v for a vector v."""
    if isinstance(a, list):
        return [_dot(row, v) for row in a]
    if a.shape[-1] <= MEDIUM:  # joins what comes before and after in one loop
        return jnp.sum(a * v[..., None, :], -1)
    return jnp.matmul(a, v[..., None], precision=HIGHEST)[..., 0]


def scaled(d, a):
    """diag(d) a for a vector or matrix a."""
    if isinstance(d, list):
        return [jax.tree.map(lambda x, y=y: x * y, row) for y, row in zip(d, a, strict=True)]
    return d.reshape(d.shape + (1,) * (a.ndim - d.ndim)) * a


def inner(u, v):
    """u' v for vectors."""
    return _dot(u, v) if isinstance(u, list) else jnp.sum(u * v, -1)


def square(a):
    """a a'."""
    return product(a, transposed(a))


def one_plus(a):
    """I + a."""
    if isinstance(a, list):
        return [[x + 1 if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return a + jnp.eye(a.shape[-1], dtype=a.dtype)


def guarded(a):
    """a with its diagonal raised by rounding, so that it has a Cholesky factor although it was rounded."""
    n = len(a) if isinstance(a, list) else a.shape[-1]
    dtype = jnp.result_type(jax.tree.leaves(a)[0])
    more = 1 + n * jnp.finfo(dtype).eps
    if isinstance(a, list):
        return [[x * more if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return jnp.where(jnp.eye(n, dtype=bool), a * more, a)


def cholesky(a):
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


def solve_lower(L, b):
    """L^-1 b for a matrix b."""
    if isinstance(L, list):
        x = [list(row) for row in b]
        for i in range(len(L)):
            for j in range(len(x[0])):
                x[i][j] = (x[i][j] - _dot(L[i][:i], [x[k][j] for k in range(i)])) / L[i][i]
        return x
    return lax.linalg.triangular_solve(L, b, left_side=True, lower=True)


def solve_upper(L, b):
    """L'^-1 b for a matrix b and lower triangular L."""
    if isinstance(L, list):
        upside_down = [row[::-1] for row in transposed(L)[::-1]]
        return solve_lower(upside_down, b[::-1])[::-1]
    return lax.linalg.triangular_solve(L, b, left_side=True, lower=True, transpose_a=True)


def solve_upper_vector(L, v):
    """L'^-1 v."""
    if isinstance(L, list):
        return [row[0] for row in solve_upper(L, [[x] for x in v])]
    return solve_upper(L, v[..., None])[..., 0]


def log_determinant(L):
    """log det L of a triangular L: a number, or one for each of many."""
    if isinstance(L, list):
        return sum(jnp.log(L[i][i]) for i in range(len(L)))
    return jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)


def _dot(x, y):
    """sum_i x_i y_i."""
    total = 0.0
    for i, (p, q) in enumerate(zip(x, y, strict=True)):
        total = p * q if i == 0 else total + p * q
    return total
