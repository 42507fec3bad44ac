"""A blurred dot that goes to and fro along a line of pixels: the bouncing dot of the talk.

Its position is a triangle wave of its phase, which grows by speed * dt a frame:

    x = triangle(phase),    pixel = exp(-((x - place) / width)^2 / 2),    places evenly from -1 to 1

and a frame is seen with normal noise. A period is 2: at the speed .75 and dt = .1, some 26.7 frames.

    Dot()                     one speed, as in the original; phases differ between films
    Dot(speed=(0.5, 1.0))     a speed of its own for each film, drawn evenly

Source: `lds_svae_dots.py` of github.com/mattjj/svae (Johnson et al., NIPS 2016): 20 pixels, speed .75, width
.15, noise .1. There, all frames are cut from a single film of 5000.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

PERIOD = 2.0


class DotState(NamedTuple):
    """Where the dot is in its period, and how fast."""

    phase: Float[Array, ""]  # in [0, 2): the dot is at -1 at phase 0, at 1 at phase 1
    speed: Float[Array, ""]  # phase per unit of time


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot that bounces between -1 and 1.

    Raises:
        ValueError: for fewer than two pixels, and for a width, a dt or a speed that is not above 0.
    """

    pixels: int = 20
    speed: float | tuple[float, float] = 0.75  # or the ends of the interval that it is drawn from
    dt: float = 0.1
    width: float = 0.15  # of the dot, its standard deviation, where the line is 2 long
    noise: float = 0.1  # of a pixel, its standard deviation; the dot is 1 high

    def __post_init__(self):
        slow, fast = self._speeds
        if self.pixels < 2 or not (self.width > 0 and self.dt > 0 and 0 < slow <= fast and self.noise >= 0):
            raise ValueError(
                f"{self} makes no picture: pixels must be at least 2, width, dt and speed above 0, the "
                "interval of speeds rising, noise at least 0"
            )

    def reset(self, key: Key[Array, ""]) -> DotState:
        """A dot anywhere in its period, with its speed."""
        phase_key, speed_key = jax.random.split(key)
        slow, fast = self._speeds
        phase = jax.random.uniform(phase_key, maxval=PERIOD)
        return DotState(phase, jax.random.uniform(speed_key, minval=slow, maxval=fast))

    def step(self, state: DotState) -> DotState:
        """One frame later."""
        return state._replace(phase=jnp.mod(state.phase + state.speed * self.dt, PERIOD))

    def position(self, state: DotState) -> Float[Array, ""]:
        """From -1 to 1."""
        return 1 - 2 * jnp.abs(1 - state.phase)

    def render(self, state: DotState) -> Float[Array, " pixels"]:
        """Brightness from 0 to 1, without noise."""
        places = jnp.linspace(-1.0, 1.0, self.pixels, dtype=state.phase.dtype)
        return jnp.exp(-(((self.position(state) - places) / self.width) ** 2) / 2)

    def observe(self, key: Key[Array, ""], frame: Float[Array, " pixels"]) -> Float[Array, " pixels"]:
        """The frame with noise."""
        return frame + self.noise * jax.random.normal(key, frame.shape, frame.dtype)

    @property
    def _speeds(self):
        return self.speed if isinstance(self.speed, tuple) else (self.speed, self.speed)
