"""Log-gamma functions of large arguments: what is left of them once their leading terms have cancelled.

multigammaln(x, n)       log of the multivariate gamma function
multidigamma(x, n)       its derivative
wishart_remainder(x, n)  multigammaln(x, n) - n (x log x - x): small, however large x is
gamma_remainder(x)       the same for n = 1
bregman(f, p, q)         f(p) - f(q) - (p - q) f'(q)

A posterior of a million data has log Gamma of a million in its normaliser, some 1e7 nats, of which float32
keeps no fraction. A divergence must not be a difference of such numbers.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.special
from jaxtyping import Array, Float

HALF_LOG_2PI = math.log(2 * math.pi) / 2
HALF_LOG_PI = math.log(math.pi) / 2
SERIES_FROM = 10.0  # from here on the series below is exact to 1e-15
BERNOULLI = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)  # B_2k / (2k (2k - 1))


def multigammaln(x: Float[Array, "*batch"], n: int) -> Float[Array, "*batch"]:
    """log Gamma_n(x) = n (n - 1) log(pi) / 4 + sum_{i<n} log Gamma(x - i/2)."""
    terms = sum((jax.scipy.special.gammaln(x - i / 2) for i in range(n)), jnp.zeros_like(x))
    return n * (n - 1) / 2 * HALF_LOG_PI + terms


def multidigamma(x: Float[Array, "*batch"], n: int) -> Float[Array, "*batch"]:
    """sum_{i<n} psi(x - i/2)."""
    return sum((jax.scipy.special.digamma(x - i / 2) for i in range(n)), jnp.zeros_like(x))


def wishart_remainder(x: Float[Array, "*batch"], n: int) -> Float[Array, "*batch"]:
    """log Gamma_n(x) - n (x log x - x), but for a constant.

    With y = x - i/2 and Stirling's log Gamma(y) = (y - 1/2) log y - y + log(2 pi)/2 + binet(y), a term is
    x log(1 - i / 2x) - (i + 1)/2 log y + binet(y).
    """
    shifts = [i / 2 for i in range(n)]
    terms = (x * jnp.log1p(-i / x) - (i + 0.5) * jnp.log(x - i) + _binet(x - i) for i in shifts)
    return sum(terms, jnp.zeros_like(x))


def gamma_remainder(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """log Gamma(x) - (x log x - x), but for a constant."""
    return wishart_remainder(x, 1)


def bregman(f: Callable[[Array], Array], p: Array, q: Array) -> Array:
    """f(p) - f(q) - (p - q) f'(q): what p exceeds the tangent at q by."""
    at_q, along = jax.jvp(f, (q,), (p - q,))
    return f(p) - at_q - along


def relative_excess(u: Array) -> Array:
    """(1 + u) log(1 + u) - u, which is u^2 / 2 near zero: the KL of two rates, p/q - 1 = u, over q."""
    return (1 + u) * jnp.log1p(u) - u


def _binet(y):
    """log Gamma(y) - (y - 1/2) log y + y - log(2 pi)/2."""
    large, small = jnp.maximum(y, SERIES_FROM), jnp.minimum(y, SERIES_FROM)
    series = 0.0
    for b in reversed(BERNOULLI):  # in powers of 1 / y: those of y would overflow
        series = b + series / large**2
    direct = jax.scipy.special.gammaln(small) - (small - 0.5) * jnp.log(small) + small - HALF_LOG_2PI
    return jnp.where(y > SERIES_FROM, series / large, direct)
