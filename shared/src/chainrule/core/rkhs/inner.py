"""Inner products of functions.

inner(f, g)     <f, g>, from <k(x, .), k(y, .)> = k(x, y)
norm_sq(f)      <f, f>

Source: the slides "User-defined types: reproducing kernel Hilbert space" of the talk The Chain Rule
Unchained (D. Maclaurin).
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from chainrule.core.rkhs._argument import evaluate_argument, inner_of_arguments
from chainrule.core.rkhs.function import as_function, common_space, nan_unless
from chainrule.core.rkhs.kernels import PRECISION


def inner(f: Any, g: Any) -> Float[Array, ""]:
    """The inner product of two functions of one space.

    For f = sum_i a_i k(x_i, .) and g = sum_j b_j k(y_j, .),

        <f, g> = sum_ij a_i b_j k(x_i, y_j).

    Its functional gradient with respect to f is g, and with respect to g it is f.

    Args:
        f, g: functions with the same kernel.

    Returns:
        a number.

    Raises:
        TypeError, ValueError: for what is no function, and for different kernels or dimensions.

    Example:
        >>> f = RKHSFun(Linear(), jnp.array([[1.0]]), jnp.array([3.0]))
        >>> g = RKHSFun(Linear(), jnp.array([[2.0]]), jnp.array([1.0]))
        >>> print(inner(f, g), f(jnp.array([2.0])))
        6.0 6.0

    Source: slides "User-defined types: reproducing kernel Hilbert space", <k(x, .), f> = f(x).
    """
    f, g = as_function(f), as_function(g)
    _, _, same = common_space(f, g)
    (of_f, f), (of_g, g) = f.split(), g.split()
    dtypes = [dtype for dtype in (f.dtype, g.dtype) if dtype is not None]
    total = jnp.zeros((), jnp.result_type(*(dtypes or [float])))
    if f.blocks and g.blocks:
        total = total + jnp.dot(f.coefficients, g(f.points), precision=PRECISION)
    # <f, sum_j b_j k(y_j, .)> = sum_j b_j f(y_j), block by block, so that points remain recognisable
    for arguments, known in ((of_f, g), (of_g, f)):
        for argument in arguments:
            for block in known.atoms():
                total = total + jnp.dot(block.coefficients, evaluate_argument(argument, block.points))
    total = total + sum(inner_of_arguments(a, b) for a in of_f for b in of_g)
    return nan_unless(same, total)


def norm_sq(f: Any) -> Float[Array, ""]:
    """The squared norm |f|^2 = <f, f>; its functional gradient is 2 f."""
    return inner(f, f)
