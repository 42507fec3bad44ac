"""Kernel ridge regression, which is the posterior mean of a Gaussian process.

    fit(kernel, X, y, noise)     the f that minimises sum_i (f(x_i) - y_i)^2 + noise |f|^2

The result is differentiable with respect to the kernel's hyperparameters, the noise, X and y, by implicit
differentiation of the linear system: no iterate is stored.

Source: the regression of the slides "User-defined types: reproducing kernel Hilbert space", at its maximum;
Rasmussen and Williams, Gaussian Processes for Machine Learning, equation 2.25.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from chainrule.core.rkhs._pytree import register
from chainrule.core.rkhs.function import RKHSFun, floating
from chainrule.core.rkhs.kernels import PRECISION, Kernel
from chainrule.core.status import Stats, Status, raise_unless_converged
from chainrule.core.tolerance import unit_of

OnFailure = Literal["nan", "raise", "ignore"]

_WAYS_OUT = {
    Status.MAX_STEPS: "raise max_steps or noise, loosen rtol, or use float64",
    Status.NONFINITE: "the kernel, X, y or noise hold NaN or infinity, or k is not positive definite",
}


@register
class Fit:
    """A fitted function and the record of how it was found."""

    function: RKHSFun  # atoms at X; NaN in lanes that failed, unless on_failure="ignore"
    stats: Stats  # of the linear solve: steps, residual in units of y, status


def fit(
    kernel: Kernel,
    X: ArrayLike,
    y: ArrayLike,
    noise: ArrayLike,
    *,
    rtol: ArrayLike | None = None,
    max_steps: int | None = None,
    on_failure: OnFailure = "nan",
) -> Fit:
    """Minimise sum_i (f(x_i) - y_i)^2 + noise |f|^2 over all f of the space.

    The functional gradient 2 sum_i (f(x_i) - y_i) k(x_i, .) + 2 noise f is zero for f = sum_i a_i k(x_i, .)
    with

        (K + noise I) a = y.

    f is the posterior mean of a Gaussian process with covariance k, given y with noise of that variance.
    The system is solved by conjugate gradients; they are done once the residual itself, not the one that
    the recurrence carries along, satisfies

        |y - (K + noise I) a| <= rtol |y| + min(8 eps (|K|_F + noise) |a|, sqrt(eps) |y|).

    The second term is what rounding leaves of any method, as long as that is little. f is off by no more than
    the residual, as the norm of all its errors at X. Time is n^2 a step, memory n^2 numbers.

    Args:
        kernel: of the space.
        X: where f is observed, shape (n, dim).
        y: what was observed, shape (n,).
        noise: variance of y about f, in squared units of y if the kernel has those too; positive.
        rtol: relative residual; default eps**(3/4) of the dtype (2e-12 in float64, 6e-6 in float32).
        max_steps: products with K allowed, for each solve; default 10 n + 100. In exact arithmetic n do.
        on_failure: what becomes of a lane that does not converge, in value or derivative. "nan": NaN.
            "raise": a RuntimeError with the status and the way out, raised on the host when the result is
            computed (as jax.errors.JaxRuntimeError or, on JAX's fast path, as ValueError, with the same
            words). "ignore": whatever number there is.

    Returns:
        Fit: `function`, whose points are X, and `stats`.

    Raises:
        TypeError, ValueError: at once, for arrays that do not fit together and settings that make no sense.

    Example:
        >>> X = jnp.arange(5.0)[:, None]
        >>> y = jnp.array([1.0, 2.0, 3.0, 2.0, 1.0])
        >>> f = fit(SquaredExponential(), X, y, noise=0.01).function
        >>> print(f"{f(jnp.array([2.0])):.2f} {f(jnp.array([1.5])):.2f}")
        2.97 2.67
    """
    X, y = floating(X), floating(y)
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"rkhs.fit: X must have shape (n, dim) and y (n,), got {X.shape} and {y.shape}")
    if jnp.shape(noise) != ():
        raise ValueError(f"rkhs.fit: noise must be one number, got shape {jnp.shape(noise)}")
    if not isinstance(noise, jax.core.Tracer) and not np.asarray(noise) > 0:
        raise ValueError(f"rkhs.fit: noise must be positive, got {noise}")
    if on_failure not in get_args(OnFailure):
        raise ValueError(f"rkhs.fit: on_failure must be one of {get_args(OnFailure)}, got {on_failure!r}")
    max_steps = 10 * len(y) + 100 if max_steps is None else max_steps
    if max_steps < 1:
        raise ValueError(f"rkhs.fit: max_steps must be at least 1, got {max_steps}")
    K = kernel.gram(X)
    y = y.astype(jnp.result_type(y, K))
    rtol = jnp.finfo(y.dtype).eps ** 0.75 if rtol is None else rtol
    noise, rtol = (jnp.asarray(x).astype(y.dtype) for x in (noise, rtol))
    a, stats = _solve(K, noise, y, rtol, max_steps, on_failure)
    return Fit(RKHSFun(kernel, X, a), stats)


def _solve(K, noise, y, rtol, max_steps, on_failure):
    """(K + noise I)^-1 y with its derivatives, and how the solve went."""

    def product(v):
        return jnp.matmul(K, v, precision=PRECISION) + noise * v

    # In units of the system and of b, so that squares neither overflow nor vanish.
    unit = lax.stop_gradient(unit_of(K, K.dtype) + noise)
    size = lax.stop_gradient(jnp.linalg.norm(K / unit) + noise / unit)

    def solve(product, b):
        unit_of_b = unit_of(b, b.dtype)
        a, stats = _conjugate_gradients(lambda v: product(v) / unit, b / unit_of_b, size, rtol, max_steps)
        a = a * (unit_of_b / unit)
        stats = dataclasses.replace(stats, residual=stats.residual * unit_of_b)
        if on_failure == "raise":
            stats = raise_unless_converged(stats, "rkhs.fit", _WAYS_OUT)
        if on_failure != "ignore":
            a = a * jnp.where(stats.status == Status.CONVERGED, 1, jnp.nan).astype(a.dtype)
        # JAX wants tangents of what comes out, so the counts travel as floating numbers.
        return a, [x.astype(b.dtype) for x in (stats.steps, stats.residual, stats.status)]

    a, record = lax.custom_linear_solve(product, y, solve, symmetric=True, has_aux=True)
    steps, residual, status = lax.stop_gradient(record)
    return a, Stats(steps.astype(jnp.int32), residual, status.astype(jnp.int32))


def _conjugate_gradients(product: Any, b: Any, size: Any, rtol: Any, max_steps: int) -> tuple[Any, Stats]:
    """A^-1 b for A symmetric and positive definite with norm at most `size`.

    `jax.scipy.sparse.linalg.cg` tells neither its steps nor whether it got there, and stops by the residual
    that it carries along, which for a smooth kernel ends up far below the true one.
    """
    renew = 50  # steps after which the residual is computed anew: it drifts from the one carried along
    eps, of_b = jnp.finfo(b.dtype).eps, jnp.linalg.norm(b)

    def target(x):
        return rtol * of_b + jnp.minimum(8 * eps * size * jnp.linalg.norm(x), eps**0.5 * of_b)

    def going(state):
        x, r, _, steps, is_true = state
        done = is_true & (jnp.linalg.norm(r) <= target(x))
        return ~done & (steps < max_steps) & jnp.isfinite(jnp.linalg.norm(r))

    def step(state):
        x, r, p, steps, _ = state
        Ap, r_sq = product(p), r @ r
        along = r_sq / (p @ Ap)
        x, shorter = x + along * p, r - along * Ap
        steps = steps + 1
        seems_done = (jnp.linalg.norm(shorter) <= target(x)) | (steps == max_steps)
        is_true = seems_done | (steps % renew == 0)
        r = lax.cond(is_true, lambda: b - product(x), lambda: shorter)
        begin_anew = seems_done | (jnp.linalg.norm(r - shorter) > 0.1 * jnp.linalg.norm(r))
        p = r + jnp.where(begin_anew, 0, r @ r / r_sq) * p
        return x, r, p, steps, is_true

    x, r, _, steps, is_true = lax.while_loop(going, step, (jnp.zeros_like(b), b, b, 0, jnp.asarray(True)))
    residual = jnp.linalg.norm(r)
    reached = jnp.where(is_true & (residual <= target(x)), Status.CONVERGED, Status.MAX_STEPS)
    status = jnp.where(jnp.isfinite(residual), reached, Status.NONFINITE)  # inf <= inf
    return x, Stats(jnp.asarray(steps), residual, status)
