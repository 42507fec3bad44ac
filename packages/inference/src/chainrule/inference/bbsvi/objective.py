"""The evidence lower bound of a family, and its gradient, from draws.

    estimate(key, log_density, q, family)    the bound with its standard error -> Estimate

    L[q] = E_q [log p(z) - log q(z)] = log Z - KL(q || p / Z)

Three estimates with the same mean:

    closed    the entropy in closed form, for Gaussians: little noise far from the optimum
    path      -log q(z) at the draws, its derivative along the path of z only ("sticking the landing"): no
              noise at an optimum where q = p
    total     -log q(z) at the draws, with its whole derivative: for comparison

The parameters' own part of the derivative of log q has the mean zero, so that leaving it out is right.

Source: Roeder, Wu and Duvenaud, Sticking the landing, NIPS 2017.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from chainrule.inference.bbsvi.families import Draws, Family

Entropy = Literal["closed", "path", "total"]
LogDensity = Callable[[Float[Array, " D"]], Float[Array, ""]]  # of one point, up to a constant, in nats


class Estimate(NamedTuple):
    """A bound of log Z."""

    elbo: Float[Array, "*lanes"]  # in nats
    standard_error: Float[Array, "*lanes"]  # of elbo, from the spread of log p - log q over the draws


def estimate(
    key: Key[Array, ""], log_density: LogDensity, q: Any, family: Family, *, draws: int = 1000
) -> Estimate:
    """Estimate the evidence lower bound of q by the mean of log p(z) - log q(z), and how sure that is.

    Args:
        key: for the draws.
        log_density: log p(z, data) of one vector z, in nats.
        q: parameters of the family.
        family: which.
        draws: at least 2; of each component of a mixture.

    Example:
        >>> q = Gaussian(jnp.zeros(2), jnp.zeros(2))
        >>> found = estimate(jax.random.key(0), lambda z: -z @ z / 2, q, MeanField())
        >>> print(f"{found.elbo:.4f} {found.standard_error:.4f}")  # log 2 pi
        1.8379 0.0000
    """
    if draws < 2:
        raise ValueError(f"estimate: draws must be at least 2, to have a standard error, got {draws}")
    sample = family.draw(key, q, draws)
    ratios = jax.vmap(log_density)(sample.points) - family.log_density(q, sample.points)
    return Estimate(jnp.vdot(sample.weights, ratios), _standard_error(sample, ratios))


def bound(
    key: Key[Array, ""],
    log_density: LogDensity,
    q: Any,
    family: Family,
    draws: int,
    entropy: Entropy,
    antithetic: bool = False,
) -> Float[Array, ""]:
    """One estimate of the bound, to be differentiated by q."""
    sample = family.draw(key, q, draws, antithetic)
    energy = jnp.vdot(sample.weights, jax.vmap(log_density)(sample.points))
    if entropy == "closed":
        closed = family.entropy(q)
        if closed is None:
            raise ValueError(f"bbsvi: {family} has no entropy in closed form: use entropy='path'")
        return energy + closed
    held = lax.stop_gradient(q) if entropy == "path" else q
    return energy - jnp.vdot(sample.weights, family.log_density(held, sample.points))


def _standard_error(sample: Draws, ratios: Float[Array, " draws"]) -> Float[Array, ""]:
    """Of the weighted mean: of strata, each with equal weights, their errors add up.

    Equal weights throughout are one stratum; neighbours of one weight are differenced, which takes the
    means of strata out wherever they begin and end.
    """
    w = sample.weights
    same = w[1:] == w[:-1]
    squares = jnp.where(same, w[1:] ** 2 * (ratios[1:] - ratios[:-1]) ** 2 / 2, 0)
    # Each draw takes part in two differences, but for the ends of strata: scale up by what is missing.
    part = jnp.sum(jnp.where(same, w[1:] ** 2, 0))
    return jnp.sqrt(jnp.sum(squares) * jnp.sum(w**2) / jnp.where(part > 0, part, 1))
