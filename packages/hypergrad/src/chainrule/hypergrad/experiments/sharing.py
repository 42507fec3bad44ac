"""Networks for several tasks, whose weights are mixtures of shared ones.

One can
- have the mixing matrix for a given correlation between tasks (`sharing_matrix`),
- draw latent weights (`init`) and mix them (`mixed`),
- have the negative log-likelihood of each task, or its share of errors (`task_nlls`, `task_errors`).

In each layer, task t has the weights

    w_t = sum over s of T[t, s] z_s,

T being one matrix for the layer, and z_s as many latent sets of weights as there are tasks. What is trained
is z; T is fixed in a training. The identity keeps tasks separate. A T of equal rows ties them. In between,
T T' says how one task's gradient moves another's weights.

Source: Maclaurin et al., section 4.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from chainrule.hypergrad.experiments.divisions import Drawings

IMPOSSIBLE = -1e9  # a logit; its exponential is zero, and its derivative a number
Layers = list[dict[str, Array]]  # {"w": [tasks, inputs, outputs], "b": [tasks, outputs]}


def sharing_matrix(tasks: int, correlation: float) -> Float[np.ndarray, "tasks tasks"]:
    """The symmetric T for which T T' is 1 on its diagonal and the correlation off it.

    0 keeps tasks separate, 1 ties them; of latent weights of unit variance, all make mixtures of the same.
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"sharing: a correlation of {correlation} between tasks must be from 0 to 1")
    mean = np.full((tasks, tasks), 1 / tasks)
    common, own = np.sqrt(1 + (tasks - 1) * correlation), np.sqrt(1 - correlation)
    return (common * mean + own * (np.eye(tasks) - mean)).astype(np.float32)


def init(key: Array, tasks: int, widths: Sequence[int], log_scales: Float[Array, " layers"]) -> Layers:
    """Normal latent weights, of standard deviation exp(log_scale) in each layer, and biases of zero."""
    layers = []
    for number, shape in enumerate((tasks, *pair) for pair in itertools.pairwise(widths)):
        weights = jax.random.normal(jax.random.fold_in(key, number), shape, log_scales.dtype)
        biases = jnp.zeros(shape[::2], log_scales.dtype)
        layers.append({"w": jnp.exp(log_scales[number]) * weights, "b": biases})
    return layers


def mixed(sharing: Sequence[Float[Array | np.ndarray, "tasks tasks"]], latent: Layers) -> Layers:
    """The weights of the tasks, by one matrix for each layer."""
    return [
        jax.tree.map(lambda z, matrix=matrix: jnp.tensordot(matrix, z, 1), layer)
        for matrix, layer in zip(sharing, latent, strict=True)
    ]


def task_nlls(layers: Layers, drawings: Drawings) -> Float[Array, " tasks"]:
    """Mean negative log-likelihood of the characters, in nats."""
    of_their_own = jnp.diagonal(_log_probabilities(layers, drawings), axis1=1, axis2=3)
    return -jnp.mean(of_their_own, (1, 2), where=drawings.exists[:, None])


def task_errors(layers: Layers, drawings: Drawings) -> Float[Array, " tasks"]:
    """The share of drawings that are taken for another character of their alphabet."""
    taken_for = jnp.argmax(_log_probabilities(layers, drawings), 3)
    wrong = taken_for != jnp.arange(taken_for.shape[1])[None, :, None]
    return jnp.mean(wrong, (1, 2), where=drawings.exists[:, :, None])


def _log_probabilities(
    layers: Layers, drawings: Drawings
) -> Float[Array, "tasks characters drawings characters"]:
    """The last layer is as wide as the largest alphabet needs; what others do not have is never likely."""
    tasks, characters, count, pixels = drawings.pixels.shape
    x = drawings.pixels.reshape(tasks, characters * count, pixels)
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][:, None])
    logits = x @ layers[-1]["w"] + layers[-1]["b"][:, None]
    log_p = jax.nn.log_softmax(jnp.where(drawings.exists[:, None], logits, IMPOSSIBLE))
    return log_p.reshape(tasks, characters, count, characters)
