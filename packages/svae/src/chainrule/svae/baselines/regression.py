"""What is predicted without any model of what moves: the last frame, the mean frame, linear regression.

copy_last(seen, horizon)                     the last frame that was seen, over and over
mean_frame(frames)                           the mean over films and time
Autoregression.fit(frames, lag)              ridge regression of a frame on the `lag` before it
Autoregression(...).forecast(seen, horizon)  its own predictions fed back

For a dot of one known speed the last is hard to beat; for a random speed it cannot know which.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy.linalg
from jax import lax
from jaxtyping import Array, Float

from chainrule.svae.expfam import join_columns


def copy_last(
    seen: Float[Array, "sequences frames pixels"], horizon: int
) -> Float[Array, "sequences horizon pixels"]:
    """The last frame seen of each film, `horizon` times."""
    return jnp.repeat(seen[:, -1:], horizon, axis=1)


def mean_frame(frames: Float[Array, "sequences frames pixels"]) -> Float[Array, " pixels"]:
    """The mean over films and time."""
    return jnp.mean(frames, (0, 1))


class Autoregression(NamedTuple):
    """frame_t = coefficients (frame_{t-lag}, ..., frame_{t-1}, 1)."""

    coefficients: Float[Array, "pixels inputs"]  # inputs = lag * pixels + 1, the oldest frame first

    @classmethod
    def fit(
        cls, frames: Float[Array, "sequences frames pixels"], lag: int = 20, *, ridge: float = 1.0
    ) -> "Autoregression":
        """The least squares fit, with a penalty of ridge * (sum of squared coefficients).

        It is the posterior mean of an MNIW prior with K = I / ridge. The bias is penalised likewise.

        Args:
            frames: films to learn from.
            lag: frames to predict from.
            ridge: in squared units of a pixel, summed over all frames.

        Raises:
            ValueError: for films no longer than lag, a lag below one, and a ridge that is not above 0.
        """
        if not (1 <= lag < frames.shape[1] and ridge > 0):
            raise ValueError(
                f"Autoregression: lag must be from 1 to {frames.shape[1] - 1} for films of {frames.shape[1]} "
                f"frames, and ridge above 0, got {lag} and {ridge}"
            )
        inputs, targets = _inputs(frames, lag), frames[:, lag:]
        x, y = inputs.reshape(-1, inputs.shape[-1]), targets.reshape(-1, targets.shape[-1])
        xx = x.T @ x + ridge * jnp.eye(x.shape[-1], dtype=x.dtype)
        return cls(jax.scipy.linalg.solve(xx, x.T @ y, assume_a="pos").T)

    @property
    def lag(self) -> int:
        """Frames that a prediction is made from."""
        pixels, inputs = self.coefficients.shape
        return (inputs - 1) // pixels

    def forecast(
        self, seen: Float[Array, "sequences frames pixels"], horizon: int
    ) -> Float[Array, "sequences horizon pixels"]:
        """What follows the frames seen; predictions are fed back as if seen.

        Raises:
            ValueError: for fewer frames than `lag`.
        """
        if seen.shape[1] < self.lag:
            raise ValueError(f"Autoregression: forecast needs {self.lag} frames, got {seen.shape[1]}")

        def step(window, _):
            flat = window.reshape(window.shape[0], -1)
            frame = join_columns(flat, bias=True) @ self.coefficients.T
            return jnp.concatenate([window[:, 1:], frame[:, None]], 1), frame

        _, frames = lax.scan(step, seen[:, -self.lag :], length=horizon)
        return jnp.moveaxis(frames, 0, 1)


def _inputs(frames, lag):
    """The `lag` frames before each frame but the first `lag`, and a one."""
    length = frames.shape[1] - lag
    windows = jnp.stack([frames[:, i : i + length] for i in range(lag)], 2)
    return join_columns(windows.reshape(*windows.shape[:2], -1), bias=True)
