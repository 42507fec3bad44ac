"""Fixed points x = f(a, x), and their derivative with respect to a.

    fixed_point(f, a, x0)     solve x = f(a, x) by iteration from x0      -> Solution(value, stats)

The value is differentiable as often as you like, in forward and reverse mode, without storing an
iterate and without building a Jacobian: the derivative of a fixed point is a fixed point too.

Source: the slides "User-defined primitives: fixed point iteration" of the talk The Chain Rule
Unchained (D. Maclaurin), whose `fixed_point` and `rev_iter` are `_picard` and `_neumann` below.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from chainrule.core.status import Stats, Status, raise_unless_converged

OnFailure = Literal["nan", "raise", "ignore"]

_WAY_OUT = {
    Status.MAX_STEPS: "raise max_steps, loosen rtol, or give atol if the solution may be zero",
    Status.DIVERGED: "the map does not contract: damp it, or start nearer to the solution",
    Status.NONFINITE: "f(a, x) returned NaN or infinity: check a and x0",
}
_WAY_OUT_OF_DERIVATIVE = {
    Status.MAX_STEPS: "raise max_steps or loosen rtol, unless I - df/dx is singular at the solution",
    Status.DIVERGED: "the solution repels the iteration: a damped map has the same solution and derivative",
    Status.NONFINITE: "df/dx at the solution, or the (co)tangent itself, holds NaN or infinity",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """A fixed point and the record of how it was found."""

    value: PyTree  # like x0; NaN in lanes that failed, unless on_failure="ignore"
    stats: Stats  # no derivative flows through these


def fixed_point(
    f: Callable[[Any, PyTree], PyTree],
    a: Any,
    x0: PyTree,
    *,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    max_steps: ArrayLike = 1000,
    on_failure: OnFailure = "nan",
) -> Solution:
    """Solve x = f(a, x) by iterating f from x0; differentiable with respect to a.

    Where x = x*(a) is the solution and J = df/dx there,

        dx* = (I - J)^-1 df/da da = (sum_n J^n) df/da da,

    so a tangent is itself the fixed point of u -> J u + df/da da, a cotangent that of
    u -> J^T u + g. Both are iterated by the routine that found x*, with the same rtol and max_steps:
    where x* attracts the iteration they converge as fast as it did, and memory stays that of a few
    copies of x. Iteration stops, in each vmap lane on its own, once

        max |f(a, x) - x| <= atol + rtol * max |f(a, x)|,

    x being measured as one vector: scale its leaves alike. The error is about rho / (1 - rho) times
    the last step, if a step shortens the error by rho.

    Args:
        f: the map. It may close over traced arrays: derivatives flow to those as well.
        a: anything f understands; its floating leaves can be differentiated.
        x0: where to start, a pytree of floating or complex arrays. Python numbers take the dtype that
            f returns. The solution does not depend on x0: its derivative with respect to it is zero.
        rtol: relative tolerance; default eps**(3/4) of the coarsest dtype in x (2e-12 in float64,
            6e-6 in float32), which leaves a quarter of the digits to rounding noise.
        atol: absolute tolerance in units of x; default the smallest number whose square is no
            underflow. Give it when the solution may be zero: zero has no relative accuracy.
        max_steps: evaluations of f allowed, also for each linear solve of a derivative.
        on_failure: what a lane becomes that does not converge, in value or derivative. "nan": NaN.
            "raise": a RuntimeError with the status and the way out, raised on the host when the
            result is computed; compiled code hands it on as jax.errors.JaxRuntimeError or, on JAX's
            fast path, as ValueError, with the same words. "ignore": whatever number there is.

    Returns:
        Solution: `value` like x0, `stats` with steps, residual and status.

    Raises:
        TypeError, ValueError: at once, for an f that does not map x0 to its like and for settings
            that make no sense.

    `rtol`, `atol` and `max_steps` may be traced arrays, so new values compile nothing anew inside
    `jax.jit`. Outside jit each call is traced and compiled afresh: put jit around your own function.

    Example:
        >>> newton = lambda a, x: 0.5 * (x + a / x)
        >>> root = lambda a: fixed_point(newton, a, 1.0).value
        >>> print(f"{root(4.0):.4f} {jax.grad(root)(4.0):.4f} {jax.hessian(root)(4.0):.5f}")
        2.0000 0.2500 -0.03125
    """
    if not callable(f):
        raise TypeError(f"fixed_point: f must be a function f(a, x), got {f!r}")
    if on_failure not in get_args(OnFailure):
        raise ValueError(f"fixed_point: on_failure must be one of {get_args(OnFailure)}, got {on_failure!r}")
    step, x0 = _typed_map(f, a, x0)
    tolerance = _tolerance(rtol, atol, max_steps, x0)

    def solve(_, x):
        x, stats = _picard(step, x, tolerance)
        # jax 0.10 gives integer aux of custom_root a tangent of the wrong type, so the counts travel
        # as floats: exact up to 2**24 steps.
        return x, tuple(s.astype(stats.residual.dtype) for s in jax.tree.leaves(stats))

    def solve_tangent(linear, b):
        """u with linear(u) = J u - u = b, or rather its fixed point u = J u - b; J may be J^T."""

        def solve_linear(linear, b):
            return _neumann(linear, b, tolerance, on_failure)

        # custom_linear_solve lets the while loop in here be transposed and differentiated again.
        return lax.custom_linear_solve(linear, b, solve_linear, solve_linear)

    x, counts = lax.custom_root(lambda x: _subtract(step(x), x), x0, solve, solve_tangent, has_aux=True)
    steps, residual, status = lax.stop_gradient(counts)
    stats = Stats(steps.astype(jnp.int32), residual, status.astype(jnp.int32))
    if on_failure == "raise":
        stats = raise_unless_converged(stats, "fixed_point", _WAY_OUT)
    if on_failure != "ignore":
        # A product, not a `where`: its derivative is NaN too, in either mode.
        x = _scale(jnp.where(stats.status == Status.CONVERGED, 1.0, jnp.nan), x)
    return Solution(x, stats)


class _Tolerance(NamedTuple):
    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    max_steps: Int[Array, ""]


def _picard(step: Callable[[PyTree], PyTree], x: PyTree, tolerance: _Tolerance) -> tuple[PyTree, Stats]:
    """Repeat x <- step(x) until the step is short: the talk's `fixed_point`, with an end."""
    measure = tolerance.rtol.dtype
    # Growth is judged against the first step, or against rounding noise if that started shorter.
    noise = jnp.sqrt(jnp.asarray(jnp.finfo(measure).eps, measure))

    def proceed(carry):
        steps, _, _, _, going = carry
        return going & (steps < tolerance.max_steps)

    def advance(carry):
        steps, x, _, first, _ = carry
        y = step(x)
        residual, size = _max_abs(_subtract(y, x), measure), _max_abs(y, measure)
        first = jnp.where(steps == 0, jnp.maximum(residual, noise * size), first)
        # Not `residual > ...`: a tolerance of NaN must not pass for met.
        going = ~(residual <= tolerance.atol + tolerance.rtol * size) & jnp.isfinite(residual)
        return steps + 1, y, residual, first, going

    zero = jnp.zeros((), measure)
    start = (jnp.zeros((), jnp.int32), x, zero, zero, jnp.asarray(True))
    steps, x, residual, first, going = lax.while_loop(proceed, advance, start)
    status = jnp.where(
        ~going & jnp.isfinite(residual),
        Status.CONVERGED,
        jnp.where(
            residual > first,
            Status.DIVERGED,
            jnp.where(jnp.isfinite(residual), Status.MAX_STEPS, Status.NONFINITE),
        ),
    )
    return x, Stats(steps, residual, status.astype(jnp.int32))


