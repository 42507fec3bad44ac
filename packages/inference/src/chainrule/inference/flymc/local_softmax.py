"""Softmax regression under a local bound: Boehning's where it must be, far tighter near one theta.

    bound = softmax_bound(features, labels)
    bound = bound.tuned(best, posterior_scale(log_prior, bound, best))      a LocalSoftmaxBound

See local.py for the idea. Let y0 be a datum's scores at theta_0, p their softmax, and d = y - y0. If no two
entries of d differ by more than w, probabilities change by factors that differ by exp(w) at most, so under
the softmax of y0 + t d every variance is at most exp(w t) times that under p. With that under the integral
of Taylor's remainder,

    log sum exp(y) <= log sum exp(y0) + p.d + kappa(w) Var_p(d) / 2,    kappa(w) = 2 (exp(w) - 1 - w) / w^2.

A distance r from theta_0 allows w = r max_kl |scale_k' x - scale_l' x|. Where kappa(w) Var_p is larger than
Boehning's matrix in its trace, that is taken, datum by datum: which shell is the last with a curvature of
its own is part of the bound.

Source: the variance of log sum exp as in F. Bach, Self-concordant analysis for logistic regression,
Electronic Journal of Statistics 4, 2010; Boehning's bound in softmax.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from chainrule.inference.flymc.remainder import FAR, exp_less_line
from chainrule.inference.flymc.shells import MARGIN, Shells, interpolated, shells, spread_of
from chainrule.inference.flymc.statistics import representable

BLOCK = 1 << 10  # rows whose matrices are added up at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalSoftmaxBound:
    """A Bound for softmax regression; theta has shape (classes, dims). Made by `tuned(theta, scale)`."""

    features: Float[Array, "data dims"]
    labels: Int[Array, " data"]
    scores: Float[Array, "data classes"]  # at the reference
    spread: Float[Array, " data"]  # largest change of a difference of scores for a distance of 1
    last: Int[Array, " data"]  # the shell up to which the curvature is the datum's own; -1 for none
    reference: Float[Array, "classes dims"]  # theta_0
    shells: Shells
    linear: Float[Array, "classes dims"]  # derivative of the sum of log bounds at the reference
    quadratic: Float[Array, "levels numbers numbers"]  # minus the sum's second derivative, in each shell

    @property
    def num_data(self) -> int:
        return len(self.labels)

    def gap(self, theta: Float[Array, "classes dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        d, curved = self._at(theta, rows)
        return curved - _fall(self.scores[rows], d)

    def log_bound(
        self, theta: Float[Array, "classes dims"], rows: Int[Array, " rows"]
    ) -> Float[Array, " rows"]:
        d, curved = self._at(theta, rows)
        log_p = jax.nn.log_softmax(self.scores[rows])
        mine = jax.nn.one_hot(self.labels[rows], d.shape[1], dtype=d.dtype)
        return jnp.sum(mine * (log_p + d) - jnp.exp(log_p) * d, 1) - curved

    def collapsed(self, theta: Float[Array, "classes dims"]) -> Float[Array, ""]:
        away = (theta - self.reference).ravel()
        quadratic = interpolated(self.quadratic, self.shells.level(away))
        return self.linear.ravel() @ away - away @ quadratic @ away / 2

    def _at(self, theta, rows):
        """d, and the bound's fall below its tangent."""
        away = theta - self.reference
        level = self.shells.level(away.ravel())
        d, p = self.features[rows] @ away.T, jax.nn.softmax(self.scores[rows])
        apart = d - jnp.sum(p * d, 1, keepdims=True)
        own = jnp.sum(p * apart**2, 1)
        boehning = jnp.sum((d - d.mean(1, keepdims=True)) ** 2, 1) / 2
        near, far = (
            jnp.where(
                level.index + step <= self.last[rows], _kappa(radius * self.spread[rows]) * own, boehning
            )
            for step, radius in enumerate(self.shells.radii_at(level))
        )
        margin = 1 + MARGIN * float(jnp.finfo(d.dtype).eps)
        return d, ((1 - level.part) * near + level.part * far) * (margin / 2)


