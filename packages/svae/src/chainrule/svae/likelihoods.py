"""What is seen of a frame, given what the decoder says: densities of data, pixel by pixel.

Normal(scale)    outputs are means; the noise is learned, one scale for all, unless it is known
Bernoulli()      outputs are log odds of a pixel being on

A likelihood has init() -> params, log_prob(params, outputs, y), entry by entry, mean(params, outputs) and
sample(key, params, outputs).
"""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

HALF_LOG_2PI = math.log(2 * math.pi) / 2


@runtime_checkable
class Likelihood(Protocol):
    """A density of data given outputs of a decoder."""

    def init(self) -> PyTree:
        """Parameters of its own."""
        ...

    def log_prob(self, params: Any, outputs: Array, y: Array) -> Array:
        """log p of each entry of y, in nats."""
        ...

    def mean(self, params: Any, outputs: Array) -> Array:
        """E y."""
        ...

    def sample(self, key: Key[Array, ""], params: Any, outputs: Array) -> Array:
        """A draw of each entry of y."""
        ...


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal noise of one scale, which is learned with the networks, or known.

    Raises:
        ValueError: for a scale that is not above 0.
    """

    scale: float = 0.3  # standard deviation to start from, in units of the data
    learned: bool = True  # if not, it stays what it is

    def __post_init__(self):
        if not self.scale > 0:
            raise ValueError(f"Normal: scale must be above 0, got {self.scale}")

    def init(self) -> Float[Array, ""]:
        """The logarithm of the scale."""
        return jnp.log(jnp.asarray(self.scale, float))  # not weakly typed, or a step would compile twice

    def log_prob(self, params: Float[Array, ""], outputs: Array, y: Array) -> Array:
        """log p of each entry of y, in nats."""
        log_scale = params if self.learned else lax.stop_gradient(params)
        return -(((y - outputs) * jnp.exp(-log_scale)) ** 2) / 2 - log_scale - HALF_LOG_2PI

    def mean(self, params: Float[Array, ""], outputs: Array) -> Array:
        """The outputs."""
        return outputs

    def sample(self, key: Key[Array, ""], params: Float[Array, ""], outputs: Array) -> Array:
        """The outputs, with noise."""
        return outputs + jnp.exp(params) * jax.random.normal(key, outputs.shape, outputs.dtype)


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Pixels that are on or off; those in between count as a part of both."""

    def init(self) -> tuple[()]:
        """Nothing."""
        return ()

    def log_prob(self, params: tuple[()], outputs: Array, y: Array) -> Array:
        """log p of each entry of y, in nats."""
        return y * jax.nn.log_sigmoid(outputs) + (1 - y) * jax.nn.log_sigmoid(-outputs)

    def mean(self, params: tuple[()], outputs: Array) -> Array:
        """Probabilities of being on."""
        return jax.nn.sigmoid(outputs)

    def sample(self, key: Key[Array, ""], params: tuple[()], outputs: Array) -> Array:
        """One or zero."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(outputs.dtype)
