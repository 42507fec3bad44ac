"""Functions over a fixed dictionary of points: what a training loop can carry.

    Dictionary(kernel, points)     the span of k(z_1, .), ..., k(z_m, .)
    dictionary.zero()              its zero function
    dictionary.function(c)         sum_j c_j k(z_j, .), for coefficients c
    dictionary.project(f)          the function of the span nearest to f

These functions are DictionaryFuns. `rkhs.grad` of one is the projection of the functional gradient, again a
DictionaryFun of the same dictionary: f + 0.01 * grad(loss)(f) has the shape of f and can go through scan.

Source: the projection is that of, e.g., Rasmussen and Williams, Gaussian Processes for Machine Learning,
section 8.3.1 (subset of regressors): inducing points.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.core.rkhs._block import Block
from chainrule.core.rkhs._pytree import register
from chainrule.core.rkhs._vector import Vector, is_start_of_sum, number
from chainrule.core.rkhs.function import RKHSFun, agree, as_function, common_space, floating, nan_unless
from chainrule.core.rkhs.kernels import PRECISION, Kernel


@register
class Dictionary:
    """The span of k(z_j, .), with the metric K = (k(z_i, z_j))_ij.

    The projection of f = sum_i a_i k(x_i, .) onto it has the coefficients

        c = K^-1 f(Z) = K^-1 K_Zx a;

    an atom at one of the z_j is in the span, and is kept exactly as it is. K is factored once, with
    `jitter` times its mean diagonal added to the diagonal.

    Args:
        kernel: of the space.
        points: the z_j, shape (m, dim); they should differ from each other.
        jitter: relative to the kernel's values; default eps**(2/3) of the dtype (4e-11 in float64, 2e-5 in
            float32), which is above the rounding noise of a factor for up to some thousand points.

    Raises:
        TypeError, ValueError: for what is no kernel, and for points of another shape.

    If the points are so close that the factorisation fails all the same, projections are NaN.

    Example:
        >>> dictionary = Dictionary(SquaredExponential(), jnp.arange(3.0)[:, None])
        >>> f = RKHSFun(dictionary.kernel, jnp.array([[2.0]]), jnp.array([5.0]))
        >>> print(dictionary.project(f).coefficients)
        [0. 0. 5.]
    """

    kernel: Kernel
    points: Float[Array, "m dim"]
    factor: Float[Array, "m m"]  # lower Cholesky factor of K + jitter

    def __init__(self, kernel: Kernel, points: ArrayLike, jitter: ArrayLike | None = None) -> None:
        points = floating(points)
        if not isinstance(kernel, Kernel):
            raise TypeError(f"Dictionary: kernel must be a Kernel, got {kernel!r}")
        if points.ndim != 2:
            raise ValueError(f"Dictionary: points must have shape (m, dim), got {points.shape}")
        K = kernel.gram(points)
        jitter = jnp.finfo(K.dtype).eps ** (2 / 3) if jitter is None else jitter
        factor = jnp.linalg.cholesky(K + jitter * jnp.mean(jnp.diagonal(K)) * jnp.eye(len(K), dtype=K.dtype))
        for name, value in (("kernel", kernel), ("points", points), ("factor", factor)):
            object.__setattr__(self, name, value)

    def zero(self) -> "DictionaryFun":
        return DictionaryFun(self, jnp.zeros(len(self.points), self.factor.dtype))

    def function(self, coefficients: ArrayLike) -> "DictionaryFun":
        """sum_j c_j k(z_j, .), for coefficients of shape (m,)."""
        coefficients = floating(coefficients)
        if coefficients.shape != self.points.shape[:1]:
            raise ValueError(
                f"Dictionary: with {len(self.points)} points, got coefficients of shape {coefficients.shape}"
            )
        return DictionaryFun(self, coefficients)

    def project(self, f: Any) -> "DictionaryFun":
        """The function of the span nearest to f in the norm of the space."""
        f = as_function(f)
        _, _, same = common_space(f, self.zero().function)
        own = Block(self.points, self.zero().coefficients)
        coefficients, elsewhere = own.coefficients, []
        for block in f.blocks:
            if isinstance(block, Block) and block.key == own.key:
                coefficients = coefficients + block.coefficients
            else:
                elsewhere.append(block)
        if elsewhere:
            rest = RKHSFun.of_blocks(f.kernel, elsewhere, f.dim)
            coefficients = coefficients + _projected(self, rest.points, rest.coefficients)
        return DictionaryFun(self, nan_unless(same, coefficients))


@register
class DictionaryFun(Vector):
    """sum_j c_j k(z_j, .), with the z_j of a dictionary, which makes such functions."""

    dictionary: Dictionary
    coefficients: Float[Array, " m"]

    @property
    def function(self) -> RKHSFun:
        """The same as an RKHSFun."""
        return RKHSFun(self.dictionary.kernel, self.dictionary.points, self.coefficients)

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        return self.function(x)

    def __add__(self, other: Any) -> "DictionaryFun":
        if is_start_of_sum(other):
            return self
        if isinstance(other, RKHSFun):
            raise TypeError(
                "DictionaryFun: it has no sum with an RKHSFun. Way out: dictionary.project(f), or f.function"
            )
        if not isinstance(other, DictionaryFun):
            return NotImplemented
        (mine, its), total = (self.dictionary, other.dictionary), self.coefficients + other.coefficients
        same = mine is its or agree((mine.kernel, mine.points), (its.kernel, its.points))
        if same is False:
            raise ValueError(
                "DictionaryFun: a sum of functions over different dictionaries; project one first"
            )
        return dataclasses.replace(self, coefficients=nan_unless(same, total))

    def __mul__(self, factor: Any) -> "DictionaryFun":
        return dataclasses.replace(self, coefficients=number(factor) * self.coefficients)

    def gradient_of_atoms(self, atoms: RKHSFun) -> "DictionaryFun":
        """What rkhs.grad makes of the functional gradient."""
        return self.dictionary.project(atoms)


@jax.jit
def _projected(dictionary, points, coefficients):
    """The coefficients of sum_i a_i k(x_i, .) projected; atoms at points of the dictionary stay."""
    equal = jnp.all(points[:, None] == dictionary.points[None], axis=-1)
    place, found = jnp.argmax(equal, axis=1), jnp.any(equal, axis=1)
    staying, projected = jnp.where(found, coefficients, 0), jnp.where(found, 0, coefficients)
    kept = jnp.zeros(len(dictionary.points), coefficients.dtype).at[place].add(staying)
    values = jnp.matmul(dictionary.kernel.gram(dictionary.points, points), projected, precision=PRECISION)
    return kept + jax.scipy.linalg.cho_solve((dictionary.factor, True), values)
