"""The networks of the experiments: one layer of tanh units.

One can
- have a prior for a network of given widths, all of one scale (`unit_prior`), or a scale for each layer
  (`layer_prior`),
- compute its outputs (`outputs`),
- have the log likelihood of classes (`class_log_likelihood`), or of numbers with normal noise
  (`number_log_likelihood`).

A layer's weights are of the scale 1 / sqrt(inputs). Where that stands makes no difference to the prior over
functions, but it does to gradient descent: with a unit prior the network multiplies, and one learning rate
suits all widths; with a layer's prior, as usual and as in the paper, wide layers learn faster.
"""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.inference.entropic import Gaussian
from chainrule.inference.experiments.data import Rows

Layers = list[tuple[Array, Array]]  # weights [inputs, units] and biases [units] of each
BIAS_SCALE = 0.5  # half of what the weights of a layer together contribute


def unit_prior(widths: Sequence[int]) -> Gaussian:
    """N(0, 1) for every weight and bias; widths from inputs to outputs. Its outputs need a gain."""
    return Gaussian(_zeros(widths), 1.0)


def layer_prior(widths: Sequence[int]) -> Gaussian:
    """Weights of the scale 1 / sqrt(inputs), biases of half of 1."""
    return Gaussian(_zeros(widths), [(width**-0.5, BIAS_SCALE) for width in widths[:-1]])


def _zeros(widths: Sequence[int]) -> Layers:
    return [(jnp.zeros(pair, jnp.float32), jnp.zeros(pair[1], jnp.float32)) for pair in pairwise(widths)]


def outputs(
    layers: Layers, inputs: Float[Array, "rows inputs"], gain: ArrayLike | None = None
) -> Float[Array, "rows outputs"]:
    """What the last layer says, before any nonlinearity.

    Args:
        gain: None for weights of `layer_prior`; for those of `unit_prior`, that of the first layer: how rough
            the function is.
    """
    for number, (weights, biases) in enumerate(layers):
        if gain is not None:
            weights = (1.0 if number else gain) / len(weights) ** 0.5 * weights
            biases = BIAS_SCALE * biases
        inputs = (jnp.tanh(inputs) if number else inputs) @ weights + biases[None]
    return inputs


def class_log_likelihood(scores: Float[Array, "rows classes"], rows: Rows) -> Float[Array, ""]:
    """Sum over rows of the log probability of their class, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), rows.targets[:, None], 1)
    return jnp.sum(chosen)


def number_log_likelihood(scores: Float[Array, "rows 1"], rows: Rows, noise: ArrayLike) -> Float[Array, ""]:
    """Sum over rows of the log density of their target, in nats."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(rows.targets, scores[:, 0], noise))
