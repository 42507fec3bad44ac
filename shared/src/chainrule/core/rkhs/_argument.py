"""The function that a loss is differentiated with respect to, as the loss sees it: known by its uses alone.

Argument(token, weight, ...)      weight * f, for an f without points or coefficients to read
evaluate_argument(a, x)           weight * f(x): in the jaxpr of the loss, an equation of the primitive `site`
inner_of_arguments(a, b)          weight * weight' * <f, f'>, likewise

The token is the one array that stands for f. Uses of f take it as an operand, jit and scan hand it on,
`stop_gradient` stops it; anything else that a loss does with it is found and refused by `_sites`.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.core.rkhs._pytree import register, static

TOKEN = jax.ShapeDtypeStruct((), jnp.float32)


@register
class Argument:
    """weight * f."""

    token: Any
    weight: Any
    depth: int = static()  # of nested functional gradients: each runs its own sites and leaves the others
    which: int = static()  # of the functions that this gradient is with respect to
    dtype: np.dtype | None = static()  # of f; None if its values are of the dtype of x

    @property
    def key(self) -> Hashable:
        return (self.depth, self.which, id(self.token))

    @property
    def parts(self) -> list[Any]:
        """What its values are made of, for their dtype."""
        like_f = [] if self.dtype is None else [jax.ShapeDtypeStruct((), self.dtype)]
        return [self.weight, *like_f]

    def scaled(self, factor: ArrayLike) -> "Argument":
        return dataclasses.replace(self, weight=factor * self.weight)

    def plus(self, other: Any) -> "Argument":
        return dataclasses.replace(self, weight=self.weight + other.weight)

    def __repr__(self) -> str:
        return "the function that a loss is differentiated with respect to"


def evaluate_argument(a: Argument, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
    """weight * f(x)."""
    dtype = x.dtype if a.dtype is None else jnp.result_type(x.dtype, a.dtype)
    return a.weight * site.bind(a.token, x, depth=a.depth, which=(a.which,), dtype=dtype)


def inner_of_arguments(a: Argument, b: Argument) -> Float[Array, ""]:
    """weight * weight' * <f, f'>."""
    if a.depth != b.depth:
        raise NotImplementedError(
            "rkhs.grad: within a functional gradient within another, the inner loss takes the inner product "
            "of both functions. Way out: give the inner loss one of them as a sum of atoms"
        )
    strong = [dtype for dtype in (a.dtype, b.dtype) if dtype is not None]
    dtype = jnp.result_type(*strong) if strong else jnp.result_type(float)
    both = site.bind(a.token, b.token, depth=a.depth, which=(a.which, b.which), dtype=dtype)
    return a.weight * b.weight * both


# Of a token and points: f(points), with one number in `which`. Of two tokens: <f, f'>, with two.
site = Primitive("rkhs_site")


@site.def_abstract_eval
def _(_, x, *, depth, which, dtype):
    return jax.core.ShapedArray(x.shape[:-1] if len(which) == 1 else x.shape, dtype)


@site.def_impl
def _(*operands, depth, which, dtype):
    raise RuntimeError(
        "rkhs.grad: the function that a loss was given was used outside of the loss. Way out: use it inside; "
        "returned as aux, it comes back as the function that it stands for"
    )


def _batch(operands, axes, **params):
    """A token is mapped over where vmap turns cond into a selection: it then has the leading axes of x."""
    (size,) = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}

    def in_front(x, axis):
        return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    token, x = operands
    if jnp.ndim(token) > 0:
        token = in_front(token, axes[0])
    return site.bind(token, in_front(x, axes[1]), **params), 0


def _refuse_derivative(operands, tangents, **params):
    raise NotImplementedError(
        "rkhs.grad: the loss differentiates f(x), with respect to x or to f. With respect to x, the "
        "functional gradient is made of derivatives of the kernel, which no RKHSFun holds. Way out: "
        "differences of evaluations; with respect to f, rkhs.grad in place of jax.grad"
    )


batching.primitive_batchers[site] = _batch
ad.primitive_jvps[site] = _refuse_derivative
