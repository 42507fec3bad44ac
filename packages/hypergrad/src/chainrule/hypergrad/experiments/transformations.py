"""What is done to images before a network sees them, with parameters that have derivatives.

One can
- have the transformation that does nothing, nearly (`plain`),
- transform images, for training with shifts and noise drawn by a key, else without (`transform`).

Blur and gains are the same whenever an image is seen; shifts and noise are new each time, in training. Blurs
and shifts act on columns and on rows: an image X becomes A X B', with a matrix for each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LEAST = -2.0  # logarithm of a blur, shift or noise that does next to nothing

Parameters = dict[str, Array]
"""log_blur: of its standard deviation in pixels. log_shift: of that of random shifts, in pixels. log_noise:
of that of noise, in standard deviations of the pixels. log_gains: a factor for each pixel."""


def plain(pixels: int) -> Parameters:
    strengths = dict.fromkeys(("log_blur", "log_shift", "log_noise"), jnp.float32(LEAST))
    return {**strengths, "log_gains": jnp.zeros(pixels, jnp.float32)}


def transform(
    parameters: Parameters, images: Float[Array, "rows pixels"], key: Array | None
) -> Float[Array, "rows pixels"]:
    """As seen in training if there is a key, else as seen in use."""
    side = round(images.shape[1] ** 0.5)
    square = images.reshape(-1, side, side)
    blur = _blur(parameters["log_blur"], side)
    square = jnp.einsum("ij,rjk,lk->ril", blur, square, blur)
    if key is not None:
        shift_key, noise_key = jax.random.split(key)
        shifts = jnp.exp(parameters["log_shift"]) * jax.random.normal(
            shift_key, (2, len(square)), square.dtype
        )
        down, right = jax.vmap(jax.vmap(_shift, (0, None)), (0, None))(shifts, side)
        square = jnp.einsum("rij,rjk,rlk->ril", down, square, right)
        square += jnp.exp(parameters["log_noise"]) * jax.random.normal(noise_key, square.shape, square.dtype)
    return jnp.exp(parameters["log_gains"])[None] * square.reshape(images.shape)


def _blur(log_blur: Array, side: int) -> Float[Array, "side side"]:
    """Each row a Gaussian around its place, cut off at the border."""
    return jax.nn.softmax(-0.5 * (_distances(side) / jnp.exp(log_blur)) ** 2, axis=1)


def _shift(by: Array, side: int) -> Float[Array, "side side"]:
    """Linear interpolation between pixels; zero, which is the mean image, comes in from outside."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(_distances(side) - by))


def _distances(side: int) -> Float[Array, "side side"]:
    places = jnp.arange(side, dtype=jnp.float32)
    return places[None, :] - places[:, None]
