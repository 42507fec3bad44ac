"""Distributions that parameters are drawn from.

Prior                    the protocol: sample, log_density, entropy
Gaussian(mean, scale)    independent normal numbers, in any pytree
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree


@runtime_checkable
class Prior(Protocol):
    """A normalised distribution over parameters, any pytree of floating arrays."""

    def sample(self, key: Key[Array, ""]) -> PyTree:
        """One draw."""
        ...

    def log_density(self, params: PyTree) -> Float[Array, ""]:
        """log p(params), in nats, with its normalising constant: an evidence is compared by it."""
        ...

    def entropy(self) -> Float[Array, ""]:
        """-E log p, in nats."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Independent normal numbers: mean + scale * N(0, 1).

    Args:
        mean: a pytree of floating arrays; draws are like it.
        scale: standard deviations, positive: one number, or a pytree of numbers or arrays, one for each leaf
            of mean, or for each of its branches.

    Example:
        >>> prior = Gaussian({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}, {"w": 0.5, "b": 1.0})
        >>> print(f"{prior.entropy():.4f}")
        8.6116
    """

    mean: PyTree
    scale: PyTree

    def sample(self, key: Key[Array, ""]) -> PyTree:
        means, tree = jax.tree.flatten(self.mean)
        keys = tree.unflatten(jax.random.split(key, len(means)))

        def draw(key, mean, scale):
            return mean + scale * jax.random.normal(key, jnp.shape(mean), jnp.result_type(mean))

        return jax.tree.map(draw, keys, self.mean, self._scales())

    def log_density(self, params: PyTree) -> Float[Array, ""]:
        def of_leaf(x, mean, scale):
            return -jnp.sum(((x - mean) / scale) ** 2 / 2 + jnp.log(scale) + math.log(2 * math.pi) / 2)

        return _sum(jax.tree.map(of_leaf, params, self.mean, self._scales()))

    def entropy(self) -> Float[Array, ""]:
        def of_leaf(scale):
            return jnp.sum(jnp.log(scale) + (1 + math.log(2 * math.pi)) / 2)

        return _sum(jax.tree.map(of_leaf, self._scales()))

    def _scales(self) -> PyTree:
        """The scale of every number."""

        def spread(scale, branch):
            like = lambda x: jnp.broadcast_to(jnp.asarray(scale, jnp.result_type(x)), jnp.shape(x))
            return jax.tree.map(like, branch)

        return jax.tree.map(spread, self.scale, self.mean)


def _sum(tree: PyTree) -> Float[Array, ""]:
    return sum(jax.tree.leaves(tree), jnp.zeros(()))
