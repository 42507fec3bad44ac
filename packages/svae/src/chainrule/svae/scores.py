"""How well a clustering agrees with another.

adjusted_rand(a, b)    1 for the same clusters under any names, 0 on average for random ones
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def adjusted_rand(a: Int[Array, " data"], b: Int[Array, " data"], clusters: int) -> Float[Array, ""]:
    """The adjusted Rand index: pairs that both clusterings keep together, beyond what chance does.

    Args:
        a, b: a cluster for each datum, from 0 to clusters - 1.
        clusters: the most there can be, in either.

    Returns:
        at most 1; NaN where chance leaves nothing to explain, as when both have a single cluster.

    Source: Hubert and Arabie, Comparing partitions, Journal of Classification 2 (1985).

    Example:
        >>> a = jnp.array([0, 0, 1, 1, 2, 2])
        >>> float(adjusted_rand(a, 2 - a, 3))
        1.0
    """
    table = jnp.zeros((clusters, clusters)).at[a, b].add(1)
    pairs = lambda counts: jnp.sum(counts * (counts - 1)) / 2
    together, in_a, in_b = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    by_chance = in_a * in_b / pairs(jnp.asarray(a.size, table.dtype))
    return (together - by_chance) / ((in_a + in_b) / 2 - by_chance)
