"""A function with fewer atoms, and how far it is from the one it stands for.

    compress(f, budget=20)           at most 20 of the atoms of f, chosen greedily
    compress(f, tolerance=1e-3)      as few as keep the error within 1e-3
    compress(f, onto=Z)              atoms at the given points

Source: orthogonal matching pursuit by a pivoted Cholesky factorisation; Pazouki and Schaback, Bases for
kernel-based spaces, J. Comput. Appl. Math. 236 (2011), section 6 ("Newton basis").
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.core.rkhs._pytree import register
from chainrule.core.rkhs.dictionary import Dictionary
from chainrule.core.rkhs.function import RKHSFun, as_function
from chainrule.core.rkhs.kernels import PRECISION
from chainrule.core.tolerance import unit_of


@register
class Compressed:
    """A shorter function, and a bound of what was lost."""

    function: RKHSFun
    error: Float[Array, ""]  # at least |f - function|, in the norm of the space


def compress(
    f: RKHSFun,
    *,
    budget: int | None = None,
    tolerance: float | None = None,
    onto: ArrayLike | None = None,
) -> Compressed:
    """Project f onto fewer atoms, and bound the error in the norm of the space.

    The projection g onto the span of chosen atoms is the nearest function there. Atoms are chosen one by
    one, each the one that then shortens the residual r = f - g most,

        argmax_i  <r, u_i>^2 / |u_i|^2,

    u_i being what of atom i the chosen ones do not span: a Cholesky factorisation of the Gram matrix with
    pivots of that kind, of which only the chosen columns are ever computed. The error is then taken from
    the coefficients of f - g, whatever they turned out to be, and rounding is allowed for:

        error^2 = e^T K e + 2 (n + 8) eps |e|^T |K| |e|.

    Everywhere, |f(x) - g(x)| <= error sqrt(k(x, x)).

    Args:
        f: any function.
        budget: the number of atoms, at most; fewer if there are none left that would help.
        tolerance: the largest error allowed, in the units of the norm. The fewest atoms of the greedy
            sequence that reach it are taken; the sequence ends with f itself. Not under jit, since it
            decides on a shape.
        onto: points to have the atoms at, shape (m, dim). The Gram matrix gets the jitter of a Dictionary.

    Returns:
        Compressed: the function, and `error`. With budget and tolerance both, the budget has the last word,
        and the error is to be looked at.

    Raises:
        TypeError: for none of the three, for `onto` with another, and for a tolerance while tracing.
        ValueError: for a budget or a tolerance that makes no sense.

    Example:
        >>> x = jnp.linspace(0.0, 1.0, 50)[:, None]
        >>> f = RKHSFun(SquaredExponential(), x, jnp.ones(50))
        >>> short = compress(f, budget=4)
        >>> len(short.function.points), bool(short.error < 0.1 * jnp.sqrt(norm_sq(f)))
        (4, True)
    """
    f = as_function(f)
    if (onto is None) == (budget is None and tolerance is None):
        raise TypeError("rkhs.compress: give a budget, a tolerance or both; or else points to go onto")
    if budget is not None and budget < 1:
        raise ValueError(f"rkhs.compress: budget must be at least 1, got {budget}")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"rkhs.compress: tolerance must be at least 0, got {tolerance}")
    X, a = f.points, f.coefficients
    most = len(a) if budget is None else min(budget, len(a))
    if onto is None and most == 0:
        return Compressed(f, jnp.zeros((), a.dtype))
    unit = unit_of(a, a.dtype)  # in units of it, squares neither overflow nor vanish
    in_units = RKHSFun(f.kernel, X, a / unit) if f.blocks else f
    if onto is not None:
        short = _onto(in_units, onto)
    elif tolerance is None:
        short = _compressed(f.kernel, X, a / unit, most)
    else:
        short = _within(in_units, tolerance / unit, most)
    return Compressed(unit * short.function, unit * short.error)


def _onto(f, points):
    g = Dictionary(f.kernel, points).project(f).function
    difference = f - g
    return Compressed(g, _norm_bound(f.kernel, difference.points, difference.coefficients))


def _within(f, tolerance, most):
    """As few atoms of the greedy sequence as keep the error within a tolerance."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(f)):
        raise TypeError(
            "rkhs.compress: a tolerance decides on a shape, which jit must know. Way out: a budget"
        )
    X, a = f.points, f.coefficients
    size = 0
    while True:  # doubled, so that all of them cost twice the last at most
        size = min(2 * size + 64, most)
        reached = np.flatnonzero(_greedy(f.kernel, X, a, size)[3] <= tolerance**2)
        if len(reached) or size == most:
            break
    size = reached[0] + 1 if len(reached) else most
    while (short := _compressed(f.kernel, X, a, int(size))).error > tolerance and size < most:
        size = min(size + 1 + size // 8, most)  # the bound allows for rounding
    if short.error > tolerance and size == len(a):
        return Compressed(f, jnp.zeros_like(short.error))
    return short


@functools.partial(jax.jit, static_argnames="size")
def _compressed(kernel, X, a, size):
    """The projection of f = sum_i a_i k(x_i, .) onto `size` of its atoms."""
    pivots, factor, along, _ = _greedy(kernel, X, a, size)
    c = solve_triangular(factor, along, lower=True, trans=1)
    return Compressed(RKHSFun(kernel, X[pivots], c), _norm_bound(kernel, X, a.at[pivots].add(-c)))


@functools.partial(jax.jit, static_argnames="size")
def _greedy(kernel, X, a, size):
    """Chosen atoms, and f in the orthonormal basis u_1, u_2, ... that they give when orthogonalised in turn.

    Returns: the indices of the atoms; the lower factor of their Gram matrix; the <f, u_j>; and the squared
    error after each. When no atom is left that would help, the remaining ones get coefficient zero.
    """
    diagonal = kernel.diagonal(X)
    noise = 4 * len(a) * jnp.finfo(a.dtype).eps * diagonal  # of `left`

    def choose(carry, j):
        columns, left, residual = carry  # (<k(x_i, .), u_j>)_ij, the |u_i|^2, and the <r, u_i>
        gain = jnp.where(left > noise, (residual / jnp.sqrt(jnp.where(left > noise, left, 1))) ** 2, -1)
        pivot = jnp.argmax(gain)
        helps = gain[pivot] > 0
        column = kernel.gram(X, X[pivot][None])[:, 0] - jnp.matmul(
            columns, columns[pivot], precision=PRECISION
        )
        column = jnp.where(helps, column / jnp.sqrt(jnp.where(helps, left[pivot], 1)), 0)
        along = jnp.dot(column, a, precision=PRECISION)
        columns = columns.at[:, j].set(column)
        left = (left - column**2).at[pivot].set(0)
        residual = residual - along * column
        error_sq = jnp.dot(a, residual, precision=PRECISION)
        return (columns, left, residual), (pivot, helps, along, error_sq)

    start = jnp.zeros((len(a), size), a.dtype), diagonal, RKHSFun(kernel, X, a)(X)
    (columns, _, _), (pivots, helps, along, errors_sq) = lax.scan(choose, start, jnp.arange(size))
    factor = jnp.where(helps[:, None], jnp.tril(columns[pivots]), jnp.eye(size, dtype=a.dtype))
    return pivots, factor, along, errors_sq


@jax.jit
def _norm_bound(kernel, X, e):
    """At least the norm of sum_i e_i k(x_i, .), whatever rounding did to it."""
    K = kernel.gram(X)
    quadratic = lambda K, e: jnp.dot(e, jnp.matmul(K, e, precision=PRECISION), precision=PRECISION)
    rounding = 2 * (len(e) + 8) * jnp.finfo(e.dtype).eps
    return jnp.sqrt(jnp.maximum(quadratic(K, e), 0) + rounding * quadratic(jnp.abs(K), jnp.abs(e)))
