"""The Matern kernels as functions of t = 2 nu r^2, twice nu times the squared scaled distance.

matern12(t), matern32(t), matern52(t)

In t, unlike in the distance sqrt(t), the first derivatives are finite at t = 0, and each is the kernel one
smoother down: h32' = -h12 / 2 and h52' = -h32 / 6. So derivatives with respect to x are right where x = y.
"""

import jax
import jax.numpy as jnp


def _root(t):
    """sqrt(t), with derivative zero at zero: what multiplies it there is a zero of higher order."""
    positive = t > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, t, 1)), 0)


def matern12(t):
    return jnp.exp(-_root(t))


@jax.custom_jvp
def matern32(t):
    r = _root(t)
    return (1 + r) * jnp.exp(-r)


@matern32.defjvp
def matern32_jvp(primals, tangents):
    return matern32(*primals), -matern12(*primals) / 2 * tangents[0]


@jax.custom_jvp
def matern52(t):
    r = _root(t)
    return (1 + r + t / 3) * jnp.exp(-r)


@matern52.defjvp
def matern52_jvp(primals, tangents):
    return matern52(*primals), -matern32(*primals) / 6 * tangents[0]
