"""Reproducing kernels k(x, y), each the choice of a space of functions.

    SquaredExponential, Matern12, Matern32, Matern52, RationalQuadratic, Periodic     stationary
    Linear, Polynomial, Constant                                                      not
    k1 + k2, k1 * k2, 2.0 * k                                                         combined
    k(x, y)             of two points, shape (dim,)                         -> number
    k.gram(X, Y)        of all pairs of points, shapes (n, dim), (m, dim)   -> (n, m)
    k.diagonal(X)       k(x, x) for each point, shape (n, dim)              -> (n,)

A kernel is a pytree; its hyperparameters are the leaves, so `jax.grad` with respect to a kernel is a kernel
that holds the derivatives. A lengthscale is one number, in units of x, or one for each dimension.

Derivatives with respect to x, y and hyperparameters are exact also where x = y, up to the order that exists.
Matern12 has a kink there: its first derivative with respect to x is taken to be zero, between those of the
two sides.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, chapter 4.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.core.rkhs._matern import matern12, matern32, matern52
from chainrule.core.rkhs._pytree import register, static
from chainrule.core.rkhs._vector import is_start_of_sum

PRECISION = jax.lax.Precision.HIGHEST  # a GPU would multiply float32 matrices with ten bits


def _of_two_points(call: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that refuses points that would be broadcast."""

    @functools.wraps(call)
    def checked(self, x, y):
        if jnp.ndim(x) != 1 or jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                f"{type(self).__name__}: k(x, y) takes two points of one shape (dim,), got {jnp.shape(x)} "
                f"and {jnp.shape(y)}. Way out: for many, of shapes (n, dim) and (m, dim), k.gram(X, Y)"
            )
        return call(self, x, y)

    return checked


