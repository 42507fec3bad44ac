"""Which data are bright: updates of z given theta, in work that grows with the candidates, not with N.

Implicit(q)         every bright point may darken; a dark one, by itself, with probability q
Explicit(fraction)  a random block that does not depend on z gets its exact conditional distribution
candidates(...)     rows chosen independently with some probability, by skipping over those between
refresh(...)        one update

Given theta points are independent, and point n is bright with odds L_n / B_n - 1. Both updates leave that
distribution as it is. It matters for Implicit that candidates are independent: with a block of fixed size,
and all bright points free to darken, the chance of proposing a flip would depend on the other points.

Random numbers belong to a row, or to the place in the list of candidates, never to the shape of a buffer:
what happens does not depend on its capacity.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from chainrule.inference.flymc.bound import log_expm1


@runtime_checkable
class Update(Protocol):
    """How brightness is updated: a pytree, whose arrays are arguments of what is compiled."""

    all_bright: bool  # whether all bright points may darken, or candidates only

    def room(self, num_data: int) -> int:
        """Places that the candidates will hardly ever exceed."""
        ...

    def candidates(self, key, num_data: int, room: int) -> tuple[Array, Array]:
        """Rows in ascending order, num_data where places are left over; and whether there was room.

        A row may stand there more than once: it is a candidate once.
        """
        ...

    def log_light(self, log_odds, rows) -> Array:
        """Log probability that a dark candidate lights up."""
        ...

    def log_darken(self, log_odds, rows) -> Array:
        """Log probability that a bright point, one of the candidates unless all_bright, darkens."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Implicit:
    """Metropolis-Hastings: bright points propose to darken always, dark ones to light up with probability q.

    The mean number of gaps to evaluate is q times the number of dark points. The paper took q = 0.01 with
    tuned bounds, q = 0.1 with others.
    """

    q: float = dataclasses.field(default=0.01, metadata={"static": True})  # in (0, 1]
    all_bright = True  # whether all bright points may darken, or candidates only

    def __post_init__(self):
        _check_probability("Implicit", "q", self.q)

    @property
    def probability(self) -> float:
        return self.q

    def room(self, num_data: int) -> int:
        """Places that the candidates will hardly ever exceed."""
        return room_for(num_data, self.q)

    def candidates(self, key, num_data: int, room: int):
        """Rows, each with the same probability, see `candidates`."""
        return candidates(key, num_data, self.q, room)

    def log_light(self, log_odds, rows):
        """Log probability that a dark candidate lights up."""
        return jnp.minimum(log_odds - math.log(self.q), 0)

    def log_darken(self, log_odds, rows):
        """Log probability that a bright point darkens."""
        return jnp.minimum(math.log(self.q) - log_odds, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Explicit:
    """Gibbs sampling: each point, bright or dark, is drawn anew with this probability."""

    fraction: float = dataclasses.field(default=0.1, metadata={"static": True})  # in (0, 1]
    all_bright = False

    def __post_init__(self):
        _check_probability("Explicit", "fraction", self.fraction)

    @property
    def probability(self) -> float:
        return self.fraction

    def room(self, num_data: int) -> int:
        """Places that the candidates will hardly ever exceed."""
        return room_for(num_data, self.fraction)

    def candidates(self, key, num_data: int, room: int):
        """Rows, each with the same probability, see `candidates`."""
        return candidates(key, num_data, self.fraction, room)

    def log_light(self, log_odds, rows):
        """Log probability that a candidate is bright afterwards, if it is dark before."""
        return jax.nn.log_sigmoid(log_odds)

    def log_darken(self, log_odds, rows):
        """Log probability that a candidate is dark afterwards, if it is bright before."""
        return jax.nn.log_sigmoid(-log_odds)


class Bright(NamedTuple):
    """The bright points."""

    rows: Int[Array, " capacity"]  # their rows, in no order; from place `count` on, num_data
    count: Int[Array, ""]  # how many
    gap: Float[Array, " capacity"]  # of each, with the floor, at the current theta; 1 from `count` on

    def mask(self, num_data: int) -> Bool[Array, " data"]:
        """Whether each row is bright."""
        return jnp.zeros(num_data, bool).at[self.rows].set(True, mode="drop")


class Refreshed(NamedTuple):
    """What an update of the brightness did."""

    bright: Bright  # afterwards; truncated, and of no use, after an overflow
    evaluations: Int[Array, ""]  # dark candidates, whose gaps were evaluated
    flips: Int[Array, ""]  # points that changed
    violations: Int[Array, ""]  # gaps that were not positive: negative even with the floor, or NaN
    overflow: Bool[Array, ""]  # whether more points than the capacity are bright, or candidates had no room


def refresh(
    update: Update,
    key: Key[Array, ""],
    bright: Bright,
    gap: Callable[[Int[Array, " rows"]], Float[Array, " rows"]],
    num_data: int,
    room: int,
) -> Refreshed:
    """Update the brightness at a fixed theta.

    Args:
        update: `Implicit(q)`, `Explicit(fraction)`, or what `weighted` made.
        key: for all of it.
        bright: as it is.
        gap: log likelihood less log bound of rows, with the floor.
        num_data: N.
        room: places for candidates, see `Update.room`.
    """
    candidate_key, flip_key = jax.random.split(key)
    capacity = len(bright.rows)
    rows, complete = update.candidates(candidate_key, num_data, room)
    alive = jnp.arange(capacity) < bright.count
    # Which candidates are bright already: each bright row is looked up among them, where it stands first.
    place = jnp.searchsorted(rows, bright.rows, method="scan_unrolled")
    found_there = alive & (rows[jnp.minimum(place, len(rows) - 1)] == bright.rows)
    known = jnp.zeros(len(rows), bool).at[jnp.where(found_there, place, len(rows))].set(True, mode="drop")
    again = jnp.concatenate([jnp.zeros(1, bool), rows[1:] == rows[:-1]])
    dark = (rows < num_data) & ~known & ~again
    rows = jnp.where(dark, rows, num_data)
    safe = jnp.minimum(rows, num_data - 1)
    found = jnp.where(dark, gap(safe), 1)

    chance = _log_uniform(flip_key, jnp.concatenate([bright.rows, rows]), found.dtype)
    lights = dark & (chance[capacity:] < update.log_light(log_expm1(found), safe))
    may = alive if update.all_bright else found_there
    log_darken = update.log_darken(log_expm1(bright.gap), jnp.minimum(bright.rows, num_data - 1))
    darkens = may & (chance[:capacity] < log_darken)

    keep = jnp.concatenate([alive & ~darkens, lights])
    place = jnp.where(keep, jnp.cumsum(keep) - 1, capacity)  # what finds no place is dropped
    count = jnp.sum(keep, dtype=bright.count.dtype)
    compact = lambda empty, old, new: (
        jnp.full_like(old, empty).at[place].set(jnp.concatenate([old, new]), mode="drop")
    )
    after = Bright(compact(num_data, bright.rows, rows), count, compact(1, bright.gap, found))
    return Refreshed(
        after,
        jnp.sum(dark, dtype=jnp.int32),
        jnp.sum(lights, dtype=jnp.int32) + jnp.sum(darkens, dtype=jnp.int32),
        jnp.sum(dark & ~(found > 0), dtype=jnp.int32),
        (count > capacity) | ~complete,
    )


def candidates(
    key: Key[Array, ""], num_data: int, probability: float, room: int
) -> tuple[Int[Array, " room"], Bool[Array, ""]]:
    """Rows in ascending order, each chosen independently with this probability; and whether there was room.

    The distance from one to the next is geometric: ceil(E / -log(1 - p)) with E exponential. E is made from
    32 bits, so p holds to a relative 2^-32 / p.

    Returns:
        the rows, with num_data in the places left over; and False if `room` was too small.
    """
    if probability == 1:
        rows = jnp.arange(room, dtype=jnp.int32)
        return jnp.minimum(rows, num_data), jnp.asarray(room >= num_data)
    each = lambda place: jax.random.bits(jax.random.fold_in(key, place), dtype=jnp.uint32)
    bits = jax.vmap(each)(jnp.arange(room))
    uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-32
    skipped = jnp.floor(jnp.log1p(-uniform) / math.log1p(-probability))
    step = jnp.minimum(skipped, num_data).astype(jnp.int32) + 1
    saturating = lambda a, b: jnp.minimum(a + b, num_data + 1)  # sums of many such steps overflow
    rows = lax.associative_scan(saturating, step) - 1
    return rows, rows[-1] >= num_data


def room_for(num_data: int, probability: float) -> int:
    """Places that the candidates will not exceed but once in 10^15 updates; they are replayed if they do."""
    mean = num_data * probability
    return min(num_data, math.ceil(mean + 8 * math.sqrt(mean) + 16)) + 1


def _log_uniform(key, rows, dtype):
    """The log of a uniform number for each row, the same wherever the row stands."""
    return jax.vmap(lambda row: -jax.random.exponential(jax.random.fold_in(key, row), dtype=dtype))(rows)


def _check_probability(name, field, value):
    if not isinstance(value, numbers.Real) or not 0 < float(value) <= 1:
        raise ValueError(f"{name}: {field} = {value!r} is a probability that must be above 0 and at most 1")
