"""A hunt for a theta and a datum where a lower bound is above the likelihood, far out in the tails too.

check_bound(bound, jax.random.key(0), theta)      raises BoundBroken, or returns a Report
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from chainrule.inference.flymc.bound import Bound, floor_of

LEAST, LARGEST = -3.0, 4.0  # distances from theta that are tried, as powers of ten
ROUNDING = 10  # units that a gap may be negative by, relative to 1 + |log bound|
DESCENTS = 20  # steps downhill on a gap, from each theta


class BoundBroken(ValueError):
    """What was given as a bound is none."""


class Report(NamedTuple):
    """What `check_bound` found; it is not proof that there is nothing else."""

    worst_gap: float  # the least log likelihood - log bound, relative to 1 + |log bound|
    row: int  # where that was
    position: PyTree  # the theta where that was
    collapsed_error: float  # of differences of `collapsed`, relative to the sum of what is added up
    likelihood_error: float  # of log bound + gap, relative to 1 + |log bound|; NaN without a likelihood
    tried: int  # pairs of a theta and a row


def check_bound(
    bound: Bound,
    key: Key[Array, ""],
    position: PyTree,
    *,
    log_likelihood: Callable[[PyTree, Int[Array, " rows"]], Float[Array, " rows"]] | None = None,
    num_positions: int = 256,
    num_rows: int = 256,
    tolerance: float | None = None,
    raises: bool = True,
) -> Report:
    """Look for a negative or undefined gap, and whether `collapsed` is the sum of log bounds.

    Thetas lie in random directions from the given one, at distances from 0.001 to 10,000, and then go
    downhill on the gap of one row.

    Args:
        bound: what to try.
        key: for thetas and rows.
        position: theta to search around; that to which the bound is tuned, if it is.
        log_likelihood: of rows at a theta, written plainly, to compare log bound + gap with.
        num_positions: thetas.
        num_rows: rows, drawn anew for each theta. Whether sums agree is tried on all data if they are no more
            than 10,000, else not at all.
        tolerance: of sums and likelihoods, relative error that is let pass; 1000 units of rounding if None.
        raises: False to get the report of a broken bound as well.

    Raises:
        BoundBroken: naming row, theta and gap.

    Example:
        >>> from chainrule.inference.flymc import logistic_bound
        >>> bound = logistic_bound(jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
        >>> print(check_bound(bound, jax.random.key(0), jnp.zeros(1)).worst_gap >= 0)
        True
    """
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, position))
    rows = min(num_rows, bound.num_data)
    tolerance = 1000 * floor_of(flat.dtype) if tolerance is None else tolerance
    direction_key, distance_key, row_key = jax.random.split(key, 3)
    direction = jax.random.normal(direction_key, (num_positions, len(flat)), flat.dtype)
    exponent = jax.random.uniform(distance_key, (num_positions, 1), flat.dtype, LEAST, LARGEST)
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    theta = jnp.concatenate([flat[None], flat[None] + 10**exponent * direction])
    which = jax.random.randint(row_key, (len(theta), rows), 0, bound.num_data, jnp.int32)

    theta = jnp.concatenate([theta, jax.jit(_downhill, static_argnums=3)(bound, theta, which[:, 0], unravel)])
    which = jnp.concatenate([which, which])
    gap, log_bound, likelihood = jax.jit(_tried, static_argnums=(3, 4))(
        bound, theta, which, unravel, log_likelihood
    )
    gap, log_bound = np.asarray(gap, np.float64), np.asarray(log_bound, np.float64)
    size = 1 + np.abs(log_bound)
    relative = np.where(np.isfinite(size), np.nan_to_num(gap, nan=-np.inf) / size, 0)
    at = np.unravel_index(np.argmin(relative), relative.shape)
    wrong = np.abs(log_bound + gap - np.asarray(likelihood, np.float64)) / size
    report = Report(
        worst_gap=float(relative[at]),
        row=int(which[at]),
        position=unravel(theta[at[0]]),
        collapsed_error=_collapsed_error(bound, theta, unravel),
        likelihood_error=float(np.max(wrong[np.isfinite(size)])) if log_likelihood else float("nan"),
        tried=relative.size,
    )
    if raises:
        _raise(report, tolerance, ROUNDING * floor_of(flat.dtype))
    return report


def _tried(bound, theta, which, unravel, log_likelihood):
    def at(theta, rows):
        theta = unravel(theta)
        likelihood = log_likelihood(theta, rows) if log_likelihood else jnp.zeros(len(rows))
        return bound.gap(theta, rows), bound.log_bound(theta, rows), likelihood

    return jax.lax.map(lambda pair: at(*pair), (theta, which))


def _downhill(bound, theta, row, unravel):
    """From each theta, steps against the gradient of one row's gap, where they make it smaller."""

    def descend(pair):
        start, row = pair
        slope = jax.grad(lambda x: bound.gap(unravel(x), row[None])[0])

        def step(x, number):
            g = slope(x)
            length = jnp.linalg.norm(x) * 0.5 ** (number % 7 + 1).astype(x.dtype)
            onward = x - length * g / jnp.maximum(jnp.linalg.norm(g), jnp.finfo(x.dtype).tiny)
            better = bound.gap(unravel(onward), row[None])[0] < bound.gap(unravel(x), row[None])[0]
            return jnp.where(better, onward, x), None

        return jax.lax.scan(step, start, jnp.arange(DESCENTS))[0]

    return jax.lax.map(descend, (theta, row))


def _collapsed_error(bound, theta, unravel) -> float:
    """Of collapsed(theta) - collapsed(theta_0), against the sum over rows, for the first thetas."""
    if bound.num_data > 10_000:
        return float("nan")
    rows = jnp.arange(bound.num_data, dtype=jnp.int32)
    theta = theta[:20]
    each = np.asarray(jax.vmap(lambda x: bound.log_bound(unravel(x), rows))(theta), np.float64)
    whole = np.asarray(jax.vmap(lambda x: bound.collapsed(unravel(x)))(theta), np.float64)
    size = 1 + np.abs(each).sum(1) + np.abs(each[0]).sum()
    error = np.abs(whole - whole[0] - (each.sum(1) - each[0].sum())) / size
    return float(np.nan_to_num(error, nan=np.inf).max())


def _raise(report: Report, tolerance: float, least: float):
    if not report.worst_gap >= -least:
        raise BoundBroken(
            f"check_bound: at row {report.row} and theta = {report.position} the log bound is above the log "
            f"likelihood, by {-report.worst_gap:.3g} of 1 + |log bound| (inf where the gap is NaN). Sampling "
            "would not be exact: mend `gap`, or the bound"
        )
    if report.collapsed_error > tolerance:
        raise BoundBroken(
            f"check_bound: differences of `collapsed` are off by {report.collapsed_error:.3g} of what they "
            "sum: it must be the sum of `log_bound` over all data, up to a constant"
        )
    if report.likelihood_error > tolerance:
        raise BoundBroken(
            f"check_bound: log_bound + gap is off from log_likelihood by {report.likelihood_error:.3g} of "
            "1 + |log bound|: the three must agree"
        )
