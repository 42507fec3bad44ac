"""Softmax regression under Boehning's bound.

    bound = softmax_bound(features, labels, num_classes=3)
    bound = bound.tuned(theta)             touches where theta is
    bound = bound.tuned(theta, scale)      and hugs around it: see local_softmax.py

With scores y = theta x and label t the log likelihood is y_t - log sum exp(y). Its second derivative is never
below -A = -(I - 1 1^T / K) / 2, so with g = softmax(y0) and d = y - y0

    log B = log L(y0) + d_t - g.d - d.A d / 2.

The curvature A is the same for all data: a tuned bound touches at theta, but does not hug there.

Source: D. Boehning, Multinomial logistic regression algorithm, Annals of the Institute of Statistical
Mathematics 44, 1992.
"""

import dataclasses
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from chainrule.inference.flymc.local_softmax import LocalSoftmaxBound, local_softmax_bound
from chainrule.inference.flymc.remainder import remainder
from chainrule.inference.flymc.statistics import checked, theta_like, touching_at, weighted_sums


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftmaxBound:
    """A Bound for softmax regression; theta has shape (classes, dims). Made by `softmax_bound`."""

    features: Float[Array, "data dims"]
    labels: Int[Array, " data"]  # from 0 on
    touching: Float[Array, "data classes"]  # the scores at which bound and likelihood agree
    reference: Float[Array, "classes dims"]  # the theta from which `collapsed` counts
    linear: Float[Array, "classes dims"]  # derivative of the sum of log bounds there
    gram: Float[Array, "dims dims"]  # sum of x x^T

    @property
    def num_data(self) -> int:
        return len(self.labels)

    def gap(self, theta: Float[Array, "classes dims"], rows: Int[Array, " rows"]) -> Float[Array, " rows"]:
        return softmax_gap(self.features[rows] @ theta.T, self.touching[rows])

    def log_bound(
        self, theta: Float[Array, "classes dims"], rows: Int[Array, " rows"]
    ) -> Float[Array, " rows"]:
        y0 = self.touching[rows]
        d = self.features[rows] @ theta.T - y0
        mine = jax.nn.one_hot(self.labels[rows], y0.shape[1], dtype=y0.dtype)
        log_g = jax.nn.log_softmax(y0)
        d = d - d.mean(1, keepdims=True)
        return jnp.sum(mine * (log_g + d) - jnp.exp(log_g) * d - d**2 / 4, 1)

    def collapsed(self, theta: Float[Array, "classes dims"]) -> Float[Array, ""]:
        away = theta - self.reference
        centred = away - away.mean(0, keepdims=True)
        return jnp.sum(self.linear * away) - jnp.sum((centred @ self.gram) * centred) / 4

    @overload
    def tuned(self, theta: Float[Array, "classes dims"], scale: None = None) -> "SoftmaxBound": ...
    @overload
    def tuned(
        self, theta: Float[Array, "classes dims"], scale: Float[Array, "numbers numbers"]
    ) -> LocalSoftmaxBound: ...
    def tuned(self, theta, scale=None):
        """The bound that touches every datum's likelihood at theta, say the most probable one.

        Args:
            theta: where.
            scale: a square root of the posterior's covariance, `posterior_scale(log_prior, bound, theta)`, of
                shape (classes * dims, classes * dims). With it, the bound is a local one, far tighter within
                that distance: see local_softmax.py. It holds matrices of that size.
        """
        theta = theta_like("SoftmaxBound.tuned", theta, self.reference)
        if scale is not None:
            return local_softmax_bound(self.features, self.labels, theta, scale)
        return _made(self.features, self.labels, self.features @ theta.T, theta)

    def centred(self, theta: Float[Array, "classes dims"]) -> "SoftmaxBound":
        """The same bound, its sums counted from theta: near it, single precision needs that."""
        theta = theta_like("SoftmaxBound.centred", theta, self.reference)
        return _made(self.features, self.labels, self.touching, theta)


def softmax_bound(features, labels, *, num_classes: int | None = None, touching: float = 1.5) -> SoftmaxBound:
    """Boehning's bound for labels of several classes.

    Args:
        features: (data, dims), floating; a column of ones makes an intercept.
        labels: (data,), whole numbers from 0 on.
        num_classes: one more than the largest label, if None.
        touching: the score of the right class, all others being 0, at which it touches, until
            `.tuned(theta)`.

    Raises:
        ValueError: for shapes that do not fit, labels that are none, numbers that are not finite.
    """
    features, labels = checked("softmax_bound", features, labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.min() < 0:
        raise ValueError(
            f"softmax_bound: labels are {labels.dtype} from {labels.min()} on, must be whole, from 0 on"
        )
    classes = int(labels.max()) + 1
    if num_classes is not None and num_classes < classes:
        raise ValueError(f"softmax_bound: label {classes - 1} is beyond num_classes = {num_classes}")
    classes = max(num_classes or classes, 2)
    touching_scores = touching_at("softmax_bound", touching) * jax.nn.one_hot(
        labels, classes, dtype=features.dtype
    )
    return _made(features, labels, touching_scores, jnp.zeros((classes, features.shape[1]), features.dtype))


def softmax_gap(y: Float[Array, "rows classes"], y0: Float[Array, "rows classes"]) -> Float[Array, " rows"]:
    """d.A d / 2 - (log sum exp(y) - log sum exp(y0) - g.d), with d = y - y0 and g = softmax(y0).

    With x = d less the middle between its largest and its smallest entry, w and -w, and with the mean E under
    softmax(y0 + t d), it is

        (sum x^2 - K mean(x)^2 - 2 w^2) / 4 + int_0^1 (1 - t) (E[(w - x)(w + x)] + E[x]^2) dt.

    No term is negative. The integral is done by quadrature for w < 1, else as a difference, which then loses
    one digit.
    """
    d = y - y0
    top, bottom = d.max(1, keepdims=True), d.min(1, keepdims=True)
    w, x = (top - bottom) / 2, d - (top + bottom) / 2
    log_g = jax.nn.log_softmax(y0)
    # The classes of the largest and the smallest entry leave the first term; the rest of it is positive.
    count = jnp.arange(d.shape[1])[None]
    ends = (count == jnp.argmax(d, 1, keepdims=True)) | (count == jnp.argmin(d, 1, keepdims=True))
    inner = jnp.where(ends, 0, x)
    spread = (jnp.sum(inner**2, 1) - jnp.sum(inner, 1) ** 2 / d.shape[1]) / 2
    near = w < 1

    def variation(t):
        p = jax.nn.softmax(log_g[None] + t * jnp.where(near, x, 0)[None])
        inside = (top - d) * (d - bottom)
        return jnp.sum(p * inside[None], 2) + jnp.sum(p * x[None], 2) ** 2

    far = jnp.where(near, 0, x)
    cumulant = jax.nn.logsumexp(log_g + far, 1) - jnp.sum(jnp.exp(log_g) * far, 1)
    half = jnp.where(near[:, 0], remainder(variation, 2, y.dtype), w[:, 0] ** 2 / 2 - cumulant)
    return spread / 2 + half


def _made(features, labels, touching, reference) -> SoftmaxBound:
    g = np.asarray(jax.nn.softmax(touching), np.float64)
    d = np.asarray(features @ reference.T - touching, np.float64)
    slope = np.eye(g.shape[1])[np.asarray(labels)] - g - (d - d.mean(1, keepdims=True)) / 2
    linear, gram = weighted_sums(features, slope, np.ones(len(labels)))
    return SoftmaxBound(features, labels, touching, reference, linear, gram)
