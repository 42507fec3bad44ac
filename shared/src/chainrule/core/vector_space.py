"""What the chain rule asks of the things it differentiates by: that they form a Hilbert space.

    VectorSpace                       the protocol: zeros, add, scale, inner, random
    PyTrees(example)                  pytrees of arrays like an example, the space of parameters
    check_vector_space(space, key)    whether a space obeys the laws

A derivative of f: V -> W at x needs addition and multiplication by real numbers, to say what it is, and
inner products, to say what its transpose is:

    J v = lim (f(x + t v) - f(x)) / t,        <J^T w, v> = <w, J v>.

Whatever has these can be moved along a gradient: arrays, pytrees of them, functions of a reproducing
kernel Hilbert space.

Source: the slides "User-defined types" of the talk The Chain Rule Unchained (D. Maclaurin); `VSpace` of
autograd.
"""

import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

V = TypeVar("V")


@runtime_checkable
class VectorSpace(Protocol[V]):
    """A Hilbert space over the real numbers, whose vectors are of some type V.

    A complex space is one as well, with the inner product Re <x, y>.
    """

    def zeros(self) -> V:
        """The vector 0."""
        ...

    def add(self, x: V, y: V) -> V:
        """x + y."""
        ...

    def scale(self, c: ArrayLike, x: V) -> V:
        """c x, for a real number c."""
        ...

    def inner(self, x: V, y: V) -> Float[Array, ""]:
        """<x, y>, a real number."""
        ...

    def random(self, key: Key[Array, ""]) -> V:
        """Some vector, generic: every law is to be tried on it."""
        ...


@dataclasses.dataclass(frozen=True)
class PyTrees:
    """The pytrees with the structure, shapes and dtypes of an example.

    The inner product is Re sum conj(x_i) y_i over all numbers in all leaves, summed in float32 at least.

    Args:
        example: a pytree of floating or complex arrays, numbers or `jax.ShapeDtypeStruct`s; its values do
            not matter.

    Example:
        >>> space = PyTrees({"w": jnp.ones((2, 3)), "b": 0.0})
        >>> x = space.random(jax.random.key(0))
        >>> print(space.inner(space.add(x, space.scale(-1.0, x)), x))
        0.0
    """

    example: PyTree

    def __post_init__(self):
        def struct(path, x):
            dtype = jnp.result_type(x)
            if not jnp.issubdtype(dtype, jnp.inexact):
                raise TypeError(
                    f"PyTrees: example{jax.tree_util.keystr(path)} is {dtype}, which cannot be scaled: keep "
                    "integers apart from what is a vector"
                )
            return jax.ShapeDtypeStruct(jnp.shape(x), dtype)

        object.__setattr__(self, "example", jax.tree_util.tree_map_with_path(struct, self.example))

    def zeros(self) -> PyTree:
        return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), self.example)

    def add(self, x: PyTree, y: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, x, y)

    def scale(self, c: ArrayLike, x: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.asarray(c, jnp.finfo(leaf.dtype).dtype) * leaf, x)

    def inner(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        dtype = jnp.result_type(jnp.float32, *(jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(x)))

        def of_leaves(x, y):
            wide = jnp.promote_types(x.dtype, dtype)
            return jnp.sum((jnp.conj(x.astype(wide)) * y.astype(wide)).real)

        return sum(jax.tree.leaves(jax.tree.map(of_leaves, x, y)), jnp.zeros((), dtype))

    def random(self, key: Key[Array, ""]) -> PyTree:
        """Standard normal numbers; for complex ones, E |x|^2 = 1."""
        leaves, tree = jax.tree.flatten(self.example)
        keys = jax.random.split(key, len(leaves))
        draws = (jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True))
        return tree.unflatten(draws)


