"""When to stop: tolerances that follow the dtype, and the size of a pytree that they are compared with.

Tolerance(rtol, atol, max_steps)   array arguments all three: new values compile nothing anew
tolerance_for(x, rtol, atol, ...)  what the user gave, checked, and defaults for the rest
default_tolerance(x)               eps**(3/4) of the coarsest dtype in x
max_abs(x)                         max |x| over all leaves
unit_of(x), over(x, unit)          the power of two at it, and x divided by that
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree


class Tolerance(NamedTuple):
    """Stop once a step is at most atol + rtol * max |x|, and after max_steps in any case."""

    rtol: Float[Array, ""]
    atol: Float[Array, ""]  # in units of x
    max_steps: Int[Array, ""]


def tolerance_for(x: PyTree, rtol: Any, atol: Any, max_steps: Any, caller: str) -> Tolerance:
    """The user's settings, where they are not None.

    Raises:
        TypeError, ValueError: for a setting that is no number, or a nonsensical one.
    """
    measure = measure_of(x)
    default = default_tolerance(x)
    rtol = default.rtol if rtol is None else _scalar(caller, "rtol", rtol, measure, least=0)
    atol = default.atol if atol is None else _scalar(caller, "atol", atol, measure, least=0)
    # A traced value cannot be refused here: no step is short by it.
    sensible = (rtol >= 0) & (atol >= 0)
    rtol, atol = jnp.where(sensible, rtol, 0), jnp.where(sensible, atol, -jnp.inf)
    return Tolerance(rtol, atol, _scalar(caller, "max_steps", max_steps, jnp.dtype("int32"), least=1))


def default_tolerance(x: PyTree, max_steps: Any = 1000) -> Tolerance:
    """eps**(3/4), which leaves a quarter of the digits to rounding; and the least normal number of float32,
    or 1e-154 in float64, which halving reaches in 500 steps."""
    measure = measure_of(x)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in inexact_leaves(x))
    tiny = float(jnp.finfo(measure).tiny)
    return Tolerance(
        jnp.asarray(eps**0.75, measure), jnp.asarray(max(tiny, 1e-154), measure), jnp.asarray(max_steps)
    )


def measure_of(x: PyTree) -> np.dtype:
    """The dtype to measure x in: float64 if any of it is; float32 if not, since bfloat16 is too coarse."""
    wide = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in inexact_leaves(x))
    return jnp.dtype("float64" if wide else "float32")


def max_abs(x: PyTree, measure: np.dtype) -> Float[Array, ""]:
    """max |x| over the floating and complex leaves."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0).astype(measure) for leaf in inexact_leaves(x)]
    return sizes[0] if len(sizes) == 1 else jnp.max(jnp.stack(sizes))


def unit_of(x: PyTree, measure: np.dtype) -> Float[Array, ""]:
    """The power of two at max |x|, or one where that is zero or no number; no derivative flows through it.

    In units of it squares neither overflow nor vanish, and all digits stay.
    """
    size = lax.stop_gradient(max_abs(x, measure))
    exponent = jnp.frexp(jnp.where((size > 0) & jnp.isfinite(size), size, 1))[1]
    return jnp.ldexp(jnp.ones_like(size), exponent - 1)


def over(x: PyTree, unit: Float[Array, ""]) -> PyTree:
    """x / unit, in the dtypes of x."""
    return jax.tree.map(lambda leaf: leaf / unit.astype(leaf.real.dtype), x)


def is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact_leaves(x: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(x) if is_inexact(leaf)]


def other_leaves(x: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(x) if not is_inexact(leaf)]


def replace_inexact(x: PyTree, leaves: Iterable[Array]) -> PyTree:
    """x with other floating and complex leaves."""
    replacing = iter(leaves)
    return jax.tree.map(lambda leaf: next(replacing) if is_inexact(leaf) else leaf, x)


def _scalar(caller: str, name: str, value: Any, dtype: np.dtype, least: int) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"{caller}: {name} must be one number, got shape {jnp.shape(value)}")
    if dtype.kind == "i" and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(f"{caller}: {name} must be an integer, got {value!r}")
    if not isinstance(value, jax.core.Tracer) and not np.asarray(value) >= least:
        raise ValueError(f"{caller}: {name} must be at least {least}, got {value!r}")
    return jnp.asarray(value).astype(dtype)
