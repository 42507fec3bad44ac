"""All prefixes e_1, e_1 e_2, e_1 e_2 e_3, ... of an associative product, many at once.

"chunked" cuts the sequence into pieces of about the root of its length, and goes along all pieces at once:
twice the work, in two loops of the root's length. "associative" doubles the reach of every prefix in each
round: log2(length) rounds of work on all. The program's size does not depend on the length.

Source: Hillis and Steele, Data parallel algorithms, 1986, for the second.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

METHODS = ("auto", "sequential", "chunked", "associative")


def chosen(name: str, method: str) -> str:
    """The method that "auto" stands for, or the word itself."""
    if method not in METHODS:
        raise ValueError(f"{name}: method is {method!r}: it must be one of {', '.join(METHODS)}")
    if method != "auto":
        return method
    return "sequential" if jax.default_backend() == "cpu" else "associative"


def prefixes(combine: Callable, elements: PyTree, method: str, *, reverse: bool = False) -> PyTree:
    """Products of the first 1, 2, ... elements; or, in reverse, of the last ones, up to each element.

    combine(a, b) is the product of single elements, a coming first along the axis, and elements have a
    leading axis.
    """
    if reverse:
        flip = lambda tree: jax.tree.map(lambda x: x[::-1], tree)
        return flip(prefixes(lambda a, b: combine(b, a), flip(elements), method))
    return (_chunked if method == "chunked" else _doubling)(combine, elements)


def _chunked(combine, elements):
    length = len(jax.tree.leaves(elements)[0])
    size = math.isqrt(length - 1) + 1
    chunks = -(-length // size)
    more = chunks * size - length
    pad = lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (more, *x.shape[1:]))])
    cut = jax.tree.map(lambda x: pad(x).reshape(chunks, size, *x.shape[1:]), elements)
    within = jax.vmap(lambda chunk: _scan(combine, chunk))(cut)
    ends = _scan(combine, jax.tree.map(lambda x: x[:, -1], within))
    before = jax.tree.map(lambda x: x[:-1], ends)
    later = jax.tree.map(lambda x: x[1:], within)
    across = jax.vmap(lambda a, bs: jax.vmap(lambda b: combine(a, b))(bs))(before, later)
    join = lambda first, rest: jnp.concatenate([first[:1], rest]).reshape(-1, *first.shape[2:])[:length]
    return jax.tree.map(join, within, across)


def _scan(combine, elements):
    def step(total, element):
        total = combine(total, element)
        return total, total

    first, rest = (jax.tree.map(lambda x, i=i: x[i], elements) for i in (0, slice(1, None)))
    others = lax.scan(step, first, rest)[1]
    return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, others)


def _doubling(combine, elements):
    length = len(jax.tree.leaves(elements)[0])
    index = jnp.arange(length)

    def a_round(k, elements):
        reach = 2**k
        earlier = jax.tree.map(lambda x: jnp.roll(x, reach, axis=0), elements)
        product = jax.vmap(combine)(earlier, elements)
        keep = lambda new, old: jnp.where((index >= reach).reshape(-1, *[1] * (old.ndim - 1)), new, old)
        return jax.tree.map(keep, product, elements)

    return lax.fori_loop(0, (length - 1).bit_length(), a_round, elements)
