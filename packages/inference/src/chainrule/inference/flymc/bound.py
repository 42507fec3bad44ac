"""What Firefly Monte Carlo asks of a lower bound, and how a gap becomes the weight of a bright point.

Bound            the protocol: any pytree of arrays with these four members will do
log_expm1(gap)   log(L / B - 1), the log odds of a point being bright, without cancellation or overflow
floor_of(dtype)  the least gap that is left: what is taken off every log bound

A log bound less a constant is a log bound as well. So `gap + floor` is a gap that is never zero, for which
log_expm1 and its derivative are finite, and sampling stays exact: the floor is part of the bound. It makes
N floor more points bright, in the mean, at the most: 0.1 in a million with the floor of single precision.

Source: D. Maclaurin and R. P. Adams, Firefly Monte Carlo: exact MCMC with subsets of data, UAI 2014.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@runtime_checkable
class Bound(Protocol):
    """A lower bound B_n(theta) of each datum's likelihood L_n(theta), whose product over all data is cheap.

    Register the class as a pytree (`jax.tree_util.register_dataclass`), so that data are arguments of what
    is compiled. All floating arrays in it have one dtype, that of theta. Nothing may look at all rows but
    the constructor. `check_bound` tries whether it keeps its word.
    """

    @property
    def num_data(self) -> int:
        """N."""
        ...

    def gap(self, theta: Any, rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        """log L_n - log B_n of these rows, computed without cancellation: it is never negative."""
        ...

    def log_bound(self, theta: Any, rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        """log B_n of these rows. Sampling does not use it; checks and MCMC on full data do."""
        ...

    def collapsed(self, theta: Any) -> Float[Array, ""]:
        """The sum of log B_n over all data, up to a constant, at a cost that does not depend on N."""
        ...


@jax.custom_jvp
def log_expm1(gap: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(exp(gap) - 1): -inf at 0, NaN below, as befits a bound that is none.

    Example:
        >>> print(log_expm1(jnp.array([1e-7, 1.0, 1e4])).round(3))
        [-1.6118e+01  5.4100e-01  1.0000e+04]
    """
    large = gap > 1
    above, below = jnp.where(large, gap, 1), jnp.where(large, 1, gap)  # what is not taken stays finite
    return jnp.where(large, above + jnp.log1p(-jnp.exp(-above)), jnp.log(jnp.expm1(below)))


@log_expm1.defjvp
def _log_expm1_jvp(at, along):
    (gap,), (tangent,) = at, along
    return log_expm1(gap), -tangent / jnp.expm1(-gap)


def floor_of(dtype) -> float:
    """The distance from 1 to the next number: 1.2e-7 in single, 2.2e-16 in double precision."""
    return float(np.finfo(dtype).eps)
