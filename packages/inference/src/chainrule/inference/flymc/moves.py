"""Moves of theta at a fixed density: random-walk Metropolis, Langevin (MALA), Hamiltonian Monte Carlo.

RandomWalk(), MALA(), HMC(num_steps), and Slice() in slice.py: each has
    move(key, point, density, step_size, scale) -> (point, Moved)

A move knows nothing of data. `density` gives it the log density and, if it wants, the gradient. All work in
coordinates theta = scale @ u in which the density is about a standard normal one.

Source: R. Neal, MCMC using Hamiltonian dynamics, Handbook of Markov Chain Monte Carlo, 2011.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Evaluated(NamedTuple):
    """A log density somewhere."""

    value: Float[Array, ""]  # the log density
    aux: Any  # what else was computed on the way and belongs to the position: gaps of the bright points
    violations: Int[Array, ""]  # gaps that were negative


class Point(NamedTuple):
    """Where a chain is."""

    position: Float[Array, " dims"]  # theta, flat
    value: Float[Array, ""]  # its log density
    gradient: Float[Array, " dims"]  # of the log density; zeros for moves that use none
    aux: Any  # as in Evaluated


class Moved(NamedTuple):
    """What a move did."""

    acceptance: Float[Array, ""]  # probability of acceptance; of a slice, 1 / points tried within the bracket
    passes: Int[Array, ""]  # evaluations of the density, with or without its gradient
    violations: Int[Array, ""]  # as in Evaluated, over all passes
    accepted: Bool[Array, ""]  # whether the position changed


Density = Callable[[Float[Array, " dims"]], Evaluated]


@runtime_checkable
class Move(Protocol):
    """What moves theta."""

    @property
    def uses_gradient(self) -> bool:
        """Whether it needs that of the point it starts from."""
        ...

    @property
    def target(self) -> float:
        """The mean acceptance that warm-up adapts the step size to."""
        ...

    def first_step_size(self, dims: int) -> float:
        """Where warm-up begins."""
        ...

    def move(self, key, point: Point, density: Density, step_size, scale) -> tuple[Point, Moved]: ...


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """theta + step_size scale xi, accepted by Metropolis' rule. One pass."""

    target: float = 0.234  # Roberts, Gelman and Gilks 1997
    uses_gradient = False

    def first_step_size(self, dims):
        return 2.38 / dims**0.5

    def move(self, key, point, density, step_size, scale):
        noise_key, accept_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, point.position.shape, point.position.dtype)
        position = point.position + step_size * stretch(scale, noise)
        there = density(position)
        proposal = Point(position, there.value, point.gradient, there.aux)
        return _metropolis(accept_key, point, proposal, there.value - point.value, 1, there.violations)


@dataclasses.dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps. One pass, with gradient, for each."""

    num_steps: int = 5
    target: float = 0.8
    # Each trajectory has a step size of its own, uniform within this part of what it is told: one length for
    # all resonates with directions whose period divides it, and they stand still.
    jitter: float = 0.2
    uses_gradient = True

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"HMC: num_steps = {self.num_steps} must be at least 1")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"HMC: jitter = {self.jitter} must be at least 0 and below 1")

    def first_step_size(self, dims):
        return 1 / dims**0.25

    def move(self, key, point, density, step_size, scale):
        momentum_key, accept_key, jitter_key = jax.random.split(key, 3)
        dtype = point.position.dtype
        momentum = jax.random.normal(momentum_key, point.position.shape, dtype)
        if self.jitter:
            step_size *= 1 + self.jitter * jax.random.uniform(jitter_key, (), dtype, -1, 1)
        kick = lambda p, place, length: p + length * stretch(scale, place.gradient, transposed=True)

        def leapfrog(carry, last):
            place, p, violations = carry
            place, more = evaluate(density, place.position + step_size * stretch(scale, p))
            p = kick(p, place, jnp.where(last, step_size / 2, step_size))
            return (place, p, violations + more), None

        carry = point, kick(momentum, point, step_size / 2), jnp.zeros((), jnp.int32)
        last = jnp.arange(self.num_steps) == self.num_steps - 1
        (proposal, p, violations), _ = lax.scan(leapfrog, carry, last)
        gain = proposal.value - point.value + (momentum @ momentum - p @ p) / 2
        return _metropolis(accept_key, point, proposal, gain, self.num_steps, violations)


def MALA(target: float = 0.574) -> HMC:
    """Langevin's proposal with Metropolis' rule: Hamiltonian Monte Carlo of a single step."""
    return HMC(1, target, jitter=0.0)


def evaluate(density: Density, position: Float[Array, " dims"]) -> tuple[Point, Int[Array, ""]]:
    """The point at a position, with its gradient; and the violations met. One pass."""

    def value_first(position):
        found = density(position)
        return found.value, found

    (value, found), gradient = jax.value_and_grad(value_first, has_aux=True)(position)
    return Point(position, value, gradient, found.aux), found.violations


def stretch(scale: Float[Array, "*matrix"], u: Float[Array, " dims"], transposed: bool = False):
    """scale @ u; a vector stands for a diagonal matrix."""
    if scale.ndim < 2:
        return scale * u
    return scale.T @ u if transposed else scale @ u


def _metropolis(key, point, proposal, gain, passes, violations):
    gain = jnp.where(jnp.isnan(gain), -jnp.inf, gain)  # nowhere that a chain could go
    accepted = -jax.random.exponential(key, dtype=gain.dtype) < gain
    onward = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, point)
    return onward, Moved(jnp.exp(jnp.minimum(gain, 0)), jnp.asarray(passes, jnp.int32), violations, accepted)
