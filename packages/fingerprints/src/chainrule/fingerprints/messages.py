"""Layers of messages: what became of Algorithm 2's convolution, for the same fingerprint.

One can
- run atoms through such layers (`message_layers` with `MessageWeights`), which
  `neural_fingerprint` and `NeuralFingerprint(variant="messages")` do.

The writes are the talk's. What changes is how an atom takes in its neighbours:

    z = norm(r)
    m_a = sum_i relu(z_i M_L + b_ai B_L + c_L)     every bond speaks for itself, before the sum
    r_a <- r_a + relu([z_a, m_a] U_L + u_L)        an update is added to what was there

where i runs over the neighbours of a, b_ai are the features of the bond between them, and norm makes
mean 0 and variance 1 of an atom's own features, so that nothing depends on its company in a batch. The
first r is relu(x E + e) of the atom features x, and is written too.

Source: bond messages: Gilmer et al., ICML 2017, and Hu et al., ICLR 2020 (relu of atom plus bond);
residual updates: He et al., CVPR 2016; norm: Ba, Kiros and Hinton, 2016 (without gain and offset).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from chainrule.fingerprints.batches import own_rows
from chainrule.fingerprints.environments import Batch


class Linear(NamedTuple):
    """x -> x kernel + bias."""

    kernel: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __call__(self, x: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
        return x @ self.kernel + self.bias[None]


class Message(NamedTuple):
    """Weights of one layer."""

    atom: Linear  # M_L and c_L
    bond_kernel: Float[Array, "bond_features width"]  # B_L
    update: Linear  # U_L and u_L, of an atom's own features and its message


class MessageWeights(NamedTuple):
    """All weights of a fingerprint: one more write than layers."""

    embedding: Linear  # E and e
    convolutions: tuple[Message, ...]
    writes: tuple[Linear, ...]


def message_layers(
    weights: MessageWeights, batch: Batch, *, activation: Callable[[Array], Array] = jax.nn.relu
) -> list[Float[Array, "_ width"]]:
    """The normalised features of every atom, before the first layer and after each."""
    dtype = weights.embedding.bias.dtype
    bonds = jnp.asarray(batch.bonds, dtype)
    atoms = activation(weights.embedding(jnp.asarray(batch.atoms, dtype)))
    layers = [normalized(atoms)]
    surroundings = batch.layers(len(weights.convolutions))
    for (atom, bond_kernel, update), layer in zip(weights.convolutions, surroundings, strict=True):
        spoken, along = atom(layers[-1]), bonds @ bond_kernel
        messages = [
            activation(spoken[neighbor] + along[bond]).sum(axis=1)
            for neighbor, bond in zip(layer.neighbors, layer.incident, strict=True)
        ]
        own_and_message = jnp.concatenate([own_rows(layer, layers[-1]), jnp.concatenate(messages)], axis=1)
        atoms = own_rows(layer, atoms) + activation(update(own_and_message))
        layers.append(normalized(atoms))
    return layers


def normalized(rows: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    """Every row with mean 0 and variance 1; a row of equal entries becomes zero."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows * jax.lax.rsqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
