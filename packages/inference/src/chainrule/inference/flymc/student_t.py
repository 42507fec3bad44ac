"""Robust linear regression: Student-t noise, bounded by a Gaussian that touches at two residuals.

    bound = student_t_bound(features, targets, degrees_of_freedom=4.0, scale=1.0)
    bound = bound.tuned(theta)             touches where theta is
    bound = bound.tuned(theta, scale)      and hugs around it: see local.py

With the residual r = (t - x.theta) / scale, log L = -(v + 1) / 2 log(1 + r^2 / v) + c is convex in r^2, so
its tangent in r^2 at r0^2 is a bound that is quadratic in theta:

    log B = log L(r0) - (v + 1) / 2 (r^2 - r0^2) / (v + r0^2).

The gap is (v + 1) / 2 (u - log(1 + u)) with u = (r^2 - r0^2) / (v + r0^2).
"""

import dataclasses
import math
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from chainrule.inference.flymc.local import LocalBound, local_bound
from chainrule.inference.flymc.statistics import checked, theta_like, touching_at, weighted_sums


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StudentTBound:
    """A Bound for regression with Student-t noise; theta has shape (dims,). Made by `student_t_bound`."""

    features: Float[Array, "data dims"]  # divided by the scale
    targets: Float[Array, " data"]  # divided by the scale
    touching: Float[Array, " data"]  # |residual| over scale at which bound and likelihood agree
    reference: Float[Array, " dims"]  # the theta from which `collapsed` counts
    linear: Float[Array, " dims"]  # derivative of the sum of log bounds there
    quadratic: Float[Array, "dims dims"]  # minus half its second derivative
    degrees_of_freedom: float = dataclasses.field(metadata={"static": True})
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def num_data(self) -> int:
        return len(self.targets)

    def gap(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        return student_t_gap(self._residual(theta, rows), self.touching[rows], self.degrees_of_freedom)

    def log_bound(self, theta: Float[Array, " dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        r, r0, v = self._residual(theta, rows), self.touching[rows], self.degrees_of_freedom
        u = (r - r0) * (r + r0) / (v + r0**2)
        return _log_normaliser(v, self.scale) - (v + 1) / 2 * (jnp.log1p(r0**2 / v) + u)

    def collapsed(self, theta: Float[Array, " dims"]) -> Float[Array, ""]:
        away = theta - self.reference
        return self.linear @ away - away @ self.quadratic @ away

    @overload
    def tuned(self, theta: Float[Array, " dims"], scale: None = None) -> "StudentTBound": ...
    @overload
    def tuned(self, theta: Float[Array, " dims"], scale: Float[Array, "dims dims"]) -> LocalBound: ...
    def tuned(self, theta, scale=None):
        """The bound that touches every datum's likelihood at theta, say the most probable one.

        Args:
            theta: where.
            scale: a square root of the posterior's covariance, `posterior_scale(log_prior, bound, theta)`.
                With it, the bound is a local one, far tighter within that distance: see local.py.
        """
        theta = theta_like("StudentTBound.tuned", theta, self.reference)
        residual = self.targets - self.features @ theta
        if scale is not None:
            curve = StudentTCurve(self.degrees_of_freedom, self.scale)
            return local_bound(curve, -self.features, residual, theta, scale)
        touching = jnp.abs(residual)
        return _made(self.features, self.targets, touching, theta, self.degrees_of_freedom, self.scale)

    def centred(self, theta: Float[Array, " dims"]) -> "StudentTBound":
        """The same bound, its sums counted from theta: near it, single precision needs that."""
        theta = theta_like("StudentTBound.centred", theta, self.reference)
        return _made(self.features, self.targets, self.touching, theta, self.degrees_of_freedom, self.scale)

    def _residual(self, theta, rows):
        return self.targets[rows] - self.features[rows] @ theta


def student_t_bound(
    features, targets, *, degrees_of_freedom: float = 4.0, scale: float = 1.0, touching: float = 0.5
) -> StudentTBound:
    """The Gaussian bound of Student-t regression.

    Args:
        features: (data, dims), floating.
        targets: (data,), in the unit of scale.
        degrees_of_freedom: v > 0; 4 as in the paper. Smaller ones forgive outliers more.
        scale: of the noise.
        touching: |residual| / scale at which it touches, until `.tuned(theta)`.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite or not positive.
    """
    features, targets = checked("student_t_bound", features, targets)
    if not (degrees_of_freedom > 0 and scale > 0):
        raise ValueError(
            f"student_t_bound: degrees_of_freedom = {degrees_of_freedom} and scale = {scale} must be positive"
        )
    x, t = features / scale, targets.astype(features.dtype) / scale
    r0 = jnp.full(len(t), abs(touching_at("student_t_bound", touching)), x.dtype)
    return _made(x, t, r0, jnp.zeros(x.shape[1], x.dtype), float(degrees_of_freedom), float(scale))


def student_t_gap(
    r: Float[Array, "*rows"], r0: Float[Array, "*rows"], degrees_of_freedom: float
) -> Float[Array, "*rows"]:
    """(v + 1) / 2 (u - log(1 + u)): log L - log B at the residual r, of the bound that touches at r0."""
    r, r0, v = jnp.abs(r), jnp.abs(r0), degrees_of_freedom
    u = (r - r0) * (r + r0) / (v + r0**2)
    near = jnp.abs(u) < 0.5
    # Near -1, u has lost what log(1 + u) lives on.
    other = jnp.where(near, r0 + 1, r)
    far = (other - r0) * (other + r0) / (v + r0**2) - jnp.log((v + other**2) / (v + r0**2))
    return (v + 1) / 2 * jnp.where(near, _minus_log1p(jnp.where(near, u, 0)), far)


@dataclasses.dataclass(frozen=True)
class StudentTCurve:
    """The log density as a function of the residual, as `local_bound` wants it."""

    degrees_of_freedom: float
    scale: float

    def log_likelihood(self, t):
        v = self.degrees_of_freedom
        return _log_normaliser(v, self.scale) - (v + 1) / 2 * jnp.log1p(t**2 / v)

    def slope(self, t):
        v = self.degrees_of_freedom
        return -(v + 1) * t / (v + t**2)

    def bend(self, t):
        v = self.degrees_of_freedom
        return (v + 1) * (v - t**2) / (v + t**2) ** 2

    def fall(self, t0, d):
        """(v + 1) / 2 (log(1 + u) - 2 t0 d / (v + t0^2)), with 1 + u = (v + t^2) / (v + t0^2)."""
        v = self.degrees_of_freedom
        wide = v + t0**2
        u = d * (2 * t0 + d) / wide
        near = jnp.abs(u) < 0.5
        close = d**2 / wide - _minus_log1p(jnp.where(near, u, 0))
        far = jnp.log((v + jnp.where(near, t0, t0 + d) ** 2) / wide) - 2 * t0 * d / wide
        return (v + 1) / 2 * jnp.where(near, close, far)


def _log_normaliser(v, scale):
    return math.lgamma((v + 1) / 2) - math.lgamma(v / 2) - math.log(v * math.pi) / 2 - math.log(scale)


TERMS = {2: 3, 4: 6, 8: 14}  # of the series, by bytes of a number


def _minus_log1p(u):
    """u - log(1 + u) for |u| < 1/2, by log(1 + u) = 2 artanh(w), w = u / (2 + u)."""
    w = u / (2 + u)
    series = jnp.zeros_like(w)
    for k in reversed(range(TERMS[u.dtype.itemsize])):
        series = series * w**2 + 1 / (2 * k + 3)
    return u**2 / (2 + u) - 2 * w**3 * series


def _made(features, targets, touching, reference, degrees_of_freedom, scale) -> StudentTBound:
    a = (degrees_of_freedom + 1) / 2 / (degrees_of_freedom + np.asarray(touching, np.float64) ** 2)
    residual = np.asarray(targets - features @ reference, np.float64)
    linear, quadratic = weighted_sums(features, 2 * a * residual, a)
    return StudentTBound(features, targets, touching, reference, linear, quadratic, degrees_of_freedom, scale)
