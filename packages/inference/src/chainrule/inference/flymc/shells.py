"""Distances from a theta, and matrices that depend on them: what local bounds are made of.

shells(theta, scale)          Shells, at radii that suit a posterior with this scale
shells.level(away)            between which two of them theta_0 + away is, and how far on
interpolated(values, level)   values of the shells, at that level
spread_of(whitened)           how far a row can change for a distance of 1

A local bound holds within a distance r of theta_0 and is tighter, the smaller r is. Each theta may use the
bound of its own distance, but sums over data are made once, for a few radii. Between two of them, q_j and
q_{j+1}, the average of the bounds for q_{j+1} and for q_{j+2} is taken, with weights that move from the
first to the second: both hold as far as q_{j+1}, so the average does, and it is continuous in theta.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

LEVELS = 32
MARGIN = 16  # units of rounding by which curvatures are larger than computed, or gaps could be negative by it
SLACK = 1e-3  # part by which distances are taken to be larger than computed, for rounding


class Level(NamedTuple):
    """Where a theta is between shells."""

    index: Int[Array, ""]  # of the first of two neighbouring shells
    part: Float[Array, ""]  # the weight of the second, from 0 to 1


class Shells(NamedTuple):
    """Ellipsoids around a theta."""

    inverse: Float[Array, "dims dims"]  # of the scale: distance is |inverse @ away|
    radii: Float[Array, " levels"]  # as far as each shell's bound holds, ascending; infinite in the last two

    def level(self, away: Float[Array, " dims"]) -> Level:
        """Of theta_0 + away."""
        u = self.inverse @ away
        square = jnp.sum(u * u)
        distance = jnp.sqrt(jnp.where(square > 0, square, jnp.finfo(u.dtype).tiny))
        ends = self.radii[
            :-1
        ]  # a distance in segment j is at most ends[j]; its bounds are those of j and j + 1
        index = jnp.minimum(jnp.searchsorted(ends, distance), len(ends) - 1).astype(jnp.int32)
        end = ends[index]
        start = jnp.where(index > 0, ends[index - 1], 0)
        bounded = jnp.isfinite(end)
        part = jnp.where(bounded, (distance - start) / jnp.where(bounded, end - start, 1), 1)
        return Level(index, part)

    def radii_at(self, level: Level) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those whose bounds are averaged."""
        return self.radii[level.index], self.radii[level.index + 1]


def shells(scale, dims: int, dtype, levels: int = LEVELS) -> Shells:
    """From a quarter of the distance where a posterior with this scale is, to three times that and more.

    Args:
        scale: (dims, dims), a square root of the posterior's covariance, scale @ scale.T.
        dims: numbers in theta.
        dtype: of theta.
        levels: how many; more of them make bounds a little tighter, and more sums.

    Raises:
        ValueError: if the scale is not a square matrix with an inverse.
    """
    scale = np.asarray(scale, np.float64)
    if scale.ndim != 2 or scale.shape[0] != scale.shape[1] or not np.isfinite(scale).all():
        raise ValueError(
            f"tuned: scale has shape {scale.shape}, must be a square matrix of finite numbers, such as "
            "posterior_scale makes"
        )
    if len(scale) != dims:
        raise ValueError(f"tuned: scale has shape {scale.shape}, theta has {dims} numbers: they must agree")
    if not np.linalg.cond(scale) < 1 / np.finfo(np.float64).eps:
        raise ValueError(
            "tuned: scale has no inverse: a direction in which theta does not vary has no distance"
        )
    typical = math.sqrt(len(scale))
    radii = np.geomspace(typical / 4, 3 * typical + 6, levels - 2)
    return Shells(
        jnp.asarray(np.linalg.inv(scale) * (1 + SLACK), dtype),
        jnp.asarray(np.concatenate([radii, [np.inf, np.inf]]), dtype),
    )


def interpolated(values: Array, level: Level) -> Array:
    """Between two neighbouring shells; values of all shells are along the first axis."""
    pair = lax.dynamic_slice_in_dim(values, level.index, 2)
    return (1 - level.part) * pair[0] + level.part * pair[1]


def spread_of(whitened: Float[Array, "data dims"]) -> Float[Array, " data"]:
    """Lengths of rows features @ scale: not zero, so that an infinite distance times it is infinite."""
    return jnp.maximum(jnp.linalg.norm(whitened, axis=1), jnp.finfo(whitened.dtype).tiny)
