"""Logistic regression under Jaakkola and Jordan's bound.

    bound = logistic_bound(features, labels)     touches at y = +-1.5 for every datum: untuned
    bound = bound.tuned(theta)                   touches where theta is
    bound = bound.tuned(theta, scale)            and hugs around it: see local.py

With y = +-x.theta the likelihood is 1 / (1 + exp(-y)). log L - y / 2 = -log(2 cosh(y / 2)) is convex in
s = y^2, so its tangent in s at y0^2 is a bound of L that is quadratic in theta:

    log B = y / 2 - a (y^2 - y0^2) - log(2 cosh(y0 / 2)),    a = tanh(y0 / 2) / (4 y0).

Source: T. Jaakkola and M. Jordan, A variational approach to Bayesian logistic regression models and their
extensions, AISTATS 1997.
"""

import dataclasses
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from chainrule.inference.flymc.local import LocalBound, local_bound
from chainrule.inference.flymc.remainder import FAR, exp_less_line, remainder_and_slope
from chainrule.inference.flymc.statistics import checked, theta_like, touching_at, weighted_sums


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogisticBound:
    """A Bound for logistic regression; theta has shape (dims,). Made by `logistic_bound`."""

    signed: Float[Array, "data dims"]  # features times the label, +1 or -1
    touching: Float[Array, " data"]  # |y| at which bound and likelihood agree
    reference: Float[Array, " dims"]  # the theta from which `collapsed` counts
    linear: Float[Array, " dims"]  # derivative of the sum of log bounds there
    quadratic: Float[Array, "dims dims"]  # sum of a x x^T

    @property
    def num_data(self) -> int:
        return self.signed.shape[0]

    def gap(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        return logistic_gap(self.signed[rows] @ theta, self.touching[rows])

    def log_bound(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        y, y0 = self.signed[rows] @ theta, self.touching[rows]
        return y / 2 - _slope(y0) * (y - y0) * (y + y0) - _log_2cosh(y0 / 2)

    def collapsed(self, theta: Float[Array, " dims"]) -> Float[Array, ""]:
        away = theta - self.reference  # counted from a theta nearby, rounding is that of small numbers
        return self.linear @ away - away @ self.quadratic @ away

    @overload
    def tuned(self, theta: Float[Array, " dims"], scale: None = None) -> "LogisticBound": ...
    @overload
    def tuned(self, theta: Float[Array, " dims"], scale: Float[Array, "dims dims"]) -> LocalBound: ...
    def tuned(self, theta, scale=None):
        """The bound that touches every datum's likelihood at theta, say the most probable one.

        Args:
            theta: where.
            scale: a square root of the posterior's covariance, `posterior_scale(log_prior, bound, theta)`.
                With it, the bound is a local one, far tighter within that distance: see local.py.
        """
        theta = theta_like("LogisticBound.tuned", theta, self.reference)
        y = self.signed @ theta
        if scale is not None:
            return local_bound(LogisticCurve(), self.signed, y, theta, scale)
        return _made(self.signed, jnp.abs(y), theta)

    def centred(self, theta: Float[Array, " dims"]) -> "LogisticBound":
        """The same bound, its sums counted from theta: near it, single precision needs that."""
        return _made(self.signed, self.touching, theta_like("LogisticBound.centred", theta, self.reference))


def logistic_bound(features, labels, *, touching: float = 1.5) -> LogisticBound:
    """Jaakkola and Jordan's bound for labels of two kinds.

    Args:
        features: (data, dims), floating; a column of ones makes an intercept.
        labels: (data,), of 0 and 1, or of False and True, or of -1 and 1.
        touching: |y| at which it touches: 1.5 as in the paper, whose data were 68 % bright there. Call
            `.tuned(theta)` on the result for a bound that leaves few points bright.

    Raises:
        ValueError: for shapes that do not fit, labels of other values, numbers that are not finite.
    """
    features, labels = checked("logistic_bound", features, labels)
    values = set(np.unique(labels).tolist())
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(
            f"logistic_bound: labels are {sorted(values)[:5]}, must be 0 and 1, or -1 and 1. For more "
            "classes there is softmax_bound"
        )
    signed = features * jnp.where(labels > 0, 1, -1).astype(features.dtype)[:, None]
    y0 = jnp.full(len(labels), abs(touching_at("logistic_bound", touching)), features.dtype)
    return _made(signed, y0, jnp.zeros(features.shape[1], features.dtype))


@dataclasses.dataclass(frozen=True)
class LogisticCurve:
    """log(1 / (1 + exp(-y))), as `local_bound` wants it."""

    def log_likelihood(self, t):
        return jax.nn.log_sigmoid(t)

    def slope(self, t):
        return jax.nn.sigmoid(-t)

    def bend(self, t):
        return jax.nn.sigmoid(t) * jax.nn.sigmoid(-t)

    def fall(self, t0, d):
        """That of log sum exp for two classes. With b = -|t0| no term is large beside the sum."""
        b, d = -jnp.abs(t0), jnp.where(t0 > 0, -d, d)
        q = jax.nn.sigmoid(b)
        near = jnp.abs(d) < FAR
        small, large = jnp.where(near, d, 0), jnp.where(near, FAR, d)
        close = jnp.log1p(q * exp_less_line((1 - q) * small) + (1 - q) * exp_less_line(-q * small))
        return jnp.where(near, close, jax.nn.softplus(b + large) - jax.nn.softplus(b) - q * large)


@jax.custom_jvp
def logistic_gap(y: Float[Array, "*rows"], y0: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """log L - log B at y, of the bound that touches at y0: with v = |y| / 2, s = v^2 and f(s) = log cosh(v),

    f(s0) + f'(s0) (s - s0) - f(s),    f'(s) = tanh(v) / (2 v).

    f is concave, with singularities at s = -(k + 1/2)^2 pi^2 only. Where s and s0 are closer to each
    other than to the first of them, this is Taylor's remainder by quadrature, else the difference as it
    stands, which then loses one digit. So is the slope, f'(s0) - f'(s), from the same values.
    """
    return _gap_and_slope(y, y0)[0]


@logistic_gap.defjvp
def _logistic_gap_jvp(at, along):
    (y, y0), (dy, dy0) = at, along
    gap, slope = _gap_and_slope(y, y0)
    bend = _bend(y0**2 / 4) * (y - y0) * (y + y0) / 4
    return gap, slope * y / 2 * dy - bend * y0 / 2 * dy0


def _gap_and_slope(y, y0):
    """The gap, and its derivative in s."""
    v, v0 = jnp.abs(y) / 2, jnp.abs(y0) / 2
    apart = (v - v0) * (v + v0)
    near = jnp.abs(apart) < jnp.minimum(v, v0) ** 2 + (jnp.pi / 2) ** 2
    step = jnp.where(near, apart, 0)
    rest, slope = remainder_and_slope(lambda t: _bend(v0[None] ** 2 + t * step[None]), y.ndim, y.dtype)
    far = jnp.where(near, v0 + 1, v)
    steep = 4 * _slope(2 * v0)
    wide = steep * (far - v0) * (far + v0) - (_log_2cosh(far) - _log_2cosh(v0))
    return jnp.where(near, step**2 * rest, wide), jnp.where(near, step * slope, steep - 4 * _slope(2 * far))


def _made(signed, touching, reference) -> LogisticBound:
    y0 = np.asarray(signed @ reference, np.float64)
    a = np.asarray(_slope(touching), np.float64)
    linear, quadratic = weighted_sums(signed, 0.5 - 2 * a * y0, a)
    return LogisticBound(signed, touching, reference, linear, quadratic)


def _log_2cosh(v):
    v = jnp.abs(v)
    return v + jnp.log1p(jnp.exp(-2 * v))


def _slope(y0):
    """a = tanh(y0 / 2) / (4 y0), 1/8 at 0."""
    small = jnp.abs(y0) < 1e-3
    y = jnp.where(small, 1, y0)
    return jnp.where(small, (1 - y0**2 / 12) / 8, jnp.tanh(y / 2) / (4 * y))


def _series(terms: int) -> list[float]:
    """c_k of tanh(v) = sum c_k v^(2k + 1), from tanh' = 1 - tanh^2."""
    c = [1.0]
    for k in range(1, terms):
        c.append(-sum(c[i] * c[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return c


SMALL = 0.25  # in s; below it the difference in _bend loses a digit, and the series gains one every term
TERMS = {2: 4, 4: 8, 8: 17}  # by bytes of a number
BEND = [k * -c / 2 for k, c in enumerate(_series(18))][1:]


def _bend(s):
    """-f''(s) = (tanh v - v / cosh(v)^2) / (4 v^3), s = v^2: positive, 1/6 at 0."""
    small = s < SMALL
    v = jnp.sqrt(jnp.where(small, 1, s))
    tanh = jnp.tanh(v)
    direct = (tanh - v * (1 - tanh**2)) / (4 * v**3)
    s = jnp.where(small, s, 0)
    series = jnp.zeros_like(s)
    for coefficient in reversed(BEND[: TERMS[s.dtype.itemsize]]):
        series = series * s + coefficient
    return jnp.where(small, series, direct)