def _neumann(
    linear: Callable[[PyTree], PyTree], b: PyTree, tolerance: _Tolerance, on_failure: OnFailure
) -> PyTree:
    """u = J u - b by Picard iteration, given linear(u) = J u - u: the talk's `rev_iter`.

    From u = -b this sums the Neumann series -(b + J b + J^2 b + ...), in either mode of
    differentiation. It converges wherever the forward iteration was attracted by x*, for any J,
    normal or not; if not (x0 was a repelling fixed point, I - J is singular) it says so.
    """
    measure = tolerance.rtol.dtype
    default = _default_tolerance(b, measure)
    # The forward atol is in units of x and says nothing here; an rtol of zero meant "atol only".
    rtol = jnp.where(tolerance.rtol > 0, tolerance.rtol, default.rtol)

    def step(u):
        return jax.tree.map(lambda u, r, b: u + (r - b), u, linear(u), b)

    minus_b = jax.tree.map(jnp.negative, b)
    u, stats = _picard(step, minus_b, _Tolerance(rtol, default.atol, tolerance.max_steps))
    if on_failure == "raise":
        stats = raise_unless_converged(stats, "the derivative of fixed_point", _WAY_OUT_OF_DERIVATIVE)
    if on_failure != "ignore":
        u = _scale(jnp.where(stats.status == Status.CONVERGED, 1.0, jnp.nan), u)
    return u


