"""Pieces of a chain of Gaussians as elements of an associative product: the forward pass, in parallel.

A piece is one potential of the state x that enters it, and then one step to the state that leaves it,

    exp( w'U x - |U x|^2 / 2 ) N( x' ; A x + b , C ) ,

as a single frame with the step after it is. So a piece is a coarser frame of the same kind, and pieces
multiply: with N N' = C_1, K K' = I + U_2 C_1 U_2' and V = K^-1 U_2, the state between two pieces is
integrated out by

    J = U_1'U_1 + A_1' V'V A_1 ,   h = U_1'w_1 + A_1' V' K^-1 (w_2 - U_2 b_1) ,
    F F' = (C_1^-1 + U_2'U_2)^-1 ,   A = A_2 (I - F F' U_2'U_2) A_1 ,   C = A_2 F F' A_2' + C_2 ,
    b = A_2 (b_1 + F F' U_2'(w_2 - U_2 b_1)) + b_2 .

Prefixes of the product, put after the prior, give what is predicted of every state; the rest each frame does
by itself.

Source: Särkkä and García-Fernández, Temporal parallelization of Bayesian smoothers, 2021, in other variables.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from chainrule.svae.messages import _dense as dense

NOTHING = 1e-30  # the precision of a frame that says nothing, so that it has a square root


class Element(NamedTuple):
    """U, w, A, b and C of the module's formula."""

    U: Float[Array, "*pieces dim dim"]
    w: Float[Array, "*pieces dim"]
    A: Float[Array, "*pieces dim dim"]
    b: Float[Array, "*pieces dim"]
    C: Float[Array, "*pieces dim dim"]


def element(J, h, A, b, C) -> Element:
    """Of one frame, J full or diagonal, with h at centre zero, and the step after it."""
    J = jnp.diag(J) if J.ndim == 1 else J
    U, w = _root(J, h)
    return Element(U, w, A, b, C)


def combine(first: Element, second: Element) -> Element:
    """The product; first comes earlier."""
    U, w, A, b, C = second
    N = dense.cholesky(dense.guarded(first.C))
    UN = dense.product(U, N)
    K = dense.cholesky(dense.one_plus(dense.square(UN)))
    inverse = dense.inverse_lower(K)
    V = dense.product(inverse, U)
    left = w - dense.apply(U, first.b)
    told = dense.apply(inverse, left)

    M = dense.cholesky(dense.one_plus(dense.square(dense.transposed(UN))))
    F = dense.product(N, dense.transposed(dense.inverse_lower(M)))
    gain = dense.product(F, dense.transposed(dense.product(U, F)))
    passed = dense.product(A, first.A - dense.product(gain, dense.product(U, first.A)))

    VA = dense.product(V, first.A)
    J = dense.square(dense.transposed(first.U)) + dense.square(dense.transposed(VA))
    h = dense.apply(first.U.T, first.w) + dense.apply(VA.T, told)
    U_new, w_new = _root(J, h)
    b = dense.apply(A, first.b + dense.apply(gain, left)) + b
    return Element(U_new, w_new, passed, b, dense.square(dense.product(A, F)) + C)


def _root(J, h):
    """U with U'U = J, and w with U'w = h."""
    J = dense.guarded(J) + NOTHING * jnp.eye(J.shape[-1], dtype=J.dtype)
    L = dense.cholesky(J)
    return L.T, dense.apply(dense.inverse_lower(L), h)


class Affine(NamedTuple):
    """The backward step x = G (x after) + k, k ~ N(mean, C), which multiplies as well."""

    G: Float[Array, "*pieces dim dim"]
    mean: Float[Array, "*pieces dim"]
    C: Float[Array, "*pieces dim dim"]


def combine_affine(first: Affine, second: Affine) -> Affine:
    mean = first.mean + dense.apply(first.G, second.mean)
    GC = dense.product(first.G, second.C)
    C = dense.symmetric(first.C + dense.product(GC, first.G.T))
    return Affine(dense.product(first.G, second.G), mean, C)
