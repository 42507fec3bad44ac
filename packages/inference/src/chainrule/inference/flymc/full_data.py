"""MCMC on all data with the same moves: what Firefly Monte Carlo is compared with.

    FullData(log_prior, bound, move=MALA())     .init and .step as of Firefly
    find_map(log_prior, bound, theta)           the most probable theta, where to tune bounds

The likelihood is that of the bound, log B_n plus the gap, so both sample the same posterior.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from chainrule.core import argmin
from chainrule.inference.flymc.bound import Bound
from chainrule.inference.flymc.firefly import Info, moved_often
from chainrule.inference.flymc.moves import MALA, Evaluated, Move, Point, evaluate
from chainrule.inference.flymc.preflight import check_fit, check_is


class FullState(NamedTuple):
    """Where a chain is."""

    position: PyTree  # theta
    point: Point  # the same, flat, with log density and gradient, which are not evaluated again


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullData:
    """MCMC that evaluates every datum's likelihood in each pass: N evaluations, as Info counts them."""

    log_prior: Callable[[PyTree], Array] = dataclasses.field(metadata={"static": True})  # of theta
    bound: Any  # a Bound
    move: Move = dataclasses.field(default=MALA(), metadata={"static": True})
    step_size: Float[Array, ""] | float | None = None  # of the move; None for where warm-up begins
    scale: Float[Array, "..."] | None = None  # (dims, dims), or (dims,) if diagonal; see `preconditioned`
    moves: int = dataclasses.field(default=1, metadata={"static": True})  # for each step

    def init(self, key: Key[Array, ""], position: PyTree, capacity: int | None = None) -> FullState:
        """A state at this theta; key and capacity are not used."""
        position = jax.tree.map(jnp.asarray, position)
        check_is("FullData.init", "move", self.move, Move, "MALA() or HMC(8)")
        check_fit("FullData.init", self.log_prior, self.bound, position)
        flat, unravel = ravel_pytree(position)
        point, _ = evaluate(self._density(unravel), flat)
        return FullState(position, point)

    def step(self, key: Key[Array, ""], state: FullState) -> tuple[FullState, Info]:
        """Move theta."""
        _, unravel = ravel_pytree(state.position)
        point, moved = moved_often(self, key, state.point, self._density(unravel))
        nothing, num_data = jnp.zeros((), jnp.int32), self.bound.num_data
        info = Info(
            acceptance=jnp.mean(moved.acceptance),
            accepted=jnp.mean(moved.accepted, dtype=point.value.dtype),
            num_bright=jnp.asarray(num_data, jnp.int32),
            evaluations=jnp.sum(moved.passes).astype(jnp.int32) * num_data,
            flips=nothing,
            overflow=jnp.asarray(False),
            violations=nothing,
        )
        return FullState(unravel(point.position), point), info

    def smooth_log_density(self, position: PyTree) -> Float[Array, ""]:
        """The log posterior, up to a constant."""
        return log_posterior(self.log_prior, self.bound, position)

    def overdue(self, state: FullState) -> Int[Array, "*chains"]:
        """No bright points, so no capacity to exceed."""
        return jnp.zeros(state.point.value.shape, jnp.int32)

    def grown(self, state: FullState, capacity: int) -> FullState:
        """The same state."""
        return state

    def _density(self, unravel):
        def density(flat):
            return Evaluated(self.smooth_log_density(unravel(flat)), (), jnp.zeros((), jnp.int32))

        return density


def find_map(
    log_prior: Callable[[PyTree], Array], bound: Bound, position: PyTree, *, max_steps: int = 100
) -> PyTree:
    """The theta of highest posterior density that Newton's method finds from this one.

    Args:
        log_prior, bound: as for Firefly.
        position: where to begin.
        max_steps: of the iteration; a bound need not be tuned at the very maximum.

    Raises:
        RuntimeError: if the iteration did not converge.
        TypeError: if theta, prior and bound do not go together in shapes or dtypes.
    """
    minus = lambda bound, theta: -log_posterior(log_prior, bound, theta) / bound.num_data
    start = jax.tree.map(jnp.asarray, position)
    check_fit("find_map", log_prior, bound, start)
    return argmin(minus, bound, start, max_steps=max_steps, rtol=1e-4, atol=1e-4, on_failure="raise").value


def log_posterior(log_prior, bound: Bound, position: PyTree) -> Float[Array, ""]:
    """Log prior and log likelihood of all data."""
    rows = jnp.arange(bound.num_data, dtype=jnp.int32)
    return log_prior(position) + jnp.sum(bound.log_bound(position, rows) + bound.gap(position, rows))