def check_vector_space(space: VectorSpace, key: Key[Array, ""], *, rtol: float | None = None) -> None:
    """Try the laws of a real Hilbert space on random vectors and numbers.

    Addition commutes and associates, has a zero and negatives; scaling distributes over both sums, and is
    compatible with multiplication; the inner product is symmetric, linear and positive. Two vectors count
    as equal if they have equal inner products with a few random others.

    That would overlook what the inner product does not see. So, where vectors are pytrees, a random vector
    is also compared with itself after one floating leaf was replaced by that of another: <x - y, x - y>
    must be positive. Leaves that all random vectors have in common may be parameters of the space.

    Args:
        space: what to check.
        key: for the random vectors; also the space's own `random` is to depend on it.
        rtol: difference allowed between inner products, relative to the lengths; default 1000 roundings of
            the coarsest dtype of the inner product and the vectors' leaves, but at most half of its digits.

    Raises:
        AssertionError: naming the first law that does not hold.

    Example:
        >>> check_vector_space(PyTrees(jnp.ones(3)), jax.random.key(0))
    """
    keys = jax.random.split(key, 5)
    x, y, z, *probes = (space.random(k) for k in keys)
    probes += [x, y, z]
    add, scale, inner, zero = space.add, space.scale, space.inner, space.zeros()
    a, b = 0.75, -1.625  # few digits: products and sums of them are exact, in any precision
    if jnp.shape(inner(x, y)) != () or not jnp.isrealobj(inner(x, y)):
        raise AssertionError(f"<x, y> is not one real number: {inner(x, y)!r}")
    if rtol is None:
        numbers = inner(x, y), *(leaf for *_, leaf in _floating_leaves(x))
        eps = max(float(jnp.finfo(jnp.result_type(number)).eps) for number in numbers)
        rtol = min(1000 * eps, eps**0.5)

    def positive(v):
        return bool(inner(v, v) > 0) and bool(jnp.isfinite(inner(v, v)))

    def close(left, right, scale):
        return bool(abs(left - right) <= rtol * scale)

    def equal(left, right):
        size = jnp.sqrt(abs(inner(left, left))) + jnp.sqrt(abs(inner(right, right))) + jnp.sqrt(inner(x, x))
        return all(close(inner(left, p), inner(right, p), size * jnp.sqrt(inner(p, p))) for p in probes)

    def linear(v, w):
        combined, apart = inner(add(scale(a, v), scale(b, w)), z), a * inner(v, z) + b * inner(w, z)
        return close(combined, apart, jnp.sqrt((inner(v, v) + inner(w, w)) * inner(z, z)))

    size = jnp.sqrt(abs(inner(x, x) * inner(y, y)))
    laws = {
        "positivity: <x, x> > 0": all(map(positive, probes)),
        "symmetry: <x, y> = <y, x>": close(inner(x, y), inner(y, x), size),
        "the same key gives the same vector": equal(space.random(keys[0]), x),
        "another key gives another vector": not equal(y, x),
        "commutativity: x + y = y + x": equal(add(x, y), add(y, x)),
        "associativity: (x + y) + z = x + (y + z)": equal(add(add(x, y), z), add(x, add(y, z))),
        "zero: x + 0 = x": equal(add(x, zero), x),
        "zero: <0, x> = 0": close(inner(zero, x), 0, inner(x, x)),
        "unit: 1 x = x": equal(scale(1.0, x), x),
        "negatives: x + (-1) x = 0": equal(add(x, scale(-1.0, x)), zero),
        "annihilation: 0 x = 0": equal(scale(0.0, x), zero),
        "compatibility: a (b x) = (a b) x": equal(scale(a, scale(b, x)), scale(a * b, x)),
        "distributivity: a (x + y) = a x + a y": equal(scale(a, add(x, y)), add(scale(a, x), scale(a, y))),
        "distributivity: (a + b) x = a x + b x": equal(scale(a + b, x), add(scale(a, x), scale(b, x))),
        "linearity: <a x + b y, z> = a <x, z> + b <y, z>": linear(x, y),
    }
    for place, z in _with_one_leaf_of(x, y):
        difference = add(x, scale(-1.0, z))
        law = f"definiteness: <x - y, x - y> > 0 for x and y that differ in their leaf x{place}"
        laws[law] = bool(inner(difference, difference) > 0)
    for law, holds in laws.items():
        if not holds:
            raise AssertionError(f"{type(space).__name__} breaks a law of vector spaces: {law}")


def _with_one_leaf_of(x: V, y: V) -> list[tuple[str, V]]:
    """x with one floating leaf replaced by that of y, for each in which they differ, and its place."""
    leaves, tree = jax.tree.flatten(x)
    if jax.tree.structure(y) != tree:
        return []
    others = jax.tree.leaves(y)
    return [
        (place, tree.unflatten([*leaves[:i], others[i], *leaves[i + 1 :]]))
        for i, place, leaf in _floating_leaves(x)
        if jnp.shape(leaf) == jnp.shape(others[i]) and jnp.any(leaf != others[i])
    ]


def _floating_leaves(x: V) -> list[tuple[int, str, Any]]:
    """Their numbers, places and values; none for vectors that are no pytrees of arrays."""
    described = jax.tree_util.tree_leaves_with_path(x)
    return [
        (i, jax.tree_util.keystr(path), leaf)
        for i, (path, leaf) in enumerate(described)
        if isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)
        and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
