"""Local bounds: as tight as a quadratic can be within theta's own distance from where it touches.

    bound = logistic_bound(features, labels)
    bound = bound.tuned(best, posterior_scale(log_prior, bound, best))      a LocalBound

A quadratic below log L_n for all theta is far more curved than log L_n, most of all where the datum is all
but certain. But theta is hardly ever far away. Let t_n = x_n.theta be the predictor, t0 its value at
theta_0, and d = t - t0. Within a distance r of theta_0, |scale^-1 (theta - theta_0)| < r, it is |d| <= r
|scale' x_n| = w, and

    log B = f(t0) + f'(t0) d - c(w) d^2 / 2,    c(w) = the least c for which this is below f for all |d| <= w,

is a bound of log L = f(t) at each theta, r being theta's own distance: so it is a bound everywhere,
exactly. Far out c(w) is that of the bounds of Jaakkola and Jordan, near by it is the curvature of log L
itself. As the data grow in number, w shrinks like 1 / sqrt(N), and the number of bright points does too.

f is even, but for a linear part, with -f'' first positive and decreasing, then never positive: then the
bound for c = h(d) = 2 (f(t0) + f'(t0) d - f(t0 + d)) / d^2 touches f at t0 + d, and c(w) is h at the end of
the interval that lies towards the origin, or at -t0 if that is nearer, where Jaakkola and Jordan's bound
touches; and zero if that is negative. (Bound and f have the difference F, which bends downwards in one
interval around the origin only, where -f'' > c. Going from t0 towards the origin F first rises, then falls,
and it does not rise again before -t0, since there its slope has the sign of c(infinity) - c. So it is
positive up to d if it is at d.)

Sums over data are made for a few distances, see shells.py. Source of the bound that touches twice: T.
Jaakkola and M. Jordan, AISTATS 1997; that no quadratic is sharper: J. de Leeuw and K. Lange, Sharp
quadratic majorization in one dimension, Computational Statistics and Data Analysis 53, 2009. The rest is
our own.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from chainrule.inference.flymc.shells import MARGIN, Shells, interpolated, shells, spread_of
from chainrule.inference.flymc.statistics import representable

NEAREST = 1e-3  # for less than this h is not computed, which loses squares, but -f'' nearest to the origin
BLOCK = 1 << 13  # data whose sums are made at a time


@runtime_checkable
class Curve(Protocol):
    """A log likelihood f as a function of one predictor: even but for a linear part, see above. Hashable."""

    def log_likelihood(self, t: Float[Array, "*rows"]) -> Float[Array, "*rows"]: ...

    def slope(self, t: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """f'."""
        ...

    def bend(self, t: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """-f''."""
        ...

    def fall(self, t0: Float[Array, "*rows"], d: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        """f(t0) + f'(t0) d - f(t0 + d), without cancellation for small d."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalBound:
    """A Bound for data with one predictor each; theta has shape (dims,). Made by `tuned(theta, scale)`."""

    features: Float[Array, "data dims"]  # the predictors' derivatives
    predictors: Float[Array, " data"]  # at the reference
    spread: Float[Array, " data"]  # largest change of a predictor for a distance of 1
    reference: Float[Array, " dims"]  # theta_0
    shells: Shells
    linear: Float[Array, " dims"]  # derivative of the sum of log bounds at the reference
    quadratic: Float[Array, "levels dims dims"]  # sum of c x x^T
    curve: Curve = dataclasses.field(metadata={"static": True})

    @property
    def num_data(self) -> int:
        return len(self.predictors)

    def gap(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        d, c, t0 = self._at(theta, rows)
        return c * d**2 / 2 - self.curve.fall(t0, d)

    def log_bound(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        d, c, t0 = self._at(theta, rows)
        return self.curve.log_likelihood(t0) + self.curve.slope(t0) * d - c * d**2 / 2

    def collapsed(self, theta: Float[Array, " dims"]) -> Float[Array, ""]:
        away = theta - self.reference
        quadratic = interpolated(self.quadratic, self.shells.level(away))
        return self.linear @ away - away @ quadratic @ away / 2

    def _at(self, theta, rows):
        away = theta - self.reference
        level = self.shells.level(away)
        t0, spread = self.predictors[rows], self.spread[rows]
        near, far = (curvature(self.curve, t0, radius * spread) for radius in self.shells.radii_at(level))
        return self.features[rows] @ away, (1 - level.part) * near + level.part * far, t0


def local_bound(curve: Curve, features, predictors, reference, scale) -> LocalBound:
    """The bound of data whose predictors at the reference are these, and change with theta by features."""
    dtype = features.dtype
    around = shells(scale, reference.size, dtype)
    spread = spread_of(features @ jnp.asarray(scale, dtype))
    linear, quadratic = local_sums(curve, features, predictors, spread, around)
    return LocalBound(features, predictors, spread, reference, around, linear, quadratic, curve)


def curvature(curve: Curve, t0: Float[Array, "*rows"], w: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """c(w): the least that makes a bound for |d| <= w, and a few units of rounding more."""
    reach = jnp.minimum(w, 2 * jnp.abs(t0))
    d = jnp.maximum(reach, NEAREST)
    h = 2 * curve.fall(t0, jnp.where(t0 > 0, -d, d)) / d**2
    c = jnp.where(reach > NEAREST, h, curve.bend(jnp.maximum(jnp.abs(t0) - w, 0)))
    return jnp.maximum(c, 0) * (1 + MARGIN * float(jnp.finfo(t0.dtype).eps))


def local_sums(curve: Curve, features, predictors, spread, around: Shells):
    """sum f'(t0) x, and sum c x x^T for each shell: blocks on the device, their sums in double precision."""

    @jax.jit
    def of_block(x, t0, s):
        def of_shell(radius):
            weighted = x * curvature(curve, t0, radius * s)[:, None]
            return jnp.matmul(weighted.T, x, precision="highest")

        return jnp.matmul(curve.slope(t0), x, precision="highest"), lax.map(of_shell, around.radii)

    dims = features.shape[1]
    linear, quadratic = np.zeros(dims), np.zeros((len(around.radii), dims, dims))
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        first, second = of_block(features[rows], predictors[rows], spread[rows])
        linear += np.asarray(first, np.float64)
        quadratic += np.asarray(second, np.float64)
    return representable(features.dtype, linear, quadratic)
