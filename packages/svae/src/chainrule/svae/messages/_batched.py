"""Two ways to compute the same: one for a single call, and one for a batch of them under jax.vmap."""

from collections.abc import Callable

import jax
from jax.custom_batching import custom_vmap


def one_or_many(one: Callable, many: Callable, differentiable: Callable) -> Callable:
    """A function that is one(*args), and under jax.vmap many(axes)(*args).

    axes are like those of jax.vmap: 0 for an array with a leading axis of the batch, None for one without.
    What many gives has that axis. The third is one(*args) again, for derivatives: rules for batches cannot
    be transposed.
    """

    @custom_vmap
    def batched(*args):
        return one(*args)

    @batched.def_vmap
    def rule(size, in_batched, *args):
        found = many(tuple(0 if yes else None for yes in in_batched))(*args)
        return found, jax.tree.map(lambda _: True, found)

    @jax.custom_jvp
    def function(*args):
        return batched(*args)

    @function.defjvp
    def pushforward(primals, tangents):
        return jax.jvp(differentiable, primals, tangents)

    return function
