"""The evidence lower bound in the words of the tweet that the talk shows.

    def elbo(p, lp, D, N):
        v=exp(p[D:])
        s=randn(N,D)*sqrt(v)+p[:D]
        return mvn.entropy(0, diag(v))+mean(lp(s))
    gf = grad(elbo)

p holds D means and the logarithms of D variances, not of standard deviations.

Source: the slide "Implementation of black-box stochastic variational inference" of the talk The Chain Rule
Unchained (D. Maclaurin): R. P. Adams, 7 November 2015.
"""

import math
from collections.abc import Callable

from jax.numpy import exp, mean, sqrt
from jax.numpy import log as _log
from jax.numpy import sum as _sum
from jax.random import normal
from jaxtyping import Array, Float, Key


def elbo(
    key: Key[Array, ""],
    p: Float[Array, " twice_D"],
    lp: Callable[[Float[Array, "N D"]], Float[Array, " N"]],
    D: int,
    N: int,
) -> Float[Array, ""]:
    """Estimate the evidence lower bound of a Gaussian with independent components, by N draws.

    Args:
        key: for the draws; the tweet has a global one.
        p: means, then log variances.
        lp: log density, up to a constant, of each of N points.
        D: how many dimensions.
        N: how many draws.

    Returns:
        The bound, up to the same constant; `jax.grad(elbo, 1)` is the tweet's gf.

    Example:
        >>> lp = lambda s: -jnp.sum(s**2, 1) / 2
        >>> gf = jax.grad(elbo, 1)
        >>> gf(jax.random.key(0), jnp.zeros(4), lp, 2, 100).shape
        (4,)
    """
    v = exp(p[D:])
    s = normal(key, (N, D), p.dtype) * sqrt(v)[None] + p[:D][None]
    return _entropy(v) + mean(lp(s))


def _entropy(v: Float[Array, " D"]) -> Float[Array, ""]:
    """mvn.entropy(0, diag(v)), without the matrix."""
    return _sum(_log(2 * math.pi * math.e * v)) / 2
