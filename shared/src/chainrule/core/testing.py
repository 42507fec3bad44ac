"""Checks that keep derivatives honest, and one that keeps compilation in bounds.

    check_derivatives(f, args)    every derivative up to an order, in both modes, against differences
    check_vjp(f, args)            the pullback is the adjoint of the pushforward, to rounding
    compilations()                count what XLA compiles, by name of the jitted function

The first two work in float64, whatever the process does, and raise AssertionError. They look along
one random direction: a wrong derivative agrees with the true one there with probability zero.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
from jaxtyping import PyTree


def check_derivatives(
    f: Callable[..., PyTree],
    args: Sequence[PyTree],
    *,
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    rtol: float = 1e-5,
    seed: int = 0,
) -> None:
    """Compare the derivatives of f at args with central differences.

    For random u, v this checks every nesting of `modes`, up to `order` deep, of d/dt at t = 0 of

        phi(t) = <v, f(args + t u)>,

    by `jax.test_util.check_grads`. A scalar function of a scalar makes a sharp check: check_grads
    lets tolerances grow with the size of arrays. v is scaled so that the differences of order one
    are of size one, whatever the units of f.

    Args:
        f: any function of pytrees that jax.jit accepts. Integer leaves of args are held fixed, integer
            outputs left out.
        args: where to differentiate, a tuple; f must be smooth within about 1e-4 of it.
        order: how often to differentiate. Differences of order k are taken of derivatives of order k - 1.
        modes: "fwd", "rev" or both. A function with jax.custom_vjp has "rev" only.
        rtol: relative error allowed. Differences err by about 1e-8 of the third derivative.
        seed: of u and v.

    Raises:
        AssertionError: if a derivative disagrees, or, with both modes, if `check_vjp` does.
    """
    with jax.enable_x64(True):
        f_of_arrays, x = _of_inexact_arrays(f, args)
        rng = np.random.default_rng(seed)
        u = [_normal(rng, leaf) for leaf in x]
        v = [_normal(rng, leaf) for leaf in f_of_arrays(*x)]

        @jax.jit
        def along(t):
            return f_of_arrays(*(leaf + t * du for leaf, du in zip(x, u, strict=True)))

        h = 1e-4
        difference = [(p - m) / (2 * h) for p, m in zip(along(h), along(-h), strict=True)]
        size = np.sqrt(sum(np.sum(np.abs(d) ** 2) for d in difference))
        v = [leaf / size if size > 0 else leaf for leaf in v]
        phi = jax.jit(lambda t: _inner(v, along(t)))
        jax.test_util.check_grads(phi, (jnp.zeros(()),), order, tuple(modes), rtol, rtol, h)
    if {"fwd", "rev"} <= set(modes):
        check_vjp(f, args, seed=seed)


def check_vjp(f: Callable[..., PyTree], args: Sequence[PyTree], *, rtol: float = 1e-9, seed: int = 0) -> None:
    """Check <v, J u> = <J^T v, u> for random u, v, with J u by jax.jvp and J^T v by jax.vjp.

    This needs no differences and so is exact to rounding, or to the tolerance of a solver inside f.
    It says that the two modes agree; that they are right is for `check_derivatives` to say.

    Args:
        f, args, seed: as in `check_derivatives`. f must be differentiable in both modes.
        rtol: difference allowed, relative to |v| |J u|.

    Raises:
        AssertionError: with both inner products, if they differ.
    """
    with jax.enable_x64(True):
        f_of_arrays, x = _of_inexact_arrays(f, args)
        rng = np.random.default_rng(seed)
        u = [_normal(rng, leaf) for leaf in x]
        y, Ju = jax.jvp(f_of_arrays, x, u)
        v = [_normal(rng, leaf) for leaf in y]
        # JAX pulls back without conjugating: <v, w> = Re sum conj(v) w becomes a plain sum with conj(v).
        JTv = [jnp.conj(leaf) for leaf in jax.vjp(f_of_arrays, *x)[1]([jnp.conj(leaf) for leaf in v])]
        forward, reverse = _inner(v, Ju), _inner(JTv, u)
        scale = jnp.sqrt(_inner(v, v) * _inner(Ju, Ju))
        if not abs(forward - reverse) <= rtol * scale:
            raise AssertionError(
                f"the pullback is not the adjoint of the pushforward: <v, J u> = {forward}, but "
                f"<J^T v, u> = {reverse}, which is off by {abs(forward - reverse) / scale:.1e} of |v| |J u|, "
                f"more than rtol = {rtol:g}"
            )


@contextlib.contextmanager
def compilations() -> Iterator[Counter[str]]:
    """Count the XLA compilations within a `with` block, by name of the jitted function.

    Operations outside jit count as well, under names of their own. A program that JAX fetches from its
    persistent cache counts like one that it compiles.

    Example:
        >>> @jax.jit
        ... def double(x):
        ...     return 2 * x
        >>> with compilations() as compiled:
        ...     for n in (1, 2, 2, 1, 2):
        ...         _ = double(np.zeros(n))
        >>> compiled["double"]
        2
    """
    compiled = Counter()

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled[re.sub(r"^\w+\((.*)\)$", r"\1", str(about["fun_name"]))] += 1  # jit(double) -> double

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _of_inexact_arrays(f: Callable, args: Any) -> tuple[Callable, list]:
    """f as a function from floating arrays to a list of such, and the arrays to begin with, in double."""
    leaves, tree = jax.tree.flatten(tuple(args))
    is_inexact = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    varied = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]

    def f_of_arrays(*arrays):
        replaced = leaves.copy()
        for i, array in zip(varied, arrays, strict=True):
            replaced[i] = array
        return [y for y in jax.tree.leaves(f(*jax.tree.unflatten(tree, replaced))) if is_inexact(y)]

    double = lambda x: jnp.asarray(x, complex if jnp.iscomplexobj(x) else float)
    return jax.jit(f_of_arrays), [double(leaves[i]) for i in varied]


def _normal(rng, like):
    draw = rng.normal(size=jnp.shape(like))
    return draw + 1j * rng.normal(size=jnp.shape(like)) if jnp.iscomplexobj(like) else draw


def _inner(x, y):
    return sum(jnp.sum(jnp.conj(a) * b).real for a, b in zip(x, y, strict=True))
