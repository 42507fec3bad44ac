"""The functions of one kernel as a vector space, for code that is written for any.

Functions(kernel, dim)     with zeros(), add(f, g), scale(c, f), inner(f, g), random(key)
"""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from chainrule.core.rkhs._pytree import register, static
from chainrule.core.rkhs.function import RKHSFun
from chainrule.core.rkhs.inner import inner
from chainrule.core.rkhs.kernels import Kernel


@register
class Functions:
    """The space of all f = sum_i a_i k(x_i, .), of points with `dim` coordinates.

    Example:
        >>> space = Functions(Matern52(), dim=2)
        >>> f, g = space.random(jax.random.key(0)), space.random(jax.random.key(1))
        >>> h = space.add(f, space.scale(2.0, g))
        >>> print(len(h.points), bool(space.inner(h, h) > 0))
        8 True

    Source: slides "User-defined types": a Hilbert space has scalar multiples, sums and inner products.
    """

    kernel: Kernel
    dim: int = static()
    atoms: int = static(default=4)  # of a random function

    def zeros(self) -> RKHSFun:
        return RKHSFun.zero(self.kernel, self.dim)

    def add(self, f: RKHSFun, g: RKHSFun) -> RKHSFun:
        return f + g

    def scale(self, factor: ArrayLike, f: RKHSFun) -> RKHSFun:
        return factor * f

    def inner(self, f: RKHSFun, g: RKHSFun) -> Float[Array, ""]:
        return inner(f, g)

    def random(self, key: PRNGKeyArray) -> RKHSFun:
        """`atoms` atoms at points of a standard normal distribution, with such coefficients."""
        of_points, of_coefficients = jax.random.split(key)
        points = jax.random.normal(of_points, (self.atoms, self.dim))
        return RKHSFun(self.kernel, points, jax.random.normal(of_coefficients, (self.atoms,)))