class Kernel:
    """What all kernels can do.

    One of your own is a class with hyperparameters as fields and a `__call__` for two points:

        @rkhs.register
        class Cosine(rkhs.Kernel):
            period: Any = 1.0

            def __call__(self, x, y):
                return jnp.cos(2 * jnp.pi * (x - y)[0] / self.period)
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "__call__" in vars(cls):
            cls.__call__ = _of_two_points(cls.__call__)

    def __call__(self, x: Float[Array, " dim"], y: Float[Array, " dim"]) -> Float[Array, ""]:
        raise NotImplementedError

    def gram(self, X: ArrayLike, Y: ArrayLike | None = None) -> Float[Array, "n m"]:
        """k of all pairs of a row of X and a row of Y, which is X unless given."""
        X = jnp.asarray(X)
        return _gram(self, X, X if Y is None else jnp.asarray(Y))

    def diagonal(self, X: ArrayLike) -> Float[Array, " n"]:
        """k(x, x) for each row x of X."""
        return jax.vmap(lambda x: self(x, x))(jnp.asarray(X))

    def __add__(self, other: "Kernel") -> "Sum":
        return Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __radd__(self, other: Any) -> "Kernel":
        return self if is_start_of_sum(other) else NotImplemented

    def __mul__(self, other: Any) -> "Product | Scaled":
        return Product(self, other) if isinstance(other, Kernel) else Scaled(other, self)

    def __rmul__(self, factor: ArrayLike) -> "Scaled":
        return Scaled(factor, self)

    __array_ufunc__ = None  # numpy numbers leave `number * kernel` to __rmul__


# Stationary: functions of the distance ------------------------------------------------------------


class _Stationary(Kernel):
    """k(x, y) = shape(s), of the scaled squared distance s = sum_d ((x_d - y_d) / l_d)^2."""

    def __post_init__(self):
        _check_positive(self, "lengthscale")

    def __call__(self, x, y):
        # Of differences, never |x|^2 - 2 x y + |y|^2: far from the origin that has no digits left.
        return self._shape(jnp.sum(_scaled(self, x - y) ** 2))

    def _shape(self, s):
        raise NotImplementedError


@register
class SquaredExponential(_Stationary):
    """k(x, y) = exp(-r^2 / 2) with r = |x - y| / lengthscale: infinitely smooth functions."""

    lengthscale: Any = 1.0

    def _shape(self, s):
        return jnp.exp(-s / 2)


@register
class Matern12(_Stationary):
    """k(x, y) = exp(-r): continuous functions, nowhere differentiable."""

    lengthscale: Any = 1.0

    def _shape(self, s):
        return matern12(s)


@register
class Matern32(_Stationary):
    """k(x, y) = (1 + sqrt(3) r) exp(-sqrt(3) r): functions differentiable once."""

    lengthscale: Any = 1.0

    def _shape(self, s):
        return matern32(3 * s)


@register
class Matern52(_Stationary):
    """k(x, y) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r): functions differentiable twice."""

    lengthscale: Any = 1.0

    def _shape(self, s):
        return matern52(5 * s)


@register
class RationalQuadratic(_Stationary):
    """k(x, y) = (1 + r^2 / (2 alpha))^-alpha: a mixture of squared exponentials of different lengthscales."""

    lengthscale: Any = 1.0
    alpha: Any = 1.0

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "alpha")

    def _shape(self, s):
        return jnp.exp(-self.alpha * jnp.log1p(s / (2 * self.alpha)))


@register
class Periodic(Kernel):
    """k(x, y) = exp(-2 sum_d (sin(pi (x_d - y_d) / period_d) / lengthscale_d)^2): periodic in each dimension.

    The lengthscale has no unit. In one dimension this is sklearn's ExpSineSquared; in more, that is a
    function of the Euclidean distance, which is not positive definite.
    """

    lengthscale: Any = 1.0
    period: Any = 1.0

    def __post_init__(self):
        _check_positive(self, "lengthscale")
        _check_positive(self, "period")

    def __call__(self, x, y):
        turns = (x - y) / _of_dimension(self, "period", x)
        return jnp.exp(-2 * jnp.sum(_scaled(self, jnp.sin(jnp.pi * turns)) ** 2))


# Others -------------------------------------------------------------------------------------------


@register
class Linear(Kernel):
    """k(x, y) = sum_d x_d y_d / lengthscale_d^2: linear functions, zero at the origin."""

    lengthscale: Any = 1.0

    def __post_init__(self):
        _check_positive(self, "lengthscale")

    def __call__(self, x, y):
        return jnp.dot(_scaled(self, x), _scaled(self, y), precision=PRECISION)


@register
class Polynomial(Kernel):
    """k(x, y) = (offset + sum_d x_d y_d / lengthscale_d^2)^degree: polynomials up to that degree."""

    degree: SupportsIndex = static(default=2)
    offset: Any = 1.0
    lengthscale: Any = 1.0

    def __post_init__(self):
        try:
            degree = operator.index(self.degree)
        except TypeError:
            degree = 0
        if degree < 1:
            raise ValueError(f"Polynomial: degree must be a whole number from 1 on, got {self.degree!r}")
        object.__setattr__(self, "degree", degree)
        _check_positive(self, "lengthscale")
        _check_positive(self, "offset", or_zero=True)

    def __call__(self, x, y):
        dot = jnp.dot(_scaled(self, x), _scaled(self, y), precision=PRECISION)
        return (self.offset + dot) ** self.degree


@register
class Constant(Kernel):
    """k(x, y) = value: constant functions; added to another kernel, functions with an offset."""

    value: Any = 1.0

    def __post_init__(self):
        _check_positive(self, "value", or_zero=True)

    def __call__(self, x, y):
        return self.value * jnp.ones((), x.dtype)


@register
class Sum(Kernel):
    """k(x, y) = left(x, y) + right(x, y): sums of a function of either space."""

    left: Kernel
    right: Kernel

    def __call__(self, x, y):
        return self.left(x, y) + self.right(x, y)


@register
class Product(Kernel):
    """k(x, y) = left(x, y) right(x, y)."""

    left: Kernel
    right: Kernel

    def __call__(self, x, y):
        return self.left(x, y) * self.right(x, y)


@register
class Scaled(Kernel):
    """k(x, y) = factor kernel(x, y): the same functions, with norms divided by sqrt(factor)."""

    factor: Any
    kernel: Kernel

    def __post_init__(self):
        _check_positive(self, "factor", or_zero=True)
        if jnp.ndim(self.factor):
            raise ValueError(f"Scaled: factor must be one number, got shape {jnp.shape(self.factor)}")

    def __call__(self, x, y):
        return self.factor * self.kernel(x, y)


# Helpers ------------------------------------------------------------------------------------------


@jax.jit  # fused: the differences of all pairs, (n, m, dim), are never stored
def _gram(kernel, X, Y):
    return jax.vmap(lambda x: jax.vmap(lambda y: kernel(x, y))(Y))(X)


def _scaled(kernel: Any, x: Array) -> Array:
    return x / _of_dimension(kernel, "lengthscale", x)


def _of_dimension(kernel: Any, name: str, x: Array) -> Any:
    """A hyperparameter that is one number, or one for each dimension of x."""
    value = getattr(kernel, name)
    if jnp.shape(value) not in ((), x.shape):
        raise ValueError(
            f"{type(kernel).__name__}: {name} has shape {jnp.shape(value)}, but points have {x.shape}: "
            "give one number, or one for each dimension"
        )
    return value


def _check_positive(kernel: Any, name: str, or_zero: bool = False) -> None:
    """Refuse a hyperparameter with which k is no kernel; keep it as a floating number or array."""
    value = getattr(kernel, name)
    if isinstance(value, list | tuple | int | np.integer):
        value = jnp.asarray(value, float) if isinstance(value, list | tuple) else float(value)
    object.__setattr__(kernel, name, value)
    if isinstance(value, jax.core.Tracer):
        return
    if not np.all(np.asarray(value) >= 0 if or_zero else np.asarray(value) > 0):
        least = "at least 0" if or_zero else "positive"
        raise ValueError(f"{type(kernel).__name__}: {name} must be {least}, got {value}")
