"""Sums over all data, made once: the price of a bound whose product is cheap ever after.

checked(where, features, answers)                    arrays that fit each other, or an error
touching_at(where, touching)                         a finite number, or an error
theta_like(where, theta, reference)                  theta as an array of that shape and dtype, or an error
weighted_sums(features, first, second)               sum first_n x_n and sum second_n x_n x_n^T
representable(dtype, linear, quadratic)              such sums in the dtype of the data, or an error

They are added up in double precision, block by block, since a theta is compared with another by differences
of these sums.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

ROWS = 1 << 16  # a block, so that the copy in double precision stays small


def checked(where: str, features, answers) -> tuple[Array, Array]:
    for name, array in (("features", features), ("answers", answers)):
        kind = np.asarray(array).dtype
        if kind.kind in "OSUM":
            raise ValueError(f"{where}: {name} are {kind}, must be numbers")
    features, answers = jnp.asarray(features), jnp.asarray(answers)
    if features.ndim != 2 or answers.shape != features.shape[:1] or not len(answers):
        raise ValueError(
            f"{where}: features of shape {features.shape} and answers of shape {answers.shape} do not fit: "
            "they must be (data, dims) and (data,)"
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"{where}: features are {features.dtype}, must be floating: features.astype(float)")
    for name, array in (("features", features), ("answers", answers)):
        bad = ~np.isfinite(np.asarray(array))
        if bad.any():
            place = [int(i) for i in np.argwhere(bad)[0]]
            raise ValueError(f"{where}: {name}{place} is {array[tuple(place)]}: leave such data out")
    return features, answers


def touching_at(where: str, touching: float) -> float:
    if not math.isfinite(touching):
        raise ValueError(f"{where}: touching = {touching} must be finite")
    return float(touching)


def theta_like(where: str, theta, reference: Array) -> Array:
    theta = jnp.asarray(theta, reference.dtype)
    if theta.shape != reference.shape:
        raise ValueError(f"{where}: theta has shape {theta.shape}, must have {reference.shape}")
    if not np.isfinite(np.asarray(theta)).all():
        raise ValueError(f"{where}: theta = {theta} is not finite: a bound can touch only where there is one")
    return theta


def weighted_sums(features, first: np.ndarray, second: np.ndarray) -> tuple[Array, Array]:
    """sum_n first_n x_n, of shape first.shape[1:] + (dims,), and sum_n second_n x_n x_n^T."""
    dims = features.shape[1]
    linear, quadratic = np.zeros((*first.shape[1:], dims)), np.zeros((dims, dims))
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        x = np.asarray(features[rows], np.float64)
        linear += first[rows].T @ x
        quadratic += (x * second[rows, None]).T @ x
    return representable(features.dtype, linear, quadratic)


def representable(dtype, linear: np.ndarray, quadratic: np.ndarray) -> tuple[Array, Array]:
    """Sums in the dtype of the data, or an error."""
    largest = max(np.abs(linear).max(), np.abs(quadratic).max())
    if not largest < float(jnp.finfo(dtype).max):
        raise ValueError(
            f"sums of features times features over the data reach {largest:.3g}, which {dtype} cannot hold: "
            "divide the features by their scale"
        )
    return jax.device_put(linear.astype(dtype)), jax.device_put(quadratic.astype(dtype))
