"""The networks of the experiments: one layer of tanh units, whose weights all have the prior N(0, 1).

One can
- have the prior of a network of given widths (`prior`),
- compute its outputs (`outputs`),
- have the log likelihood of classes (`class_log_likelihood`), or of numbers with normal noise
  (`number_log_likelihood`).

The scale of a layer stands in the network, gain / sqrt(inputs), not in the prior. To gradient descent that is
not the same: with all weights of one scale, one learning rate suits all layers and widths.
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


def prior(widths: Sequence[int]) -> Gaussian:
    """N(0, 1) for every weight and bias; widths from inputs to outputs."""
    return Gaussian(
        [(jnp.zeros(pair, jnp.float32), jnp.zeros(pair[1], jnp.float32)) for pair in pairwise(widths)], 1.0
    )


def outputs(
    layers: Layers, inputs: Float[Array, "rows inputs"], gain: ArrayLike = 1.0
) -> Float[Array, "rows outputs"]:
    """What the last layer says, before any nonlinearity.

    Args:
        gain: of the first layer: how rough the function is.
    """
    gains = [gain, *[1.0] * (len(layers) - 1)]
    for number, ((weights, biases), scale) in enumerate(zip(layers, gains, strict=True)):
        inputs = jnp.tanh(inputs) if number else inputs
        inputs = scale / len(weights) ** 0.5 * (inputs @ weights) + BIAS_SCALE * biases[None]
    return inputs


def class_log_likelihood(scores: Float[Array, "rows classes"], rows: Rows) -> Float[Array, ""]:
    """Sum over rows of the log probability of their class, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), rows.targets[:, None], 1)
    return jnp.sum(chosen)


def number_log_likelihood(scores: Float[Array, "rows 1"], rows: Rows, noise: ArrayLike) -> Float[Array, ""]:
    """Sum over rows of the log density of their target, in nats."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(rows.targets, scores[:, 0], noise))
