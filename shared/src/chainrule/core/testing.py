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
from jaxtyping import Array, PyTree

STEP = 1e-4  # of differences, in units of args
MODES = ("fwd", "rev")
ROUNDINGS = 10 * np.finfo(float).eps  # what the values of f err by, relative to the largest


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

    by `jax.test_util.check_grads`. All leaves of f(args) count alike, whatever their units: v is such
    that the difference of order one is of size one for each leaf, or less for one that hardly varies, as much
    as rounding demands. The numbers in u, and those in a leaf of v, are alike but for a factor of three at
    most, so that none is overlooked: one of n numbers in a leaf that is wrong by a fraction e of their root
    mean square is off by e / sqrt(n).

    Args:
        f: any function of pytrees that jax.jit accepts. Integer leaves of args are held fixed, integer
            outputs left out.
        args: where to differentiate, a tuple; f must be smooth within about 1e-4 of it.
        order: how often to differentiate. Differences of order k are taken of derivatives of order k - 1.
        modes: "fwd", "rev" or both. A function with jax.custom_vjp has "rev" only.
        rtol: error allowed, relative to the derivative of that order, or to one if that is larger.
            Differences err by about 1e-8 of the third derivative.
        seed: of u and v.

    Raises:
        AssertionError: if a derivative disagrees, if a value or a derivative is not finite, or, with both
            modes, if `check_vjp` does.
        TypeError: if args or f(args) have no floating leaf.
        ValueError: for an order below one, and for other modes or none.
    """
    if order < 1 or not modes or not {*modes} <= {*MODES}:
        raise ValueError(
            f"check_derivatives: order must be at least 1 and modes some of {[*MODES]}, got order = {order} "
            f"and modes = {modes!r}"
        )
    with jax.enable_x64(True):
        f_of_arrays, x, y = _of_inexact_arrays("check_derivatives", f, args)
        rng = np.random.default_rng(seed)
        u = [_draw(rng, leaf) for leaf in x]

        @jax.jit
        def along(t):
            return f_of_arrays(*(leaf + t * du for leaf, du in zip(x, u, strict=True)))

        differences = [(a - b) / (2 * STEP) for a, b in zip(along(STEP), along(-STEP), strict=True)]
        _check_finite("check_derivatives: differences of leaf ", [*map(str, range(len(y)))], differences)
        v = _alike(rng, differences, y, ROUNDINGS / (STEP * rtol))
        phi = jax.jit(lambda t: _inner(v, along(t)))
        # For it NaN equals NaN; there is none, for phi is finite around 0, and so are its differences.
        jax.test_util.check_grads(phi, (jnp.zeros(()),), order, tuple(modes), rtol, rtol, STEP)
    if {"fwd", "rev"} <= {*modes}:
        check_vjp(f, args, seed=seed)


def check_vjp(f: Callable[..., PyTree], args: Sequence[PyTree], *, rtol: float = 1e-9, seed: int = 0) -> None:
    """Check <v, J u> = <J^T v, u> for random u, v, with J u by jax.jvp and J^T v by jax.vjp.

    This needs no differences and so is exact to rounding, or to the tolerance of a solver inside f.
    It says that the two modes agree; that they are right is for `check_derivatives` to say.

    Args:
        f, args, seed: as in `check_derivatives`. f must be differentiable in both modes.
        rtol: difference allowed, relative to |v| |J u|; v makes all leaves of f(args) count alike.

    Raises:
        AssertionError: with both inner products, if they differ, and if a value is not finite.
        TypeError: if args or f(args) have no floating leaf.
    """
    with jax.enable_x64(True):
        f_of_arrays, x, y = _of_inexact_arrays("check_vjp", f, args)
        rng = np.random.default_rng(seed)
        u = [_draw(rng, leaf) for leaf in x]
        _, Ju = jax.jvp(f_of_arrays, x, u)
        _check_finite("check_vjp: J u, leaf ", [*map(str, range(len(y)))], Ju)
        v = _alike(rng, Ju, y, ROUNDINGS / rtol)
        # JAX pulls back without conjugating: <v, w> = Re sum conj(v) w becomes a plain sum with conj(v).
        JTv = [jnp.conj(leaf) for leaf in jax.vjp(f_of_arrays, *x)[1]([jnp.conj(leaf) for leaf in v])]
        _check_finite("check_vjp: J^T v, leaf ", [*map(str, range(len(x)))], JTv)
        forward, reverse = _inner(v, Ju), _inner(JTv, u)
        scale = sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(v, Ju, strict=True))
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


def _of_inexact_arrays(name: str, f: Callable, args: Any) -> tuple[Callable, list, list]:
    """f as a function from floating arrays to a list of such; the arrays x to begin with, in double; f(x)."""
    leaves, tree = jax.tree.flatten(tuple(args))
    varied = [i for i, leaf in enumerate(leaves) if _is_inexact(leaf)]
    if not varied:
        raise TypeError(
            f"{name}: args = {args!r} have no floating leaf: there is nothing to differentiate by"
        )

    def f_of(arrays):
        replaced = leaves.copy()
        for i, array in zip(varied, arrays, strict=True):
            replaced[i] = array
        return f(*jax.tree.unflatten(tree, replaced))

    @jax.jit
    def f_of_arrays(*arrays):
        return [leaf for leaf in jax.tree.leaves(f_of(arrays)) if _is_inexact(leaf)]

    x = [jnp.asarray(leaves[i], complex if jnp.iscomplexobj(leaves[i]) else float) for i in varied]
    described = jax.tree_util.tree_leaves_with_path(jax.eval_shape(f_of, x))
    places = [jax.tree_util.keystr(path) for path, leaf in described if _is_inexact(leaf)]
    if not places:
        raise TypeError(f"{name}: f(*args) has no floating leaf: there is nothing to differentiate")
    y = f_of_arrays(*x)
    _check_finite(f"{name}: f(*args)", places, y)
    return f_of_arrays, x, y


def _check_finite(name: str, places: Sequence[str], arrays: Sequence[Array]) -> None:
    for place, array in zip(places, arrays, strict=True):
        if not np.all(np.isfinite(array)):
            raise AssertionError(f"{name}{place} is not finite: {array}")


def _is_inexact(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _draw(rng, like):
    """Numbers of random signs and of sizes from 0.5 to 1.5."""
    shape = (2, *jnp.shape(like))
    real, imaginary = rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)
    return real + 1j * imaginary if jnp.iscomplexobj(like) else real


def _alike(rng, changes, values, rounding):
    """v with <v, changes> of size one for each leaf, or less where a change is mostly rounding of values."""
    pairs = zip(changes, values, strict=True)
    sizes = [max(np.linalg.norm(d), rounding * np.max(np.abs(y), initial=0)) for d, y in pairs]
    return [_draw(rng, y) / (size or 1) for y, size in zip(values, sizes, strict=True)]


def _inner(x, y):
    return sum(jnp.sum(jnp.conj(a) * b).real for a, b in zip(x, y, strict=True))
