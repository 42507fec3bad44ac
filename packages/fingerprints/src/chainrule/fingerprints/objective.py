"""What is asked of a model, and what training therefore minimises.

One can
- know what a head's numbers mean for a task (`OUTPUTS`),
- take the mean loss over all targets that were measured (`loss`), and the error by which a model is
  chosen (`error`),
- turn the numbers of one model, or of several, into predictions with their spread (`combine`).

Three tasks: `"regression"`, one number per target, squared error; `"mean_variance"`, a mean and a
variance per target, Gaussian negative log likelihood; `"classification"`, the log odds of a yes, cross
entropy. A target that is NaN was not measured and adds nothing.

Source: Nix and Weigend, IEEE ICNN 1994 (mean and variance); Seitzer et al., ICLR 2022 (the weight that
keeps the mean learning where the variance is large); Lakshminarayanan et al., NeurIPS 2017 (ensembles).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OUTPUTS = {"regression": 1, "mean_variance": 2, "classification": 1}  # numbers per target
ERRORS = {"regression": "mse", "mean_variance": "nll", "classification": "log_loss"}
LEAST_VARIANCE = 1e-4  # of the targets': no measurement here is a hundred times finer than their spread
BETA = 0.5  # Seitzer et al. find it the best compromise


class Prediction(NamedTuple):
    """What is expected of every row, and how far off it may be."""

    mean: Float[np.ndarray, "rows ..."]  # in the targets' units, or the probability of a yes
    std: Float[np.ndarray, "rows ..."]  # standard deviation, in the targets' units


def check_task(task: str) -> None:
    if task not in OUTPUTS:
        raise ValueError(f"task={task!r} is unknown; choose one of {tuple(OUTPUTS)}")


def loss(
    task: str,
    raw: Float[Array, "..."],
    targets: Float[Array, "rows ..."],
) -> Float[Array, ""]:
    """What training minimises: the mean over measured targets, summed over the members of an ensemble.

    Members have weights of their own, so the sum trains each as if it were alone.
    """
    return _mean(_losses(task, raw, targets, BETA), targets).sum()


def error(
    task: str,
    raw: Float[Array, "..."],
    targets: Float[Array, "rows ..."],
) -> Float[Array, "..."]:
    """What `ERRORS` names, of each member: the mean over measured targets."""
    return _mean(_losses(task, raw, targets, 0.0), targets)


def _losses(task, raw, targets, beta):
    values = raw[..., 0]
    targets = jnp.nan_to_num(targets)  # no NaN may come near a derivative, not even one that is left out
    targets = jnp.broadcast_to(targets, values.shape)
    if task == "classification":
        return jnp.logaddexp(0.0, values) - targets * values
    squares = (values - targets) ** 2
    if task == "regression":
        return squares
    variance = _variance(raw)
    # Without the weight, a target that is hard to meet is declared noise, and its mean stops learning.
    weight = jax.lax.stop_gradient(variance) ** beta
    return weight * 0.5 * (jnp.log(2 * jnp.pi * variance) + squares / variance)


def _variance(raw):
    return LEAST_VARIANCE + jax.nn.softplus(raw[..., 1])


def _mean(losses, targets):
    measured = ~jnp.isnan(targets)
    axes = tuple(range(-targets.ndim, 0))
    total = jnp.where(jnp.broadcast_to(measured, losses.shape), losses, 0.0).sum(axes)
    return total / jnp.maximum(measured.sum(), 1)


def combine(task: str, raw: Float[np.ndarray, "members rows ..."]) -> Prediction:
    """Mean and standard deviation over the mixture that the members make, for targets without units.

    The variance of a mixture of equal parts is the mean of their variances plus the variance of their
    means. The members of a plain regression have no variance of their own, and a single one has no
    spread at all: its `std` is NaN. Neither has a probability, which says by itself how sure it is.
    """
    values = np.asarray(raw[..., 0], np.float64)
    if task == "classification":
        probability = (0.5 * (1 + np.tanh(values / 2))).mean(axis=0)
        return Prediction(probability, np.full_like(probability, np.nan))
    mean, variance = values.mean(axis=0), values.var(axis=0)
    if task == "mean_variance":
        variance = variance + np.asarray(_variance(raw), np.float64).mean(axis=0)
    elif len(values) == 1:
        variance = np.full_like(mean, np.nan)
    return Prediction(mean, np.sqrt(variance))
