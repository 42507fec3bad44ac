"""A block of atoms sum_i a_i k(x_i, .), and how two blocks are known to have the same points.

Block(points, coefficients, origin, count)
Which(array)                          which array it is: by its values, or by identity while they are traced
rearranged(equation, origins)         which arrays slices and reshapes of such arrays are
"""

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Operations that only move numbers about: the same ones on the same arrays have the same outcome.
_REARRANGEMENTS = frozenset(
    "slice dynamic_slice squeeze reshape expand_dims transpose broadcast_in_dim rev unstack split "
    "concatenate gather convert_element_type copy".split()
)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """sum_i a_i k(x_i, .); a pytree of the arrays, which forgets the origin."""

    points: Float[Array, "n dim"]
    coefficients: Float[Array, " n"]
    origin: Hashable = None  # which points they are, where more is known than the array
    count: Int[Array, ""] | None = None  # how many are atoms, the first ones; the rest are free places

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal for blocks that are known to have the same points in the same order."""
        if self.origin is not None:
            return self.origin
        return Which(self.points) if self.count is None else (Which(self.points), Which(self.count))

    @property
    def are_atoms(self) -> Bool[Array, " n"]:
        """Which rows are atoms, and no free places of a BufferedFun."""
        size = len(self.points)
        return jnp.arange(size) < (size if self.count is None else self.count)

    @property
    def parts(self) -> list[Any]:
        """What its values are made of, for their dtype."""
        return [self.points, self.coefficients]

    def scaled(self, factor: Any) -> "Block":
        return Block(self.points, factor * self.coefficients, self.key, self.count)

    def plus(self, other: Any) -> "Block":
        return Block(self.points, self.coefficients + other.coefficients, self.key, self.count)

    def __repr__(self) -> str:
        return f"{'x'.join(map(str, np.shape(self.coefficients)))} atoms"

    def tree_flatten_with_keys(self):
        return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _CHILDREN), None

    @classmethod
    def tree_unflatten(cls, _, children):
        block = object.__new__(cls)  # without a look at what JAX puts in the place of arrays
        for name, value in zip((*_CHILDREN, "origin"), (*children, None), strict=True):
            object.__setattr__(block, name, value)
        return block


_CHILDREN = ("points", "coefficients", "count")


class Which:
    """An array as a key. It holds the array, whose id would else go to another."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Which):
            return False
        if self.array is other.array or self._is_traced or other._is_traced:
            return self.array is other.array
        a, b = np.asarray(self.array), np.asarray(other.array)
        return a.dtype == b.dtype and np.array_equal(a, b)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self):
        return id(self.array) if self._is_traced else hash((np.asarray(self.array) + 0).tobytes())  # of -0, 0

    @property
    def _is_traced(self):
        return isinstance(self.array, jax.core.Tracer)


def rearranged(equation: Any, origins: Sequence[Hashable]) -> list[Hashable]:
    """Which arrays the outputs of an equation are, given which its inputs are; None where that is unknown."""
    params = tuple(sorted(equation.params.items(), key=lambda item: item[0]))
    known = equation.primitive.name in _REARRANGEMENTS and None not in origins and _is_hashable(params)
    name = equation.primitive.name
    return [(name, params, *origins, i) if known else None for i in range(len(equation.outvars))]


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True
