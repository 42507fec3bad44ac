"""Loops within `jax.shard_map`, where what differs from device to device has a type of its own.

    varying_as(init, body)    the carry of a loop, with the types that a step gives it

A loop must return what it was given, in type as well. A start like zeros is the same on all devices; after a
step with a matrix that is not, it varies. JAX wants that said beforehand, by `jax.lax.pcast`.
"""

from collections.abc import Callable

import jax
from jax import lax
from jaxtyping import PyTree


def varying_as(init: PyTree, body: Callable[[PyTree], PyTree]) -> PyTree:
    """init, whose leaves vary along all the mesh axes that leaves of init or of body(init) vary along.

    Outside of `jax.shard_map` this is init, and body is not looked at.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return init
    leaves = jax.tree.leaves((init, jax.eval_shape(body, init)))
    axes = frozenset().union(*map(_varying, leaves))

    def cast(x):
        missing = tuple(axes - _varying(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, init)


def _varying(x) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
