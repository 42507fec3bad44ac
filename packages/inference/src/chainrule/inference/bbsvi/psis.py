"""Can a fit be trusted? The tail of its importance ratios tells.

    diagnose(key, log_density, q, family)    k-hat, and the evidence by importance sampling -> Diagnosis
    psis(log_ratios)                         k-hat, and log weights with their tail smoothed -> Smoothed
    pareto_tail(exceedances)                 the generalised Pareto fit -> k, sigma

If q is close to p, the ratios p(z) / q(z) at draws of q have a light tail. A tail that falls like that of a
generalised Pareto distribution with k has moments up to 1 / k: k-hat < 0.5 is good, k-hat < 0.7 still lets
importance sampling correct the fit, beyond that q misses where p is.

Source: Vehtari et al., Pareto smoothed importance sampling, JMLR 2024; Yao et al., Yes, but did it work?:
evaluating variational inference, ICML 2018; Zhang and Stephens, A new and efficient estimation method for the
generalized Pareto distribution, Technometrics 2009.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from chainrule.inference.bbsvi.families import Family
from chainrule.inference.bbsvi.objective import LogDensity

# Zhang and Stephens 2009: 30 + sqrt(n) points of a grid, and the scale of the prior that they are spread by.
GRID = 30
PRIOR_SCALE = 3.0
# Vehtari et al. 2024, appendix C: k is drawn to 0.5, as if by ten exceedances more.
PRIOR_K, PRIOR_COUNT = 0.5, 10
# The tail: a fifth of the draws, or three roots of their number.
TAIL_SHARE, TAIL_ROOTS = 0.2, 3.0
FEWEST_IN_TAIL = 5


class Smoothed(NamedTuple):
    """Importance weights whose largest ones were replaced by quantiles of the tail that was fitted."""

    log_weights: Float[Array, "*lanes draws"]  # normalised: their exponentials sum to one
    log_mean: Float[Array, "*lanes"]  # logarithm of the mean ratio, after smoothing
    k: Float[Array, "*lanes"]  # k-hat: the shape of the tail


class Diagnosis(NamedTuple):
    """What importance sampling says about a fit."""

    k: Float[Array, "*lanes"]  # k-hat; above 0.7 neither the fit nor what follows here is to be trusted
    log_evidence: Float[Array, "*lanes"]  # log Z by smoothed importance sampling, in nats
    elbo: Float[Array, "*lanes"]  # mean log ratio, in nats
    effective: Float[Array, "*lanes"]  # 1 / sum of squared weights: draws that are worth as much


def diagnose(
    key: Key[Array, ""], log_density: LogDensity, q: Any, family: Family, *, draws: int = 2000
) -> Diagnosis:
    """Measure how far q is from the target by the tail of p / q.

    Args:
        key: for the draws.
        log_density: log p(z, data) of one vector z, in nats.
        q: parameters of the family.
        family: which.
        draws: at least 25; more see further into the tail.

    Example:
        >>> q = Gaussian(jnp.zeros(2), jnp.zeros(2))
        >>> found = diagnose(jax.random.key(1), lambda z: -z @ z / 200, q, MeanField())  # ten times as wide
        >>> bool(found.k > 0.7)
        True
    """
    sample = family.draw(key, q, draws)
    log_ratios = jax.vmap(log_density)(sample.points) - family.log_density(q, sample.points)
    # Strata are not drawn as often as they weigh: what is averaged is weight times ratio.
    weighted = log_ratios + jnp.log(sample.weights * draws)
    smoothed = psis(weighted)
    elbo = jnp.vdot(sample.weights, log_ratios)
    effective = jnp.exp(-jax.nn.logsumexp(2 * smoothed.log_weights))
    return Diagnosis(smoothed.k, smoothed.log_mean, elbo, effective)


def psis(log_ratios: Float[Array, " draws"]) -> Smoothed:
    """Smooth the largest importance ratios by a generalised Pareto distribution fitted to them.

    Args:
        log_ratios: log p - log q at draws of q, up to a constant; at least 25.

    Returns:
        Smoothed; NaN if a ratio is NaN or infinite, or all are zero. Some may be, where log p is -inf.

    Example:
        >>> log_ratios = 0.8 * jax.random.exponential(jax.random.key(0), (4000,))  # k = 0.8
        >>> print(f"{psis(log_ratios).k:.1f}")
        0.8
    """
    draws = log_ratios.size
    tail = _tail_length(draws)
    if tail < FEWEST_IN_TAIL:
        raise ValueError(f"psis: {draws} draws are too few to see a tail; take at least 25, better 1000")
    largest = jnp.max(log_ratios)
    order = jnp.argsort(log_ratios)
    rising = log_ratios[order] - largest
    cutoff = rising[draws - tail - 1]
    k, sigma = pareto_tail(jnp.exp(rising[draws - tail :]) - jnp.exp(cutoff))
    at = (jnp.arange(tail, dtype=rising.dtype) + 0.5) / tail
    quantiles = jnp.exp(cutoff) + sigma * jnp.expm1(-k * jnp.log1p(-at)) / k
    smooth = jnp.minimum(jnp.log(quantiles), 0.0)  # no more than the largest ratio
    smooth = jnp.where(jnp.isfinite(k), smooth, rising[draws - tail :])  # all alike: nothing to smooth
    log_weights = jnp.zeros_like(rising).at[order].set(jnp.concatenate([rising[: draws - tail], smooth]))
    log_total = jax.nn.logsumexp(log_weights)
    nan_if_not = jnp.where(jnp.isfinite(largest), 0.0, jnp.nan).astype(k.dtype)
    log_mean = largest + log_total - math.log(draws)
    return Smoothed(log_weights - log_total + nan_if_not, log_mean + nan_if_not, k + nan_if_not)


def pareto_tail(exceedances: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Fit a generalised Pareto distribution, P(x > t) = (1 + k t / sigma)^(-1 / k), to numbers above zero.

    With b = -k / sigma, the likelihood has its maximum over k in closed form; b is the mean of a posterior
    over a grid. At last k is drawn a little to 0.5.

    Returns:
        k and sigma; k is -inf where all exceedances are zero, up to rounding.

    Source: Zhang and Stephens 2009; the prior of k is that of Vehtari et al. 2024, appendix C.
    """
    x = jnp.sort(exceedances)
    n = x.size
    grid = GRID + math.isqrt(n)
    quartile = x[math.floor(n / 4 + 0.5) - 1]
    tiny = jnp.finfo(x.dtype).tiny
    flat = (x[-1] <= tiny) | (quartile <= 0)
    x = jnp.where(flat, 1 + jnp.arange(n, dtype=x.dtype) / n, x)
    quartile = jnp.where(flat, x[math.floor(n / 4 + 0.5) - 1], quartile)
    j = jnp.arange(1, grid + 1, dtype=x.dtype)
    b = 1 / x[-1] + (1 - jnp.sqrt(grid / (j - 0.5))) / (PRIOR_SCALE * quartile)

    def k_of(b):
        return jnp.mean(jnp.log1p(-b * x))

    k = jax.vmap(k_of)(b)
    log_likelihood = n * (jnp.log(-b / k) - k - 1)
    b = jnp.vdot(jax.nn.softmax(log_likelihood), b)
    k = k_of(b)
    sigma = -k / b
    k = (n * k + PRIOR_COUNT * PRIOR_K) / (n + PRIOR_COUNT)
    return jnp.where(flat, -jnp.inf, k), jnp.where(flat, 0, sigma)


def _tail_length(draws: int) -> int:
    return math.ceil(min(TAIL_SHARE * draws, TAIL_ROOTS * math.sqrt(draws)))
