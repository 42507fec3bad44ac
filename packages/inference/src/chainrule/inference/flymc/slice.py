"""Slice sampling along a random direction, with stepping out and shrinking.

Every pass evaluates the density once; how many there are depends on the width, which warm-up adapts so that
about two points are tried within the bracket. Any width is exact.

Source: R. Neal, Slice sampling, Annals of Statistics 31, 2003, figures 3 and 5.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from chainrule.inference.flymc.moves import Moved, Point, stretch


@dataclasses.dataclass(frozen=True)
class Slice:
    """A move along a random direction, uniform where the density on it is above a random level."""

    max_step_outs: int = 8  # widths that the bracket may have; it is exact for any number
    max_shrinks: int = 64  # points tried; after that the chain stays where it is, which is exact too
    target: float = 0.5  # of 1 / points tried
    uses_gradient = False

    def first_step_size(self, dims):
        return 2.0

    def move(self, key, point, density, step_size, scale):
        direction_key, level_key, place_key, limit_key, shrink_key = jax.random.split(key, 5)
        dtype = point.position.dtype
        noise = jax.random.normal(direction_key, point.position.shape, dtype)
        direction = stretch(scale, noise / jnp.linalg.norm(noise))
        level = point.value - jax.random.exponential(level_key, dtype=dtype)
        at = lambda t: density(point.position + t * direction)
        within = lambda found: found.value > level  # False for NaN

        def step_out(end, outward, limit):
            def goes_on(state):
                _, left, inside, _, _ = state
                return inside & (left > 0)

            def advance(state):
                end, left, _, passes, violations = state
                end = end + outward
                found = at(end)
                more = (left > 1) & within(found)
                return end, left - 1, more, passes + 1, violations + found.violations

            first = at(end)
            start = end, limit, within(first), one, first.violations
            end, _, _, passes, violations = lax.while_loop(goes_on, advance, start)
            return end, passes, violations

        one, width = jnp.asarray(1, jnp.int32), jnp.asarray(step_size, dtype)
        left = -width * jax.random.uniform(place_key, dtype=dtype)
        to_left = jax.random.randint(limit_key, (), 0, self.max_step_outs, jnp.int32)
        low, passes_low, bad_low = step_out(left, -width, to_left)
        high, passes_high, bad_high = step_out(left + width, width, self.max_step_outs - 1 - to_left)

        def goes_on(state):
            _, _, tried, found, _, _ = state
            return ~found & (tried < self.max_shrinks)

        def shrink(state):
            low, high, tried, _, place, violations = state
            u = jax.random.uniform(jax.random.fold_in(shrink_key, tried), dtype=dtype)
            t = low + u * (high - low)
            position = point.position + t * direction
            there = density(position)
            found = within(there)
            reached = Point(position, there.value, point.gradient, there.aux)
            place = jax.tree.map(lambda new, old: jnp.where(found, new, old), reached, place)
            low, high = jnp.where(t < 0, t, low), jnp.where(t < 0, high, t)
            return low, high, tried + 1, found, place, violations + there.violations

        start = low, high, one - 1, jnp.asarray(False), point, bad_low + bad_high
        _, _, tried, found, place, violations = lax.while_loop(goes_on, shrink, start)
        passes = passes_low + passes_high + tried
        return place, Moved(1 / jnp.maximum(tried, 1).astype(dtype), passes, violations, found)
