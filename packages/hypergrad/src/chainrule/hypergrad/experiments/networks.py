"""Perceptrons as plain pytrees: what the experiments train.

One can
- begin at zero (`zeros`), or draw initial weights (`init`), with scales by the usual rule (`fan_in`) or one
  for all (`common`),
- have logits, their negative log-likelihood and the share of errors (`logits`, `nll`, `error`),
- name each of the arrays (`names`).

The parameters are a list of layers {"w": [inputs, outputs], "b": [outputs]}, so that a list with a schedule
for each layer, or for the weights and biases of each, is a prefix of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

Layers = list[dict[str, Array]]  # weights w and biases b of each
LogScales = list[dict[str, ArrayLike]]  # a number for each of these


def init(key: Array, widths: Sequence[int], log_scales: LogScales) -> Layers:
    """Normal numbers, in each array of standard deviation exp(log_scale), to which derivatives flow.

    Args:
        widths: of input, hidden layers and output.
        log_scales: as `fan_in` and `common` make them; the weights have their dtype.
    """
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layer: dict[str, Array] = {}
        array_keys = jax.random.split(jax.random.fold_in(key, number))
        for name, shape, array_key in zip("wb", [(inputs, outputs), (outputs,)], array_keys, strict=True):
            scale = jnp.exp(log_scales[number][name])
            layer[name] = scale * jax.random.normal(array_key, shape, scale.dtype)
        layers.append(layer)
    return layers


def zeros(widths: Sequence[int]) -> Layers:
    """From where a convex problem is begun, that of a single layer."""
    shapes = itertools.pairwise(widths)
    return [{"w": jnp.zeros(shape, jnp.float32), "b": jnp.zeros(shape[1], jnp.float32)} for shape in shapes]


def fan_in(widths: Sequence[int]) -> LogScales:
    """One over the square root of the number of inputs: activations keep their size from layer to layer."""
    return [dict.fromkeys("wb", np.float32(-0.5 * np.log(inputs))) for inputs in widths[:-1]]


def common(widths: Sequence[int], log_scale: ArrayLike) -> LogScales:
    """The same for all."""
    return [dict.fromkeys("wb", jnp.asarray(log_scale, jnp.float32)) for _ in widths[:-1]]


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


def names(layers: int) -> list[str]:
    """Of the arrays of so many layers, in the order of `jax.tree.leaves`."""
    return [f"layer {number}, {part}" for number in range(1, layers + 1) for part in ("biases", "weights")]
