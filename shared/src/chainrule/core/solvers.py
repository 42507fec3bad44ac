"""Iterations that need only evaluations: Picard's, and Anderson's acceleration of it.

Picard(damping)             x <- x + damping (f(a, x) - x): repeat the map, or walk along the increment
Anderson(history, damping)  the same, extrapolated from the last few steps: far fewer of them on slow maps

For a root, f(a, x) - x stands for -F(a, x), and for a minimum for -grad: there damping is the step size.

Source: D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965), in the
difference form of H. F. Walker and P. Ni, Anderson acceleration for fixed-point iterations, SIAM J.
Numer. Anal. 49 (2011).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax import lax
from jax.typing import ArrayLike

from chainrule.core.iteration import Step, differences
from chainrule.core.tolerance import inexact_leaves, max_abs, measure_of, replace_inexact


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Picard:
    """Repeat the map: x <- x + damping (f(a, x) - x); for a minimum this is gradient descent.

    Converges where the damped map contracts, at the rate of its contraction. Costs one evaluation a step.
    """

    damping: ArrayLike = 1.0  # part of the step to take; the step size, in argmin and root

    linear_solver = property(lambda self: self)

    def __post_init__(self):
        _refuse_zero("Picard: damping", self.damping)

    def start(self, x):
        return ()

    def advance(self, problem, x, memory, steps, tolerance):
        y = problem.move(x, self.damping)
        return Step(y, y, memory)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["damping", "ridge"], meta_fields=["history"]
)
@dataclasses.dataclass(frozen=True)
class Anderson:
    """Picard's iteration, extrapolated: of the last steps combine those whose residuals cancel best.

    With y_k the image of x_k, r_k = y_k - x_k, and dy, dr their last differences,

        x_{k+1} = y_k - sum_j gamma_j dy_j,    gamma = argmin |r_k - sum_j gamma_j dr_j|^2 + ridge |gamma|^2.

    On an affine map this is GMRES in disguise: it takes about the square root of Picard's steps, and may
    converge where Picard does not. A step costs one evaluation and some 4 `history` vector operations; memory
    is that of 2 `history` copies of x. On maps that contract fast Picard is quicker.
    """

    history: int = 5  # differences remembered
    damping: ArrayLike = 1.0  # as in Picard: the step size, in argmin and root
    ridge: ArrayLike = (
        10.0  # in eps times the trace of the Gram matrix: relative, or it would swamp small steps
    )

    linear_solver = property(lambda self: self)

    def __post_init__(self):
        if not (isinstance(self.history, int) and self.history >= 1):
            raise ValueError(f"Anderson: history must be an integer of at least 1, got {self.history!r}")
        _refuse_zero("Anderson: damping", self.damping)

    def start(self, x):
        floats, m, measure = inexact_leaves(x), self.history, measure_of(x)
        past = [jnp.zeros((m, *leaf.shape), leaf.dtype) for leaf in floats]
        zeros = [jnp.zeros_like(leaf) for leaf in floats]
        return (jnp.ones((), measure), zeros, zeros, past, past, jnp.zeros((m, m), measure))

    def advance(self, problem, x, memory, steps, tolerance):
        unit, last_y, last_r, dys, drs, gram = memory
        measure = gram.dtype
        image = problem.move(x, self.damping)
        y = inexact_leaves(image)
        r = [y - x for y, x in zip(y, inexact_leaves(x), strict=True)]
        # Residuals are kept in units of the first: squares of small numbers would underflow.
        first = max_abs(r, measure)
        unit = jnp.where(steps == 0, jnp.where(first > 0, first, 1), unit)
        r = [leaf / unit.astype(leaf.real.dtype) for leaf in r]
        dy, dr = differences(y, last_y), differences(r, last_r)
        dy, dr = (jax.tree.map(lambda leaf: jnp.where(steps > 0, leaf, 0), d) for d in (dy, dr))

        slot = (steps - 1) % self.history
        insert = lambda past, new: lax.dynamic_update_index_in_dim(past, new, slot, 0)
        dys, drs = jax.tree.map(insert, dys, dy), jax.tree.map(insert, drs, dr)
        column, target = _products(drs, [dr, r], measure)
        gram = gram.at[slot, :].set(column).at[:, slot].set(column)

        trace = jnp.trace(gram)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in y)
        ridge = jnp.where(trace > 0, self.ridge * max(eps, float(jnp.finfo(measure).eps)) * trace, 1)
        gamma = _solve_small(gram + ridge * jnp.eye(self.history, dtype=measure), target)
        extrapolate = lambda y, dys: y - jnp.tensordot(gamma.astype(y.dtype), dys, 1).astype(y.dtype)
        onward = replace_inexact(image, jax.tree.map(extrapolate, y, dys))
        return Step(image, onward, (unit, y, r, dys, drs, gram))


def _products(past, vectors, measure):
    """Re <past_j, v> for every j and each v of two, in one pass over the past."""
    products = []
    for i, rows in enumerate(past):
        pair = jnp.stack([v[i].reshape(-1) for v in vectors], 1)
        rows = rows.reshape(rows.shape[0], -1)
        if jnp.iscomplexobj(rows):
            rows, pair = (jnp.concatenate([z.real, z.imag], axis) for z, axis in ((rows, 1), (pair, 0)))
        wide = jnp.promote_types(rows.dtype, measure)
        products.append(
            jnp.matmul(rows, pair, precision="highest", preferred_element_type=wide).astype(measure)
        )
    total = sum(products[1:], products[0])
    return total[:, 0], total[:, 1]


def _solve_small(matrix, b):
    """A positive definite system of a handful of unknowns, by Cholesky."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), b)


def _refuse_zero(name, value):
    """With zero damping nothing moves, and everything looks like a solution."""
    if isinstance(value, int | float) and not (value != 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number other than zero, got {value!r}")
