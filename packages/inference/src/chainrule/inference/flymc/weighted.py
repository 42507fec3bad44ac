"""Candidates where points are likely to be bright: a probability of its own for each row.

    brightness = weighted(log_prior, bound, theta)     bound tuned to theta, the most probable one
    Firefly(log_prior, bound, brightness=brightness)

Like Implicit, with q_n instead of one q: a dark point proposes to light up with probability q_n, and does so
with min(1, odds_n / q_n); a bright one darkens with min(1, q_n / odds_n). If q_n is somewhat above the odds,
both happen about as often as they can, and the brightness is drawn nearly afresh by as many candidates as
there are bright points, times a small number, whatever N is.

Candidates are chosen independently with these probabilities, in work that does not grow with N: a Poisson
number of draws, each of row n with probability lambda_n / sum lambda, hits row n a Poisson number of times,
with mean lambda_n, independently of the other rows. So it is hit at all with q_n = 1 - exp(-lambda_n).
Draws are made by an alias table, whose thresholds are whole numbers: q_n is computed from the table as it is.

Source of the table: A. Walker, An efficient method for generating discrete random variables with general
distributions, ACM Transactions on Mathematical Software 3, 1977.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt

from chainrule.inference.flymc.adaptation import inverse_root
from chainrule.inference.flymc.bound import Bound, floor_of

BLOCK = 4096  # rows that are looked at at a time
FULL = 2**32  # as many values as a random word has
FLOOR = 0.02  # the part of all candidates that is spread evenly: no row is left out
DRAWS = 32  # thetas at which brightness is averaged


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weighted:
    """Metropolis-Hastings with a probability for each row to be a candidate. Made by `weighted`."""

    threshold: UInt[Array, " cells"]  # a cell of the alias table gives its own row for random words below it
    other: Int[Array, " cells"]  # the row it gives otherwise
    log_q: Float[Array, " data"]  # log probability of being a candidate
    cumulative: UInt[Array, " draws"]  # of the Poisson number of draws, times 2^32
    all_bright = True  # whether all bright points may darken, or candidates only

    def room(self, num_data: int) -> int:
        """Places for candidates: as many as there ever are draws."""
        return len(self.cumulative)

    def candidates(
        self, key: Key[Array, ""], num_data: int, room: int
    ) -> tuple[Int[Array, " room"], Bool[Array, ""]]:
        """Rows in ascending order, some twice, num_data in the places left over; and that there was room."""
        count_key, cell_key = jax.random.split(key)
        draws, cells = len(self.cumulative), len(self.threshold)
        count = jnp.sum(jax.random.bits(count_key, (), jnp.uint32) >= self.cumulative, dtype=jnp.int32)
        cell, word = jax.random.bits(cell_key, (2, draws), jnp.uint32)
        cell = (cell & jnp.uint32(cells - 1)).astype(jnp.int32)
        row = jnp.where(word < self.threshold[cell], cell, self.other[cell])
        return jnp.sort(jnp.where(jnp.arange(draws) < count, row, num_data)), jnp.asarray(True)

    def log_light(self, log_odds, rows):
        """Log probability that a dark candidate lights up."""
        return jnp.minimum(log_odds - self.log_q[rows], 0)

    def log_darken(self, log_odds, rows):
        """Log probability that a bright point darkens."""
        return jnp.minimum(self.log_q[rows] - log_odds, 0)


def weighted(
    log_prior: Callable[[PyTree], Array],
    bound: Bound,
    position: PyTree,
    *,
    excess: float = 2.0,
    scale: Float[Array, "dims dims"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Weighted:
    """Candidates in proportion to how bright each point is expected to be: two passes over all data, once.

    Args:
        log_prior, bound: as for Firefly.
        position: the most probable theta, to which the bound is tuned.
        excess: draws of a candidate for each point that is expected to be bright, so that
            q_n = 1 - exp(-excess E[brightness of n]). More of them refresh the brightness better, and cost
            evaluations.
        scale: of theta in the posterior, a square root of its covariance. None for Laplace's approximation
            there.
        key: of the 32 draws from the normal distribution with this scale; a fixed one if None.

    Raises:
        ValueError: if excess is not positive, or nothing is ever bright.
    """
    if not excess > 0:
        raise ValueError(f"weighted: excess = {excess} must be above 0, say 2")
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, position))
    if scale is None:
        scale = posterior_scale(log_prior, bound, position)
    noise = jax.random.normal(jax.random.key(0) if key is None else key, (DRAWS, len(flat)), flat.dtype)
    thetas = jax.vmap(unravel)(flat[None] + noise @ jnp.asarray(scale, flat.dtype).T)
    hazard = excess * np.asarray(_mean_brightness(bound, thetas), np.float64)
    return from_hazard(hazard, flat.dtype)


@jax.jit
def _mean_brightness(bound, thetas):
    def of_block(rows):
        gap = jax.vmap(lambda theta: bound.gap(theta, rows))(thetas)
        return jnp.mean(-jnp.expm1(-gap - floor_of(gap.dtype)), 0)

    return over_blocks(of_block, bound.num_data)


def from_hazard(hazard, dtype):
    total = hazard.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"weighted: the expected number of bright points is {total}: is the bound one?")
    hazard = (1 - FLOOR) * hazard + FLOOR * total / len(hazard)
    threshold, other, part = _alias_table(hazard / total)
    log_q = np.log(-np.expm1(-total * part))
    return Weighted(
        jnp.asarray(threshold), jnp.asarray(other), jnp.asarray(log_q, dtype), jnp.asarray(_poisson(total))
    )


def _alias_table(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, other rows, and the probability that the table gives each row, exactly.

    Cells are as many as the next power of two, so that bits of a random word choose one without bias. Light
    cells, in order, are filled up by heavy ones, in order: which one is there for it follows from cumulative
    sums, and a heavy one that has given too much is filled up by the next.
    """
    cells = 1 << max(len(p) - 1, 1).bit_length()
    weight = np.zeros(cells)
    weight[: len(p)] = p * cells
    light, heavy = np.flatnonzero(weight < 1), np.flatnonzero(weight >= 1)
    missing = np.cumsum(1 - weight[light])
    spare = np.cumsum(weight[heavy] - 1)
    last = len(heavy) - 1
    other, keep = np.arange(cells), np.ones(cells)
    giver = np.minimum(np.searchsorted(spare, missing - (1 - weight[light])), last)
    other[light], keep[light] = heavy[giver], weight[light]
    taken = np.searchsorted(missing, spare[:-1], side="right")  # the light cell that exhausts each heavy one
    given = taken < len(light)
    emptied = np.flatnonzero(given)
    other[heavy[emptied]] = heavy[emptied + 1]
    keep[heavy[emptied]] = 1 + spare[emptied] - missing[taken[emptied]]
    threshold = np.clip(np.round(keep * FULL), 0, FULL - 1).astype(np.uint64)
    threshold[: len(p)] = np.maximum(threshold[: len(p)], 1)  # every row has a chance
    # What a word can say: below the threshold its own row, else the other.
    own = threshold / FULL
    part = (own + np.bincount(other, 1 - own, cells)) / cells
    return threshold.astype(np.uint32), other.astype(np.int32), part[: len(p)]


