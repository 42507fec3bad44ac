"""How much a step of gradient descent shrinks the volume around it, and whether that is all it does.

    log_volume(key, matvec, like, step_size)    log|det(I - a H)|, its error, the largest a lambda -> Volume

`matvec` is v -> H v, symmetric, such as `chainrule.core.hvp(loss, params)`. Three methods:

    slq      stochastic Lanczos quadrature: nearly unbiased, O(D) memory; the default
    bound    the parabola -x - x^2 in place of log(1 - x): a lower bound, with one product for each probe
    exact    the D x D matrix: for a small D

The parabola lies below log|1 - x| for x up to 0.6838, above it from there to 1.0994, and below it again. So
the bound is one if no eigenvalue of a H lies in that interval; that a lambda < 1, as the paper asks for,
does not suffice. At a lambda >= 1 the step folds space: it need not be one-to-one, and then entropy is lost
that no determinant tells of.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016,
algorithm 2. Its probes must be of unit variance; the paper's text scales them like the initial weights.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from chainrule.core.krylov import largest_eigenvalue
from chainrule.core.logdet import logdet_slq

Method = Literal["slq", "bound", "exact"]

# Where log(1 - x) = -x - x^2, other than at 0.
PARABOLA_HOLDS_TO = 0.6838026
# From here on I - a H is squared before its logarithm is taken: it may have an eigenvalue below zero that
# the search for the largest a lambda has not found.
SQUARED_FROM = 0.95


class Volume(NamedTuple):
    """What a step theta - a grad does to a small volume."""

    log_det: Float[Array, "*lanes"]  # log|det(I - a H)|, in nats
    standard_error: Float[Array, "*lanes"]  # of log_det, from the spread of the probes; 0 if exact
    a_lambda_max: Float[Array, "*lanes"]  # largest eigenvalue of a H, from below; NaN if not looked for


def log_volume(
    key: Key[Array, ""],
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    step_size: ArrayLike,
    *,
    method: Method = "slq",
    probes: int = 2,
    lanczos_steps: int = 10,
    watch_steps: int = 10,
) -> Volume:
    """Estimate log|det(I - a H)| for a symmetric H that is known by its products with vectors.

    With random signs r, E r^T A r = tr A, so that

        slq      log|det(I - a H)| = E r^T log|I - a H| r,    by Lanczos quadrature
        bound    tr(-a H - a^2 H^2) = E [-a r^T H r - a^2 |H r|^2]  <=  log|det(I - a H)|

    The paper's bound, r_0^T (-2 r_0 + 3 r_1 - r_2) with r_{i+1} = r_i - a H r_i, is the same number by two
    products; one suffices, because H is symmetric.

    Args:
        key: for the probes, and for the start of the search for the largest eigenvalue.
        matvec: v -> H v, linear and symmetric.
        like: what v is like, a pytree of arrays.
        step_size: a.
        method: "slq", "bound" or "exact".
        probes: how many r, at least 2; the standard error goes with 1 / sqrt(probes).
        lanczos_steps: products for each probe of "slq", at least 3; twice as many where a lambda >= 0.95.
        watch_steps: products to find the largest eigenvalue with, and one more. With 0 it is not looked
            for, and "slq" is NaN if there is one above 1 / a.

    Returns:
        Volume; "slq" is NaN where I - a H is singular in the precision of its products.

    Example:
        >>> H = jnp.diag(jnp.array([-0.5, 0.0, 2.0]))
        >>> volume = log_volume(jax.random.key(0), lambda v: H @ v, jnp.zeros(3), 0.1)
        >>> print(f"{volume.log_det:.4f} {volume.a_lambda_max:.4f}")  # log 1.05 + log 0.8
        -0.1744 0.2000
    """
    check_settings("log_volume", method, probes, lanczos_steps, watch_steps)
    probes_key, watch_key = jax.random.split(key)
    if watch_steps:
        top = largest_eigenvalue(watch_key, matvec, like, steps=watch_steps).value
        a_lambda_max = jnp.multiply(step_size, lax.stop_gradient(top))
    else:
        a_lambda_max = jnp.full((), jnp.nan, jnp.result_type(jnp.float32, *jax.tree.leaves(like)))
    if method == "slq":
        log_det, error = _slq(probes_key, matvec, like, step_size, probes, lanczos_steps, a_lambda_max)
    elif method == "bound":
        log_det, error = _bound(probes_key, matvec, like, step_size, probes)
    else:
        log_det, error = _exact(matvec, like, step_size)
    return Volume(log_det, error, a_lambda_max)


def check_settings(name: str, method: str, probes: int, lanczos_steps: int, watch_steps: int) -> None:
    if method not in get_args(Method):
        raise ValueError(f"{name}: method = {method!r} must be one of {get_args(Method)}")
    if probes < 2:
        raise ValueError(f"{name}: probes must be at least 2, to have a standard error, got {probes}")
    if lanczos_steps < 3:
        raise ValueError(
            f"{name}: lanczos_steps must be at least 3, to see them converge, got {lanczos_steps}"
        )
    if watch_steps < 0:
        raise ValueError(f"{name}: watch_steps must be 0, for no watch, or more, got {watch_steps}")


def _slq(key, matvec, like, step_size, probes, steps, a_lambda_max):
    """By `logdet_slq` of I - a H, or where that is not positive definite, half that of its square."""
    squared = a_lambda_max >= SQUARED_FROM

    def shrink(v):
        return jax.tree.map(lambda v, Hv: v - jnp.asarray(step_size, v.dtype) * Hv, v, matvec(v))

    def positive(v):
        return lax.cond(squared, shrink, lambda v: v, shrink(v))

    estimate = logdet_slq(key, positive, like, probes=probes, steps=steps)
    factor = jnp.where(squared, 0.5, 1.0).astype(estimate.value.dtype)
    return factor * estimate.value, factor * estimate.standard_error


def _bound(key, matvec, like, step_size, probes):
    flat, unravel = ravel_pytree(like)
    signs = jax.random.rademacher(key, (probes, flat.size), flat.dtype)

    def of_probe(r):
        aHr = step_size * ravel_pytree(matvec(unravel(r)))[0]
        return -jnp.vdot(r, aHr) - jnp.vdot(aHr, aHr)

    values = jax.vmap(of_probe)(signs)
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(jnp.asarray(probes, values.dtype))


def _exact(matvec, like, step_size):
    flat, unravel = ravel_pytree(like)
    column = lambda v: ravel_pytree(matvec(unravel(v)))[0]
    identity = jnp.eye(flat.size, dtype=flat.dtype)
    log_det = jnp.linalg.slogdet(identity - step_size * jax.vmap(column)(identity))[1]
    return log_det, jnp.zeros_like(log_det)
