"""Functions whose derivative you say yourself, as the talk says it.

    @primitive
    def logistic(x): ...                                a function that JAX is not to look into

    defvjp(logistic, lambda ans, x: lambda g: ...)      its pullback, argument by argument

This is a notation for `jax.custom_vjp`: reverse mode, under jit and vmap, as often as you like. For
forward mode, use `jax.custom_jvp`.

Source: the slides "User-defined primitives" of the talk The Chain Rule Unchained (D. Maclaurin), and
`autograd.extend`, where `primitive` and `defvjp` come from.
"""

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jaxtyping import PyTree

VJPMaker = Callable[..., Callable[[PyTree], PyTree]]  # (ans, *args) -> (cotangent of ans -> cotangent of arg)


def primitive(f: Callable) -> "Primitive":
    """Declare that f is differentiated by the rule that `defvjp` gives, not by looking into it.

    What f may take: pytrees of arrays, and anything else, such as functions and strings. Only arrays can
    be differentiated by. Functions among the arguments must not close over what is differentiated by, for
    no rule says how the result depends on that, nor over other traced values if `jax.grad` is outside of
    the `jax.jit` that traces them: JAX raises an error. Pass such values as arguments, or the function as a
    `jax.tree_util.Partial`, a pytree of what it holds.

    f itself is traced as JAX traces any function. A Python `while` over array values runs as it stands
    outside jit and vmap, also within `jax.grad`; inside, write it as `jax.lax.while_loop`.

    Example:
        >>> @primitive
        ... def logistic(x):
        ...     return 1 / (1 + jnp.exp(-x))
        >>> defvjp(logistic, lambda ans, x: lambda g: g * ans * (1 - ans))
        >>> print(jax.grad(logistic)(0.0), jax.grad(jax.grad(logistic))(0.0))
        0.25 0.0
    """
    if not callable(f):
        raise TypeError(f"primitive: decorate a function, got {f!r}")
    return Primitive(f)


def defvjp(f: "Primitive", *makers: VJPMaker | None, argnums: Sequence[int] | None = None) -> None:
    """Say how cotangents pull back through a primitive, one maker for each argument.

    A maker is called with the result and the arguments, maker(ans, *args), and returns the linear function
    from the cotangent g of the result to the cotangent of its argument,

        g -> J^T g,    J = d ans / d arg;

    a cotangent looks like the array it belongs to. In complex numbers J^T is JAX's: not conjugated. What
    the maker computes is differentiated in turn for higher derivatives; ans stands for f(*args) there
    as well.

    Args:
        f: a function decorated with `primitive`.
        makers: for positional arguments 0, 1, 2, ... in order, functions among them included, and the self
            of a method, which is number 0. None says that the derivative is zero. An argument without a
            maker cannot be differentiated by: asking for it is an error, not a zero.
        argnums: the arguments that the makers are for, if not 0, 1, 2, ...

    Raises:
        TypeError, ValueError: at once, for makers that f has no arguments for, and if f has its rule
            already.

    Example:
        >>> @primitive
        ... def apply(function, x):
        ...     return function(x)
        >>> defvjp(apply, lambda ans, function, x: lambda g: jax.vjp(function, x)[1](g)[0], argnums=[1])
        >>> print(f"{jax.grad(apply, argnums=1)(jnp.sin, 0.0):.1f}")
        1.0
    """
    if not isinstance(f, Primitive):
        raise TypeError(f"defvjp: {f!r} is no primitive: decorate it with @primitive")
    if f.makers is not None:
        raise ValueError(
            f"defvjp: {f.name} has its derivative already, and compiled code may rely on it: decorate "
            "the function anew to give it another"
        )
    argnums = range(len(makers)) if argnums is None else [*argnums]
    if len(argnums) != len(makers) or len({*argnums}) != len(argnums) or min(argnums, default=0) < 0:
        raise ValueError(
            f"defvjp: argnums = {[*argnums]} for {len(makers)} makers of {f.name}: give each maker one "
            "argument of its own, counted from 0"
        )
    for argnum, maker in zip(argnums, makers, strict=True):
        if argnum >= f.most_arguments:
            raise ValueError(
                f"defvjp: there is no argument {argnum}: {f.name}{f.signature} has {f.most_arguments}"
            )
        if maker is not None and not callable(maker):
            raise TypeError(f"defvjp: the maker for argument {argnum} of {f.name} is {maker!r}, no function")
    f.makers = dict(zip(argnums, makers, strict=True))


