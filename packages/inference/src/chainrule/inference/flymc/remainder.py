"""What a tangent leaves, by Gauss-Legendre quadrature: how gaps near their touching point are computed.

A bound that touches f at x0 differs from it by Taylor's remainder,

    f(x0) + f'(x0) (x - x0) - f(x) = (x - x0)^2 int_0^1 (1 - t) (-f''(x0 + t (x - x0))) dt.

The left side loses all its digits as x nears x0. The right one is a sum of positive terms. For the
exponential there is a series.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Nodes that leave a relative error below a few units of rounding, where the nearest singularity is at least
# as far from the interval as the interval is long: the error falls by a factor of 34 a node.
NODES = {2: 4, 4: 6, 8: 11}  # by bytes of a number


def remainder(integrand: Callable[[Array], Array], dims: int, dtype: np.dtype) -> Float[Array, "*shape"]:
    """int_0^1 (1 - t) integrand(t) dt; t has the nodes as its first axis, and dims more of size 1."""
    return remainder_and_slope(integrand, dims, dtype)[0]


def remainder_and_slope(
    integrand: Callable[[Array], Array], dims: int, dtype: np.dtype
) -> Float[Array, "..."]:
    """A pair: the same, and int_0^1 integrand(t) dt, which makes the slope of what a tangent leaves:

    f'(x0) - f'(x) = (x - x0) int_0^1 (-f''(x0 + t (x - x0))) dt.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES[np.dtype(dtype).itemsize])
    t, weights = (1 + nodes) / 2, weights / 2
    values = integrand(jnp.asarray(t.reshape(-1, *(1,) * dims), dtype))
    return jnp.tensordot(jnp.asarray([weights * (1 - t), weights], dtype), values, 1)


FAR = 60.0  # exponentials of more are not taken: single precision holds those up to 88
TERMS = {2: 4, 4: 8, 8: 15}  # of the series, by bytes of a number


@jax.custom_jvp
def exp_less_line(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(x) - 1 - x, right to a few units of rounding.

    A log sum exp is left above its tangent by log(1 + sum_k p_k (exp(x_k) - 1 - x_k)), for x with mean zero
    under p, its softmax: by positive terms.
    """
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    series = jnp.ones_like(x)
    for k in reversed(range(3, 3 + TERMS[x.dtype.itemsize])):
        series = 1 + series * near / k
    return jnp.where(small, near**2 / 2 * series, jnp.expm1(x) - x)


@exp_less_line.defjvp
def _exp_less_line_jvp(at, along):
    (x,), (tangent,) = at, along
    return exp_less_line(x), jnp.expm1(x) * tangent