# Static checks and settings -----------------------------------------------------------------------


def _typed_map(f: Callable, a: Any, x0: PyTree) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """x -> f(a, x) and x0, once they are known to agree in structure, shapes and dtypes."""
    x0 = jax.tree.map(lambda x: jnp.asarray(float(x) if type(x) is int else x), x0)
    if not jax.tree.leaves(x0):
        raise ValueError(f"fixed_point: x0 = {x0!r} has no arrays in it: nothing to solve for")

    def image_of(x0):
        image = jax.eval_shape(lambda x: f(a, x), x0)
        if jax.tree.structure(image) != jax.tree.structure(x0):
            raise TypeError(
                f"fixed_point: f(a, x0) has structure {jax.tree.structure(image)}, but x0 has "
                f"{jax.tree.structure(x0)}: make f return what it is given"
            )
        return image

    def strong(x, like):  # a Python number has no dtype of its own: it takes the one f returns
        return jnp.asarray(x, dtype=like.dtype if jax.typeof(x).weak_type else x.dtype)

    x0 = jax.tree.map(strong, x0, image_of(x0))

    def check(path, x, y):
        name = f"x0{jax.tree_util.keystr(path)}"
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"fixed_point: {name} is {x.dtype}, which has no derivative: pass a floating {name}, "
                "and keep integers in a"
            )
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise TypeError(
                f"fixed_point: {name} is {x.dtype}{list(x.shape)}, but f(a, x0) makes of it "
                f"{y.dtype}{list(y.shape)}: make f return what it is given, or pass such an x0"
            )

    jax.tree_util.tree_map_with_path(check, x0, image_of(x0))

    def step(x):
        return jax.tree.map(lambda y, like: jnp.asarray(y, dtype=like.dtype), f(a, x), x0)

    return step, x0


def _tolerance(rtol: Any, atol: Any, max_steps: Any, x: PyTree) -> _Tolerance:
    wide = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in jax.tree.leaves(x))
    measure = jnp.dtype("float64" if wide else "float32")  # bfloat16 is too coarse to measure in
    default = _default_tolerance(x, measure)
    rtol = default.rtol if rtol is None else _scalar("rtol", rtol, measure, least=0)
    atol = default.atol if atol is None else _scalar("atol", atol, measure, least=0)
    max_steps = _scalar("max_steps", max_steps, jnp.dtype("int32"), least=1)
    return _Tolerance(rtol, atol, max_steps)


def _default_tolerance(x: PyTree, measure: np.dtype) -> _Tolerance:
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))
    tiny = float(jnp.finfo(measure).tiny)
    return _Tolerance(jnp.asarray(eps**0.75, measure), jnp.asarray(tiny**0.5, measure), jnp.asarray(0))


def _scalar(name: str, value: Any, dtype: np.dtype, least: int) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"fixed_point: {name} must be one number, got shape {jnp.shape(value)}")
    if dtype.kind == "i" and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(f"fixed_point: {name} must be an integer, got {value!r}")
    if not isinstance(value, jax.core.Tracer) and not np.asarray(value) >= least:
        raise ValueError(f"fixed_point: {name} must be at least {least}, got {value!r}")
    return jnp.asarray(value).astype(dtype)


# Arithmetic on pytrees ----------------------------------------------------------------------------


def _subtract(x: PyTree, y: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, x, y)


def _scale(factor: Array, x: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, x)


def _max_abs(x: PyTree, dtype: np.dtype) -> Float[Array, ""]:
    leaves = [jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in jax.tree.leaves(x)]
    return jnp.max(jnp.stack(leaves))
