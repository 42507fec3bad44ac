"""The gradient at a step of training, the same bits in both directions, and its derivative.

gradient_at(loss, weights, others, t, wanted)      -> value, derivative

A compiler rounds a formula one way or the other, by what else is computed nearby: products with it, or what
it can take out of a loop. It does not look into a branch of a conditional from outside. So the gradient
stands in a branch of its own, whose outcome is not known to the compiler.

Backwards, the derivative of the gradient along a direction is needed besides. What it reads of the way to
the gradient, the branch hands out: products, sums, transcendental functions, random bits. What is cheaper to
compute again than to write down is computed again. Forwards nobody reads it; but without it there would be
two programs, which may round differently. So the gradient itself pretends to.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, primitives
from jaxtyping import Array, Bool, Int32

from chainrule.hypergrad.losses import StepLoss

HANDED_OUT = {
    getattr(primitives, f"{name}_p")
    for name in "dot_general conv_general_dilated exp exp2 expm1 log log1p logistic pow sqrt rsqrt cbrt "
    "sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc erf_inv lgamma digamma "
    "reduce_sum reduce_prod reduce_max reduce_min reduce_window_sum reduce_window_max cumsum cumprod "
    "cumlogsumexp sort cholesky eigh lu qr svd triangular_solve random_bits".split()
}


def gradient_at(
    loss: StepLoss,
    weights: list[Array],
    others: list[Array],
    t: Int32[Array, ""],
    wanted: Sequence[int],
    form: Callable[[list[Array]], list[Array]],
) -> tuple[list[Array], Callable[[list[Array]], tuple[list[Array], list[Array]]]]:
    """The gradient by weights at step t, and its derivative.

    Args:
        wanted: places among others. The program is the same for the same ones.
        form: what is done with the gradient before the branch hands it out.

    Returns:
        The gradient, in that form; and a function of a direction, like weights: along it, the derivative of
        the gradient by weights, and that of the gradient by the others that are wanted.
    """
    drawn = loss.draw(others, t)
    batch = loss.pick(others, drawn)  # copies numbers: nothing that could be rounded

    def gradients(weights):
        def value(weights, chosen):
            replaced = dict(enumerate(others)) | dict(zip(wanted, chosen, strict=True))
            now = [*replaced.values()]
            picked = loss.pick(now, drawn) if {*wanted} & {*loss.data} else batch
            return loss.at(weights, now, picked, drawn, t)

        return jax.grad(value, argnums=(0, 1))(weights, [others[place] for place in wanted])

    known = jax.tree.leaves((weights, others, drawn, batch, t))
    ready, structure = [], None  # of the derivative: its leaves, but None for those that are made here

    def linearized():
        nonlocal ready, structure
        keeping = jax.checkpoint(gradients, policy=_is_handed_out, prevent_cse=False)
        (value, _), derivative = jax.linearize(keeping, weights)
        leaves, structure = jax.tree.flatten(derivative)
        ready = [None if _is_made_here(leaf, known) else leaf for leaf in leaves]
        return form(value), [leaf for leaf, there in zip(leaves, ready, strict=True) if there is None]

    shapes = jax.eval_shape(linearized)
    nothing = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    value, kept = lax.cond(t >= 0, linearized, nothing)
    made = iter(kept)
    leaves = [next(made) if leaf is None else leaf for leaf in ready]
    read = _any(t, kept)
    return [jnp.where(read, jnp.nan, g) for g in value], jax.tree.unflatten(structure, leaves)


def _any(t: Int32[Array, ""], kept: list[Array]) -> Bool[Array, ""]:
    """False, as t is never negative. As far as the compiler knows, all of what is kept is read for it."""
    if not kept:
        return jnp.asarray(False)
    anything = lambda: jnp.stack([(x != 0).any() for x in kept]).any()
    return lax.cond(t < 0, anything, lambda: jnp.asarray(False))


def _is_handed_out(primitive: Primitive, *given: jax.core.ShapedArray, **_) -> bool:
    """Complex numbers are computed again: `jax.checkpoint` keeps none of them."""
    are_complex = any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in given)
    return primitive in HANDED_OUT and not are_complex


def _is_made_here(leaf, known: list[Array]) -> bool:
    """Not a constant, and none of what the branch is given."""
    return isinstance(leaf, jax.core.Tracer) and not any(leaf is other for other in known)
