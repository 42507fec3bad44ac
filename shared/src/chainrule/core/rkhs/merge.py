"""Equal points put together.

merge(f)     f with one atom for each distinct point
"""

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.core.rkhs.function import RKHSFun


def merge(f: RKHSFun) -> RKHSFun:
    """f with one atom for each distinct point, in the order in which the points first appear.

    For what a sum of functions does not recognise: points that come again in another batch, and anything
    that was computed under jit.

    Args:
        f: a function with known points, so outside jit. The coefficients may be traced.

    Returns:
        the same function.

    Raises:
        TypeError: if points are traced, since how many are distinct is not known then.

    Example:
        >>> f = RKHSFun(Matern32(), jnp.array([[0.0], [1.0], [0.0]]), jnp.array([1.0, 2.0, 3.0]))
        >>> print(merge(f).coefficients)
        [4. 2.]
    """
    if not f.blocks:
        return f
    points, coefficients = f.points, f.coefficients
    if isinstance(points, jax.core.Tracer):
        raise TypeError(
            "rkhs.merge: the points are traced, so how many are distinct is not known. Way out: merge "
            "outside of jit, or use a BufferedFun"
        )
    _, first, group = np.unique(np.asarray(points), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.argsort(order)[group.reshape(-1)]
    summed = jnp.zeros(len(first), coefficients.dtype).at[place].add(coefficients)
    return RKHSFun(f.kernel, points[first[order]], summed)