def local_softmax_bound(features, labels, reference, scale) -> LocalSoftmaxBound:
    """The bound that touches at the reference, for posteriors with this scale around it."""
    dtype, (classes, dims) = features.dtype, reference.shape
    around = shells(scale, reference.size, dtype)
    factor = jnp.asarray(scale, dtype).reshape(classes, dims, -1)
    spread = jnp.zeros(len(features), dtype)
    for k in range(classes):
        for other in range(k):
            spread = jnp.maximum(spread, spread_of(features @ (factor[k] - factor[other])))
    scores = features @ reference.T
    last = last_own(scores, spread, around)
    linear, quadratic = _sums(features, labels, scores, spread, last, around)
    return LocalSoftmaxBound(features, labels, scores, spread, last, reference, around, linear, quadratic)


def _kappa(w):
    """2 (exp(w) - 1 - w) / w^2, 1 at 0; infinite where an exponential is."""
    w = jnp.clip(w, 1e-3, FAR)
    return 2 * exp_less_line(w) / w**2


def last_own(scores, spread, around):
    """The last shell in which kappa Var_p has a smaller trace than Boehning's matrix; -1 for none."""
    p = jax.nn.softmax(scores)
    boehning = (p.shape[1] - 1) / 2
    number = jnp.zeros(len(p), jnp.int32)
    for radius in around.radii[:-2]:
        w = radius * spread
        smaller = (_kappa(w) * jnp.sum(p * (1 - p), 1) < boehning) & (w < FAR)
        number = number + smaller.astype(jnp.int32)  # kappa grows with the radius: the first ones, then none
    return number - 1


def _fall(scores, d):
    """log sum exp(y0 + d) - log sum exp(y0) - p.d."""
    log_p = jax.nn.log_softmax(scores)
    p = jnp.exp(log_p)
    x = d - jnp.sum(p * d, 1, keepdims=True)
    near = jnp.max(jnp.abs(x), 1) < FAR
    close = jnp.log1p(jnp.sum(p * exp_less_line(jnp.where(near[:, None], x, 0)), 1))
    return jnp.where(near, close, jax.nn.logsumexp(log_p + jnp.where(near[:, None], 0, x), 1))


def _sums(features, labels, scores, spread, last, around):
    """sum (label - p) x^T, and the second derivatives, added up in double precision."""
    (size, dims), classes, levels = features.shape, scores.shape[1], len(around.radii)
    numbers = classes * dims
    linear, quadratic = np.zeros((classes, dims)), np.zeros((levels, classes, dims, classes, dims))
    boehning = (np.eye(classes) - 1 / classes) / 2
    margin = 1 + MARGIN * float(jnp.finfo(features.dtype).eps)
    p = np.asarray(jax.nn.softmax(scores), np.float64)
    kappa = jax.jit(_kappa)
    for start in range(0, size, BLOCK):
        rows = slice(start, start + BLOCK)
        x, q = np.asarray(features[rows], np.float64), p[rows]
        linear += (np.eye(classes)[np.asarray(labels[rows])] - q).T @ x
        square = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
        own = q[:, :, None] * np.eye(classes) - q[:, :, None] * q[:, None, :]
        for level, radius in enumerate(np.asarray(around.radii)):
            is_own = np.asarray(last[rows]) >= level
            weight = np.asarray(kappa(radius * spread[rows]), np.float64) * is_own
            curvature = weight[:, None, None] * own + (~is_own)[:, None, None] * boehning
            total = curvature.reshape(len(x), -1).T @ square
            quadratic[level] += margin * total.reshape(classes, classes, dims, dims).transpose(0, 2, 1, 3)
    return representable(features.dtype, linear, quadratic.reshape(levels, numbers, numbers))
