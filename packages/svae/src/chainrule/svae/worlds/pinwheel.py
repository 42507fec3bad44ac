"""Points on the bent arms of a wheel: clusters that no Gaussian fits.

A point of an arm is drawn from a normal distribution, long outwards and thin across, and turned about the
middle, by an angle that falls with its distance.

Source: the synthetic data of Johnson et al., Composing graphical models with neural networks (NIPS 2016).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Wheel(NamedTuple):
    """Points and their arms."""

    points: Float[Array, "points 2"]
    arms: Int[Array, " points"]


def pinwheel(
    key: Key[Array, ""],
    arms: int = 5,
    points: int = 100,
    *,
    length: float = 0.3,
    thickness: float = 0.05,
    bend: float = 0.25,
) -> Wheel:
    """Points on the arms of a wheel of radius one, in random order.

    Args:
        key: for the points.
        arms: how many.
        points: on each arm.
        length, thickness: standard deviations outwards and across.
        bend: by how many radians an arm turns, times e to the power of the distance from the middle.

    Raises:
        ValueError: for a number of arms or points below one.

    Example:
        >>> wheel = pinwheel(jax.random.key(0))
        >>> wheel.points.shape, int(wheel.arms.max())
        ((500, 2), 4)
    """
    if arms < 1 or points < 1:
        raise ValueError(f"pinwheel: arms and points must be at least 1, got {arms} and {points}")
    point_key, order_key = jax.random.split(key)
    arm = jnp.repeat(jnp.arange(arms), points)
    outwards, across = jax.random.normal(point_key, (2, arms * points)) * jnp.array([[length], [thickness]])
    outwards = outwards + 1
    angle = 2 * jnp.pi * arm / arms + bend * jnp.exp(outwards)
    x = outwards * jnp.cos(angle) - across * jnp.sin(angle)
    y = outwards * jnp.sin(angle) + across * jnp.cos(angle)
    order = jax.random.permutation(order_key, arms * points)
    return Wheel(jnp.stack([x, y], -1)[order], arm[order])
