"""The gradient of a loss with respect to a function is a function.

    grad(loss)(f, *args)               the gradient of loss(f, *args) with respect to f
    value_and_grad(loss)(f, *args)     the loss, and the gradient

Evaluation is linear in f, so where loss(f) uses f at the points x_s and by its norm, the chain rule reads

    grad L = sum_s  dL/df(x_s)  k(x_s, .)  +  2 dL/d|f|^2  f.

The loss is traced with an f known by its uses alone; with respect to the value of each use it is
differentiated by JAX. The points x_s are the atoms of the gradient, the derivatives their coefficients.

Source: the slides "User-defined types: reproducing kernel Hilbert space" of the talk The Chain Rule
Unchained (D. Maclaurin): J_eval^T(f, x, a) = a k(x, .).
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from chainrule.core.rkhs._argument import TOKEN, Argument
from chainrule.core.rkhs._block import Block, Which
from chainrule.core.rkhs._run import Context, run_loss
from chainrule.core.rkhs._sites import matters, sites
from chainrule.core.rkhs.function import RKHSFun, as_function
from chainrule.core.rkhs.inner import inner

_depth = contextvars.ContextVar("depth of functional gradients being traced", default=0)


def grad(
    loss: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a loss with respect to a function, which is a function.

    For all g of the space, d/dt loss(f + t g) at t = 0 is <grad(loss)(f), g>. Each use of f has its pullback:

        f(x)        a -> a k(x, .)
        <f, g>      a -> a g
        |f|^2       a -> 2 a f

    so atoms sit where the loss evaluates f, and nowhere else but at the points of f, if it takes the norm.

    f may be evaluated at one point or many; in Python loops, jit, vmap, scan, cond, checkpoint and every
    nesting of them; at points that depend on f(x); and after arithmetic, as in (f - g)(x). The gradient may
    itself be jitted, vmapped, and differentiated with respect to other arguments or, again, functions.

    Args:
        loss: a function that returns a number. It knows its f by evaluations and inner products alone.
        argnums: which arguments to differentiate with respect to; for several the gradient is a tuple. Each
            is a function, or a pytree of functions.
        has_aux: whether the loss returns (number, aux); points where only aux evaluates f are no atoms.

    Returns:
        a function of the arguments of the loss. Its value is the gradient, like f: an RKHSFun for an RKHSFun
        and for a BufferedFun; for a DictionaryFun, the projection of the gradient onto the dictionary. With
        has_aux: (gradient, aux).

    Raises:
        TypeError: if f is no function, the loss no real number, or if the loss reads the points or
            coefficients of f.
        NotImplementedError: if the loss evaluates f within a while loop or a function with a custom
            derivative, or differentiates f(x) with respect to x.

    Example:
        >>> square_at_one = lambda f: f(jnp.array([1.0])) ** 2
        >>> f = RKHSFun(SquaredExponential(), jnp.array([[1.0]]), jnp.array([3.0]))
        >>> g = grad(square_at_one)(f)
        >>> print(g.points, g.coefficients)
        [[1.]] [6.]

    Source: slides "User-defined types: reproducing kernel Hilbert space".
    """
    value_and_gradient = value_and_grad(loss, argnums, has_aux)

    @functools.wraps(loss)
    def gradient(*args, **kwargs):
        value, gradient = value_and_gradient(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return gradient


def value_and_grad(
    loss: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The loss and its gradient with respect to a function, for little more than the loss alone costs.

    Args, Raises: as `grad`.

    Returns:
        a function of the arguments of the loss. Its value is (loss, gradient); with has_aux,
        ((loss, aux), gradient).
    """
    if not callable(loss):
        raise TypeError(f"rkhs.grad: loss must be a function, got {loss!r}")

    @functools.wraps(loss)
    def value_and_gradient(*args, **kwargs):
        positions = [range(len(args))[i] for i in ([argnums] if isinstance(argnums, int) else argnums)]
        originals, tree = jax.tree.flatten([args[i] for i in positions], is_leaf=_is_function)
        functions = list(map(as_function, originals))

        def of_functions(functions):
            inputs = list(args)
            for i, replaced in zip(positions, jax.tree.unflatten(tree, functions), strict=True):
                inputs[i] = replaced
            return loss(*inputs, **kwargs)

        value, aux, blocks = _differentiated(of_functions, functions, has_aux)
        gradients = [_sum_of(*each) for each in zip(originals, functions, blocks, strict=True)]
        gradient = jax.tree.unflatten(tree, gradients)
        gradient = gradient[0] if isinstance(argnums, int) else tuple(gradient)
        return ((value, aux), gradient) if has_aux else (value, gradient)

    return value_and_gradient


def _differentiated(loss: Callable, functions: list[RKHSFun], has_aux: bool) -> tuple[Any, Any, list]:
    """The value of loss(functions), its aux, and for each function the blocks of atoms of the gradient."""
    with _deeper() as depth:

        def of_tokens(tokens):
            return loss(
                [_argument(depth, *each) for each in zip(range(len(tokens)), functions, tokens, strict=True)]
            )

        jaxpr, shapes = jax.make_jaxpr(of_tokens, return_shape=True)([TOKEN] * len(functions))
    _check_outputs(shapes, has_aux)
    uses = sites(jaxpr, depth)
    products = {s.which: inner(*(functions[i] for i in s.which)) for s in uses if s.points is None}
    joined = [f.joined() for f in functions]

    def use(which, points):
        return products[which] if points is None else joined[which[0]](points)

    def perturbed(perturbations):
        context = Context(depth, use, iter(perturbations))
        value, *aux = run_loss(jaxpr, len(functions), context)
        seen[:] = context.seen
        return value, (aux, context.points)

    seen = []
    zeros = [jnp.zeros(s.value.shape, s.value.dtype) for s in uses]
    value, pullback, (aux, points) = jax.vjp(perturbed, zeros, has_aux=True)
    (cotangents,) = pullback(jnp.ones_like(value))

    blocks = [[] for _ in functions]
    counts = matters(jaxpr, depth, [True] + [False] * len(aux))
    for s, x, a, each, does in zip(uses, points, cotangents, seen, counts, strict=True):
        if not does:
            continue
        if x is None:  # <f, g>: a -> a g for f, and a f for g
            for i, j, live in zip(s.which, s.which[::-1], each.live, strict=True):
                blocks[i] += [block.scaled(jnp.sum(a)) for block in functions[j].blocks if live]
        elif all(each.live):  # f(x): a -> a k(x, .)
            # A constant of the loss becomes a tracer under jit when made an array; its values tell before.
            rows = x.reshape(-1, x.shape[-1])
            origin = each.origin if isinstance(x, jax.core.Tracer) else Which(rows)
            blocks[s.which[0]].append(Block(jnp.asarray(rows), a.reshape(-1), origin))
    if has_aux:
        aux = _restored(jax.tree.unflatten(jax.tree.structure(shapes[1]), aux), functions, depth)
    return value, aux, blocks


@contextlib.contextmanager
def _deeper() -> Iterator[int]:
    """How many functional gradients are being traced around this one."""
    depth = _depth.get()
    token = _depth.set(depth + 1)
    try:
        yield depth
    finally:
        _depth.reset(token)


def _is_function(x: Any) -> bool:
    return isinstance(x, RKHSFun) or isinstance(getattr(x, "function", None), RKHSFun)


def _argument(depth: int, which: int, f: RKHSFun, token: Any) -> RKHSFun:
    """f, as the loss sees it."""
    return RKHSFun.of_blocks(f.kernel, [Argument(token, 1.0, depth, which, f.dtype)], f.dim)


def _sum_of(original: Any, f: RKHSFun, blocks: list[Any]) -> Any:
    """The sum of blocks of atoms, in the form that f was given in."""
    dims = [f.dim, *(block.points.shape[-1] for block in blocks if isinstance(block, Block))]
    gradient = RKHSFun.of_blocks(f.kernel, blocks, next((dim for dim in dims if dim is not None), None))
    return gradient if original is f else original.gradient_of_atoms(gradient)


def _restored(aux: Any, functions: list[RKHSFun], depth: int) -> Any:
    """aux, with functions in place of what stood for them."""

    def ours(block):
        return [block] if isinstance(block, Argument) and block.depth == depth else []

    def restored(x):
        arguments = [a for block in x.blocks for a in ours(block)] if isinstance(x, RKHSFun) else []
        if not arguments:
            return x
        rest = [block for block in x.blocks if not ours(block)]
        stood_for = [b.scaled(a.weight) for a in arguments for b in functions[a.which].blocks]
        return RKHSFun.of_blocks(functions[arguments[0].which].kernel, stood_for + rest, x.dim)

    return jax.tree.map(restored, aux, is_leaf=_is_function)


def _check_outputs(shapes: Any, has_aux: bool) -> None:
    if has_aux and not (isinstance(shapes, tuple) and len(shapes) == 2):
        raise TypeError("rkhs.grad: with has_aux=True, the loss must return (number, aux)")
    value: Any = shapes[0] if has_aux else shapes
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"rkhs.grad: the loss must return one real number, got {value}")
