"""Products, Cholesky factors and inverses of small matrices, in the form in which each is quickest.

A call of LAPACK on a CPU costs as much as hundreds of multiplications. So a matrix of up to SMALL rows is a
list of lists of numbers, or of vectors where many matrices are worked on at once, and whatever is done with
it is written out, number by number. One of up to MEDIUM rows is an array (..., rows, columns), worked on row
by row, which XLA makes one loop of vectors and which costs many matrices no more than their numbers. A
larger one, which would compile slowly so, is such an array for LAPACK and BLAS. The functions here take all
forms, of matrices and of vectors.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from chainrule.svae.messages._batched import one_or_many

SMALL = 2
MEDIUM = 8
LARGE = 16
LOST = 0.01  # relative error of a pivot from which on a factor is not to be trusted
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def is_small(a) -> bool:
    """Whether matrices of this array become lists."""
    return a.shape[-1] <= SMALL


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
    return a if a.ndim > 1 and max(a.shape[1:]) > SMALL else _listed(jnp.moveaxis(a, 0, -1))


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


def laid_out(a) -> Any:
    """The same, in memory as it reads: a transposed matrix is no more to be read across its rows."""
    return a if isinstance(a, list) else lax.optimization_barrier(a)


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
    if a.ndim == 2 and a.shape[-1] <= MEDIUM:
        return _small_product(a, b)
    return _product(a, b)


def _product(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def _product_by_sums(a, b):
    """For one matrix, quicker than a call of BLAS."""
    return jnp.sum(a[:, :, None] * b[None], 1)


_small_product = one_or_many(_product_by_sums, lambda axes: jax.vmap(_product, axes), _product)


def products(a, b, c) -> Any:
    """a b and a c: of large matrices, or many, for the price of little more than one."""
    if isinstance(a, list):
        return product(a, b), product(a, c)
    return _small_products(a, b, c) if a.ndim == 2 and a.shape[-1] <= MEDIUM else _products(a, b, c)


def _products(a, b, c):
    found = _product(a, jnp.concatenate([b, c], -1))
    return found[..., : b.shape[-1]], found[..., b.shape[-1] :]


_small_products = one_or_many(
    lambda a, b, c: (_product_by_sums(a, b), _product_by_sums(a, c)),
    lambda axes: jax.vmap(_products, axes),
    _products,
)


def sum_of_products(a, b, c, d) -> Any:
    """a b' + c d', likewise."""
    if isinstance(a, list):
        return plus(product(a, transposed(b)), product(c, transposed(d)))
    small = a.ndim == 2 and a.shape[-1] <= MEDIUM
    return _small_sum_of_products(a, b, c, d) if small else _sum_of_products(a, b, c, d)


def _sum_of_products(a, b, c, d):
    return _product(jnp.concatenate([a, c], -1), transposed(jnp.concatenate([b, d], -1)))


_small_sum_of_products = one_or_many(
    lambda a, b, c, d: _product_by_sums(a, b.T) + _product_by_sums(c, d.T),
    lambda axes: jax.vmap(_sum_of_products, axes),
    _sum_of_products,
)


def apply(a, v) -> Any:
    """a v for a vector v."""
    if isinstance(a, list):
        return [_dot(row, v) for row in a]
    if a.ndim == 2 and a.shape[-1] <= MEDIUM:
        return _small_apply(a, v)
    return _apply(a, v)


def _apply(a, v):
    return jnp.matmul(a, v[..., None], precision=HIGHEST)[..., 0]


def _apply_by_sums(a, v):
    return jnp.sum(a * v[None], 1)


_small_apply = one_or_many(_apply_by_sums, lambda axes: jax.vmap(_apply, axes), _apply)


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


def minus_one(a) -> Any:
    """a - I."""
    if isinstance(a, list):
        return [[x - 1 if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return a - jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


def guarded(a) -> Any:
    """a with its diagonal raised by rounding, so that it has a Cholesky factor although it was rounded."""
    n = len(a) if isinstance(a, list) else a.shape[-1]
    dtype = jnp.result_type(jax.tree.leaves(a)[0])
    more = 1 + n * jnp.finfo(dtype).eps
    if isinstance(a, list):
        return [[x * more if i == j else x for j, x in enumerate(row)] for i, row in enumerate(a)]
    return jnp.where(jnp.eye(n, dtype=bool), a * more, a)


def diagonal(a) -> Any:
    """The diagonal as a vector."""
    if isinstance(a, list):
        return [a[i][i] for i in range(len(a))]
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def factored(a) -> Any:
    """L and L^-1 of a = L L', L being lower triangular, from a's lower triangle; NaN where a is not positive
    definite.
    """
    if not isinstance(a, list) and a.ndim == 2 and a.shape[-1] <= MEDIUM:
        return _small_factored(a)
    return _factored(a)


def _factored(a):
    L = cholesky(a)
    return L, inverse_lower(L)


def _factored_side_by_side(a):
    """Of many matrices, by eliminating entries of (a, 1) below the diagonal, as vectors over the many."""
    n = a.shape[-1]
    a = jnp.moveaxis(a, (-2, -1), (0, 1))
    index = jnp.arange(n).reshape(n, *[1] * (a.ndim - 2))
    eye = (index[:, None] == index[None]).astype(a.dtype)

    def eliminate(rows, j):
        row = lax.dynamic_index_in_dim(rows, j, keepdims=False)
        column = lax.dynamic_index_in_dim(rows, j, 1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, j)
        factor = jnp.where(index > j, column / pivot, 0)
        return rows - factor[:, None] * row[None], None

    both = jnp.concatenate([a, jnp.broadcast_to(eye, a.shape)], 1)
    both = lax.scan(eliminate, both, jnp.arange(n - 1))[0]
    both = both * lax.rsqrt(jnp.stack([both[i, i] for i in range(n)]))[:, None]
    U, inverse = (jnp.moveaxis(x, (0, 1), (-2, -1)) for x in (both[:, :n], both[:, n:]))
    return transposed(jnp.triu(U)), inverse


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


def inverse_lower(L) -> Any:
    """L^-1 of a lower triangular L.

    By halves, since threads of LAPACK wait longer for each other than it takes; and from the right, since
    from the left it takes three times as long.
    """
    if isinstance(L, list):
        n = len(L)
        x = [[jnp.zeros_like(L[0][0])] * n for _ in range(n)]
        for i in range(n):
            x[i][i] = 1 / L[i][i]
            for j in range(i):
                x[i][j] = -_dot(L[i][j:i], [x[k][j] for k in range(j, i)]) * x[i][i]
        return x
    n = L.shape[-1]
    if n <= LARGE:
        eye = jnp.broadcast_to(jnp.eye(n, dtype=L.dtype), L.shape)
        return lax.linalg.triangular_solve(L, eye, left_side=False, lower=True)
    half = n // 2
    first, corner, second = L[..., :half, :half], L[..., half:, :half], L[..., half:, half:]
    first, second = inverse_lower(first), inverse_lower(second)
    corner = -product(second, product(corner, first))
    above = jnp.zeros_like(transposed(corner))
    return jnp.concatenate([jnp.concatenate([first, above], -1), jnp.concatenate([corner, second], -1)], -2)


_small_factored = one_or_many(_factored, lambda _: _factored_side_by_side, _factored)


def nan_unless_sound(inverse, a) -> Any:
    """The inverse of a's Cholesky factor; NaN if a pivot is no more than what rounding leaves of a."""
    pairs = zip(diagonal(a), diagonal(inverse), strict=True) if isinstance(a, list) else None
    if pairs is not None:
        worst = reduce(jnp.maximum, [x * unit**2 for x, unit in pairs])
    else:
        worst = jnp.max(diagonal(a) * diagonal(inverse) ** 2, -1)[..., None, None]
    sound = jnp.where(worst * jnp.finfo(worst.dtype).eps < LOST, 1.0, jnp.nan)
    return jax.tree.map(lambda x: x * sound.astype(x.dtype), inverse)


def log_determinant(L) -> Any:
    """log det L of a triangular L: a number, or one for each of many."""
    if isinstance(L, list):
        return sum(jnp.log(x) for x in diagonal(L))
    return jnp.sum(jnp.log(diagonal(L)), -1)


def _dot(x, y) -> Any:
    """sum_i x_i y_i."""
    total = 0.0
    for i, (p, q) in enumerate(zip(x, y, strict=True)):
        total = p * q if i == 0 else total + p * q
    return total
