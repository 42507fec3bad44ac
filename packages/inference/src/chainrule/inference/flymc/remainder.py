"""What a tangent leaves, by Gauss-Legendre quadrature: how gaps near their touching point are computed.

A bound that touches f at x0 differs from it by Taylor's remainder,

    f(x0) + f'(x0) (x - x0) - f(x) = (x - x0)^2 int_0^1 (1 - t) (-f''(x0 + t (x - x0))) dt.

The left side loses all its digits as x nears x0. The right one is a sum of positive terms.
"""

from collections.abc import Callable

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
