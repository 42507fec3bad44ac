"""Pytrees as flat vectors, and the few operations that Krylov methods are made of.

Flat(name, matvec, like)    ravel, unravel, and matvec between flat vectors
length(x)                   |x|
coefficients(V, w)          <v_i, w> for all rows of V
combination(V, h)           sum_i h_i v_i
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Inexact, PyTree

HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


def coefficients(V: Inexact[Array, "steps n"], w: Inexact[Array, " n"]) -> Inexact[Array, " steps"]:
    return jnp.matmul(V, w.conj(), precision=HIGHEST).conj()


def combination(V: Inexact[Array, "steps n"], h: Inexact[Array, " steps"]) -> Inexact[Array, " n"]:
    return jnp.matmul(h, V, precision=HIGHEST)


def length(x: Inexact[Array, " n"]) -> Float[Array, ""]:
    """The 2-norm, where squares would overflow, too."""
    unit = lax.stop_gradient(jnp.max(jnp.abs(x)))
    unit = jnp.where(unit > 0, unit, 1)
    return unit * jnp.sqrt(jnp.sum(jnp.abs(x / unit) ** 2))


@jax.custom_jvp
def eigh(T: Float[Array, "steps steps"]) -> tuple[Float[Array, " steps"], Float[Array, "steps steps"]]:
    """Eigenvalues, rising, and eigenvectors of a symmetric matrix, in vmap lanes one after the other.

    All at once is what `jax.numpy.linalg.eigh` does. On a CPU of two cores that takes twice as long, and
    may never end: jaxlib 0.10 to 0.12 wait for each other's threads.
    """
    return sequential_vmap(lambda T: tuple(jnp.linalg.eigh(T)))(T)


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    theta, S = eigh(*primals)
    turned = S.T @ tangents[0] @ S
    gaps = theta[None, :] - theta[:, None] + jnp.eye(theta.size, dtype=theta.dtype)
    rotation = turned / gaps * (1 - jnp.eye(theta.size, dtype=theta.dtype))
    return (theta, S), (jnp.diag(turned), S @ rotation)


class Flat:
    """Pytrees like `like` as flat vectors of one dtype, at least float32; matvec as a function of those."""

    def __init__(self, name: str, matvec: Callable[[PyTree], PyTree], like: PyTree):
        describe = lambda tree: jax.tree.map(lambda x: f"{_struct(x).dtype}{[*jnp.shape(x)]}", tree)
        leaves, self.tree = jax.tree.flatten(jax.tree.map(_struct, like))
        described = describe(like)
        self.leaves, self.size = leaves, sum(leaf.size for leaf in leaves)
        if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves) or not self.size:
            raise TypeError(f"{name}: vectors are pytrees of floating or complex arrays, got {described}")
        self.dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves))
        self.eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)  # of what matvec returns
        image = describe(jax.eval_shape(matvec, self.tree.unflatten(leaves)))
        if image != described:
            raise TypeError(
                f"{name}: matvec makes {image} of {describe(like)}: make it return what it is given"
            )
        self.matvec = lambda v: self.ravel(matvec(self.unravel(v)))

    def ravel(self, v: PyTree) -> Inexact[Array, " n"]:
        return jnp.concatenate([jnp.ravel(leaf).astype(self.dtype) for leaf in jax.tree.leaves(v)])

    def unravel(self, flat: Inexact[Array, " n"]) -> PyTree:
        ends = np.cumsum([leaf.size for leaf in self.leaves])
        pairs = zip(jnp.split(flat, ends[:-1]), self.leaves, strict=True)
        return self.tree.unflatten(part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in pairs)


def _struct(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype if hasattr(x, "dtype") else jnp.result_type(x))