def _poisson(mean: float) -> np.ndarray:
    """Cumulative probabilities times 2^32, as far as they are below 1."""
    size = math.ceil(mean + 8 * math.sqrt(mean) + 16)
    k = np.arange(size)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    cumulative = np.cumsum(np.exp(k * math.log(mean) - mean - log_factorial))
    cumulative = np.round(cumulative * FULL)
    return np.minimum(cumulative[cumulative < FULL - 0.5], FULL - 1).astype(np.uint32)


def posterior_scale(log_prior, bound: Bound, position: PyTree) -> Float[Array, "dims dims"]:
    """A square root of the covariance of Laplace's approximation, block by block of the data."""
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, position))
    return inverse_root(np.asarray(_curvature(log_prior, bound, flat, unravel)), "weighted", flat.dtype)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _curvature(log_prior, bound, flat, unravel):
    """Minus the second derivative of the log posterior."""

    def of_block(total, rows):
        def log_likelihood(flat):
            theta, safe = unravel(flat), jnp.minimum(rows, bound.num_data - 1)
            each = bound.log_bound(theta, safe) + bound.gap(theta, safe)
            return jnp.sum(jnp.where(rows < bound.num_data, each, 0))

        return total - jax.hessian(log_likelihood)(flat), None

    start = -jax.hessian(lambda flat: log_prior(unravel(flat)))(flat)
    return lax.scan(of_block, start, blocks(bound.num_data))[0]


def over_blocks(f, num_data: int):
    """f of all rows, computed for a block of them at a time."""
    out = lax.map(lambda rows: f(jnp.minimum(rows, num_data - 1)), blocks(num_data))
    return out.reshape(-1)[:num_data]


def blocks(num_data: int) -> Int[Array, "blocks rows"]:
    """All rows, and as many from num_data on as fill the last block."""
    block = min(BLOCK, num_data)
    return jnp.arange(-(-num_data // block) * block, dtype=jnp.int32).reshape(-1, block)
