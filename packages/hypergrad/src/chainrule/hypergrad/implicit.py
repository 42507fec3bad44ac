"""Training to the end: the weights at a minimum of the loss, differentiable without any course of training.

minimum(loss, params, steps)      -> weights, whether they are not to be had

At a minimum x*(h) the gradient g is zero, whatever led there. So along any change of h, with H the Hessian,

    H dx* + (dg/dh) dh = 0,

one linear system for a derivative, solved by conjugate gradients with products H u only. How fast training
went, and from where, does not appear: derivatives by schedules and by initial weights are zero.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from chainrule.core import Status, argmin
from chainrule.hypergrad.losses import TracedLoss


def minimum(loss: TracedLoss, params: list[Array], steps: int) -> tuple[list[Array], Bool[Array, "*lanes"]]:
    """By Newton's method with conjugate gradients, of at most so many steps; NaN if it does not converge."""
    solution = argmin(
        lambda others, weights: loss.value(weights, others, jnp.int32(0)),
        loss.others,
        params,
        max_steps=steps,
    )
    return solution.value, solution.stats.status != Status.CONVERGED