class Primitive:
    """A function with a derivative of its own; made by `primitive`."""

    def __init__(self, f: Callable):
        functools.update_wrapper(self, f)
        self.f, self.name = f, getattr(f, "__name__", "primitive")
        self.signature = inspect.signature(f)
        self.makers: dict[int, VJPMaker | None] | None = None
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        positional = [k for k in kinds if k in (k.POSITIONAL_ONLY, k.POSITIONAL_OR_KEYWORD)]
        self.most_arguments = float("inf") if inspect.Parameter.VAR_POSITIONAL in kinds else len(positional)

    def __repr__(self):
        return f"<primitive {self.name}{self.signature}>"

    def __get__(self, instance, owner=None):
        """In a class it is a method, as any function is."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args, **kwargs):
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        parts = {n: jax.tree.flatten(arg) for n, arg in enumerate(bound.args)}
        parts[KEYWORDS] = jax.tree.flatten(bound.kwargs)
        leaves = {(n, i): leaf for n, (leaves, _) in parts.items() for i, leaf in enumerate(leaves)}
        # What JAX differentiates or batches comes here as an array: Python numbers stay what they are.
        places = [place for place, leaf in leaves.items() if _is_array(leaf)]

        def arguments(arrays):
            """The arguments as f takes them, with arrays in those places."""
            now = leaves | dict(zip(places, arrays, strict=True))
            of = {n: tree.unflatten(now[n, i] for i in range(len(here))) for n, (here, tree) in parts.items()}
            return of.pop(KEYWORDS), [*of.values()]

        @jax.custom_vjp
        def call(*arrays):
            kwargs, args = arguments(arrays)
            return jax.tree.map(jnp.asarray, self.f(*args, **kwargs))

        def forward(*primals):
            arrays = [_as_array(primal.value) for primal in primals]
            triples = zip(places, arrays, primals, strict=True)
            wanted = {n for (n, _), x, primal in triples if primal.perturbed and _is_inexact(x)}
            for n in sorted(wanted):
                self._check_that_maker_exists(n, bound)
            ans = call(*arrays)  # not f: the rule holds in higher orders too
            return ans, (ans, arrays, dict.fromkeys(wanted))  # the keys of a dictionary are static

        def backward(saved, g):
            ans, arrays, wanted = saved
            makers, (kwargs, args) = self.makers or {}, arguments(arrays)
            g = jax.tree.map(_instantiate, g, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
            cotangents = {}  # a place that is missing here has a cotangent of zero
            for n in wanted:
                if (maker := makers[n]) is not None:
                    fitted = self._fitted(maker(ans, *args, **kwargs)(g), args[n], n)
                    cotangents |= {(n, i): leaf for i, leaf in enumerate(fitted)}
            return tuple(map(cotangents.get, places))

        call.defvjp(forward, backward, symbolic_zeros=True)
        try:
            return call(*(leaves[place] for place in places))
        except jax.errors.UnexpectedTracerError as error:
            error.add_note(
                f"{self.name} is a primitive: if a function it was given closes over what you "
                "differentiate by, hand that over as an argument, or the function as a jax.tree_util.Partial"
            )
            raise

    def _check_that_maker_exists(self, n: int, bound: inspect.BoundArguments) -> None:
        if self.makers is None:
            raise TypeError(
                f"{self.name} is a primitive without a derivative: give it one by "
                f"defvjp({self.name}, ...), or take @primitive away to let JAX derive it"
            )
        if n not in self.makers:
            which = f"its keywords {[*bound.kwargs]}" if n == KEYWORDS else f"argument {n}"
            raise TypeError(
                f"{self.name} has no derivative with respect to {which}: give defvjp a maker for it, or "
                "None if the derivative is zero, or hold the argument fixed by jax.lax.stop_gradient"
            )

    def _fitted(self, cotangent: PyTree, arg: PyTree, n: int) -> list:
        """The leaves of a cotangent, once they are known to fit the argument; None for what has none."""
        name = f"{self.name}: the cotangent of argument {n}"
        if jax.tree.structure(cotangent) != jax.tree.structure(arg):
            raise TypeError(
                f"{name} has structure {jax.tree.structure(cotangent)}, but the argument has "
                f"{jax.tree.structure(arg)}: make them equal"
            )

        def fitted(c, x):
            if not (_is_array(x) and _is_inexact(x)):
                return None
            if jnp.shape(c) != x.shape or jnp.result_type(c, x) != x.dtype:
                raise TypeError(
                    f"{name} is {jnp.result_type(c)}{[*jnp.shape(c)]}, but the argument is "
                    f"{x.dtype}{[*x.shape]}: make them equal"
                )
            return jnp.asarray(c, x.dtype)

        return list(map(fitted, jax.tree.leaves(cotangent), jax.tree.leaves(arg)))


KEYWORDS = -1  # the place of keyword-only arguments, which have no number


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _as_array(x):
    return x if _is_array(x) else jnp.asarray(x)


def _is_inexact(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _instantiate(g: Any) -> Any:
    if not isinstance(g, SymbolicZero):
        return g
    like: Any = g  # its annotations hide its shape and dtype
    return np.zeros(like.shape, float0) if like.dtype == float0 else jnp.zeros(like.shape, like.dtype)
