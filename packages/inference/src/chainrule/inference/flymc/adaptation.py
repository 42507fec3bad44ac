"""What warm-up learns: the step size of the moves. And what is known before: the scale of theta.

preconditioned(kernel, position)   scale from the curvature of the prior and of the sum of log bounds
Adaptation, adapt, adapted         dual averaging of the log step size to a target acceptance

Given z, theta varies less than in the posterior: bright points only add to the curvature of the bounds. A
scale taken from the posterior makes steps too long, and the chain freezes.

Source: M. Hoffman and A. Gelman, The No-U-Turn sampler, JMLR 15, 2014, section 3.2, with its constants.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

SHRINKAGE, DELAY, DECAY = 0.05, 10.0, 0.75  # gamma, t0, kappa
FLAT = 1e-6  # curvatures below this part of the largest count as this part of it


class Adaptation(NamedTuple):
    """The state of dual averaging, of one chain."""

    count: Int[Array, ""]  # steps seen
    miss: Float[Array, ""]  # running mean of target - acceptance
    log_step: Float[Array, ""]  # to use in the next step of warm-up
    log_average: Float[Array, ""]  # to use after warm-up
    log_start: Float[Array, ""]  # towards which it shrinks


def adaptation(step_size: float, dtype) -> Adaptation:
    """Where dual averaging begins."""
    log = jnp.asarray(np.log(step_size), dtype)
    toward = jnp.asarray(np.log(2 * step_size), dtype)
    return Adaptation(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), log, log, toward)


def adapt(state: Adaptation, acceptance: Float[Array, ""], target: float) -> Adaptation:
    """One step of dual averaging; an acceptance that is NaN counts as zero."""
    dtype = state.miss.dtype
    count = state.count + 1
    t = count.astype(dtype)
    acceptance = jnp.where(jnp.isnan(acceptance), 0, acceptance)
    miss = state.miss + (target - acceptance - state.miss) / (t + DELAY)
    log_step = state.log_start - jnp.sqrt(t) / SHRINKAGE * miss
    weight = t**-DECAY
    average = weight * log_step + (1 - weight) * state.log_average
    return Adaptation(
        count, miss.astype(dtype), log_step.astype(dtype), average.astype(dtype), state.log_start
    )


def preconditioned(kernel: Any, position: PyTree) -> Any:
    """The kernel, Firefly or FullData, with moves scaled by the curvature of its smooth log density there.

    scale scale^T is the inverse of minus the second derivative. Directions that are flat, or curved upwards,
    as a Laplace prior's, are given at most 1 / 1e-6 of the least variance.

    Raises:
        ValueError: if the curvature is not finite, or zero.
    """
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, position))
    hessian = jax.jit(lambda kernel, flat: jax.hessian(lambda x: kernel.smooth_log_density(unravel(x)))(flat))
    scale = inverse_root(-np.asarray(hessian(kernel, flat)), "preconditioned", flat.dtype)
    return dataclasses.replace(kernel, scale=scale)


def inverse_root(curvature: np.ndarray, where: str, dtype) -> Float[Array, "dims dims"]:
    """A square root of the inverse of a curvature, see `preconditioned`."""
    curvature = np.asarray(curvature, np.float64)
    if not np.isfinite(curvature).all() or not np.abs(curvature).max() > 0:
        raise ValueError(
            f"{where}: the second derivative of the log density is "
            f"{'not finite' if not np.isfinite(curvature).all() else 'zero'} at the position given: start "
            "elsewhere, or set scale by hand and precondition=False"
        )
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    values = np.maximum(values, FLAT * np.abs(values).max())
    return jnp.asarray(vectors / np.sqrt(values), dtype)
