"""A ball that flies in a square box without gravity or friction, and bounces off its walls.

Its centre moves along a straight line, which the walls fold back: exact, whatever the step.

Source: the box of the Kalman VAE (Fraccaro et al., NIPS 2017; github.com/simonkamronn/kvae): 32 x 32 pixels,
radius 3, dt .2, speeds evenly from 10 to 15, starts around the middle with standard deviation 10, kept
inside. There a simulator of rigid bodies moves the ball, and pixels are black or white; here those on its
edge are grey.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class BallState(NamedTuple):
    """Where the ball is, and where it goes."""

    position: Float[Array, " 2"]  # of its centre: across and down, in pixels from the corner
    velocity: Float[Array, " 2"]  # pixels per unit of time


@dataclasses.dataclass(frozen=True)
class Ball:
    """A ball in a box of pixels.

    Raises:
        ValueError: for a box that the ball does not fit in, and for a dt or speeds that are not above 0.
    """

    pixels: int = 32  # on a side
    radius: float = 3.0  # pixels
    dt: float = 0.2
    speed: tuple[float, float] = (10.0, 15.0)  # drawn evenly from this interval, in any direction
    spread: float = 10.0  # standard deviation of where it starts, in pixels around the middle

    def __post_init__(self):
        slow, fast = self.speed
        if not (0 < 2 * self.radius < self.pixels and self.dt > 0 and 0 < slow <= fast and self.spread >= 0):
            raise ValueError(
                f"{self} makes no picture: the diameter must be below pixels, dt and speed above 0, the "
                "interval of speeds rising, spread at least 0"
            )

    def reset(self, key: Key[Array, ""]) -> BallState:
        """A ball near the middle, on its way."""
        place_key, speed_key, angle_key = jax.random.split(key, 3)
        place = self.pixels / 2 + self.spread * jax.random.normal(place_key, (2,))
        slow, fast = self.speed
        speed = jax.random.uniform(speed_key, minval=slow, maxval=fast)
        angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
        inside = jnp.clip(place, self.radius, self.pixels - self.radius)
        return BallState(inside, speed * jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    def step(self, state: BallState) -> BallState:
        """One frame later."""
        room = self.pixels - 2 * self.radius
        along = jnp.mod(state.position + self.dt * state.velocity - self.radius, 2 * room)
        turned = along > room  # an odd number of bounces
        position = self.radius + jnp.where(turned, 2 * room - along, along)
        return BallState(position, jnp.where(turned, -state.velocity, state.velocity))

    def render(self, state: BallState) -> Float[Array, "down across"]:
        """Brightness from 0 to 1: 1 on the ball, in between on the pixels of its edge."""
        middles = jnp.arange(self.pixels, dtype=state.position.dtype) + 0.5
        across, down = (middles - state.position[0]) ** 2, (middles - state.position[1]) ** 2
        distance = jnp.sqrt(down[:, None] + across[None, :])
        return jnp.clip(self.radius - distance + 0.5, 0, 1)

    def observe(self, key: Key[Array, ""], frame: Float[Array, "down across"]) -> Float[Array, "down across"]:
        """The frame as it is."""
        return frame
