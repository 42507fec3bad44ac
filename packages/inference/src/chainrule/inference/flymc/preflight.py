"""What can be said about a prior, a bound and a theta before anything is compiled.

check_fit(where, log_prior, bound, position)    raises if they do not go together, naming which and why
check_is(where, name, part, kind, such_as)      raises if a part of a kernel is not of its kind, say a class
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

MEMBERS = ("num_data", "gap", "log_bound", "collapsed")  # of a Bound


def check_fit(where: str, log_prior: Callable[[PyTree], Any], bound: Any, position: PyTree) -> None:
    """Try shapes and dtypes of everything that sampling evaluates.

    Raises:
        TypeError: if the bound lacks a member or is no pytree of arrays, if theta does not have the shape
            that prior and bound are for, if they return other shapes than they should, or differ in dtype.
    """
    missing = [name for name in MEMBERS if not hasattr(bound, name)]
    if missing:
        raise TypeError(
            f"{where}: the bound, a {type(bound).__name__}, lacks {', '.join(missing)}; flymc.Bound says "
            "what a bound needs"
        )
    for leaf in jax.tree.leaves(bound):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{where}: {type(leaf).__name__} in the bound is no array. Register the class of the bound "
                "by jax.tree_util.register_dataclass, with its settings as static fields"
            )
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(position)}
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise TypeError(f"{where}: theta has dtype {sorted(map(str, dtypes))}, must be floating")
    found = {
        "log prior": _traced(where, "log prior", log_prior, position),
        "bound.collapsed": _traced(where, "bound.collapsed", bound.collapsed, position),
        "bound.gap": _traced(where, "bound.gap", bound.gap, position, jax.ShapeDtypeStruct((2,), jnp.int32)),
    }
    for name, out in found.items():
        expected = (2,) if name == "bound.gap" else ()
        if jnp.shape(out) != expected:
            what = "one number for each row" if expected else "one number"
            raise TypeError(
                f"{where}: {name} has shape {jnp.shape(out)} where {expected} is due: it must be {what}"
            )
    smooth = jax.eval_shape(lambda theta: log_prior(theta) + bound.collapsed(theta), position)
    returned = {found["bound.gap"].dtype, smooth.dtype}
    if len(dtypes | returned) != 1:
        raise TypeError(
            f"{where}: theta has dtype {sorted(map(str, dtypes))}, gap, log prior and sum of log bounds "
            f"are {sorted(map(str, returned))}: they must be one floating dtype. Cast theta, or the features"
        )


def check_is(where: str, name: str, part: Any, kind: type, such_as: str) -> None:
    """Whether a part of a kernel has what a protocol asks for, and is not a class or function in its place.

    Raises:
        TypeError: if not.
    """
    if isinstance(part, type) or not isinstance(part, kind):
        raise TypeError(f"{where}: {name} is {part}, must be a {kind.__name__} such as {such_as}")


def _traced(where, name, function, position, *rest):
    try:
        return jax.eval_shape(function, position, *rest)
    except (TypeError, ValueError) as error:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(position)]
        raise TypeError(f"{where}: theta of shape {shapes} does not fit the {name}: {error}") from error
