"""Perceptrons as plain pytrees: what the experiments train.

One can
- draw initial weights, with a scale for each layer (`init`),
- have logits, their negative log-likelihood and the share of errors (`logits`, `nll`, `error`).

The parameters are a list of layers {"w": [inputs, outputs], "b": [outputs]}, so that a list with a schedule
for each layer, or for the weights and biases of each, is a prefix of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Layers = list[dict[str, Array]]


def init(key: Array, widths: Sequence[int], log_scales: Float[Array, " layers"]) -> Layers:
    """Normal weights and biases, in each layer of standard deviation exp(log_scale).

    Args:
        widths: of input, hidden layers and output.
        log_scales: derivatives flow to them, and their dtype is that of the weights.
    """
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight_key, bias_key = jax.random.split(jax.random.fold_in(key, number))
        scale = jnp.exp(log_scales[number])
        layers.append(
            {
                "w": scale * jax.random.normal(weight_key, (inputs, outputs), scale.dtype),
                "b": scale * jax.random.normal(bias_key, (outputs,), scale.dtype),
            }
        )
    return layers


def logits(layers: Layers, x: Float[Array, "rows inputs"]) -> Float[Array, "rows classes"]:
    """tanh between layers."""
    *hidden, last = layers
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ last["w"] + last["b"][None]


def nll(layers: Layers, x: Float[Array, "rows inputs"], labels: Int[Array, " rows"]) -> Float[Array, ""]:
    """The mean negative log-likelihood of the labels, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(layers, x)), labels[:, None], axis=1)
    return -jnp.mean(chosen)


def error(layers: Layers, x: Float[Array, "rows inputs"], labels: Int[Array, " rows"]) -> Float[Array, ""]:
    """The share of rows whose most likely class is not the label's."""
    return jnp.mean(jnp.argmax(logits(layers, x), axis=1) != labels)
