"""Families of distributions over D numbers that are drawn by shaping noise, so that a draw has a derivative.

    MeanField()            independent normal numbers
    FullRank()             a Gaussian with any covariance
    Mixture(components)    a mixture of independent normal numbers, drawn in strata

Each has `init`, `draw`, `log_density`, `entropy` and `natural`. Their parameters are NamedTuples. Those of a
Gaussian are a mean and a factor L of its covariance L L^T, with the logarithms of L's diagonal: of
standard deviations, not of variances as in the talk's tweet.

Source: Kucukelbir et al., Automatic differentiation variational inference, JMLR 2017; for the mixture,
`mixture_variational_inference.py` among the examples of autograd.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

# Narrow at the start: noise in the first gradients is small, and the fit widens as the target allows.
INIT_SCALE = 0.1
HIGHEST = lax.Precision.HIGHEST  # by default a GPU rounds float32 factors to 10 bits


class Draws(NamedTuple):
    """Points whose weighted sum is an expectation under q."""

    points: Float[Array, "draws D"]
    weights: Float[Array, " draws"]  # sum to one


@runtime_checkable
class Family(Protocol):
    """What `fit` needs of a family."""

    def init(self, key: Key[Array, ""], mean: Float[Array, " D"], scale: float) -> PyTree:
        """Parameters of a start around a mean."""
        ...

    def draw(self, key: Key[Array, ""], q: Any, draws: int, antithetic: bool = False) -> Draws:
        """Points as a differentiable function of the parameters q; antithetic ones are mirrored in pairs."""
        ...

    def log_density(self, q: Any, points: Float[Array, "draws D"]) -> Float[Array, " draws"]:
        """log q of each point, in nats."""
        ...

    def entropy(self, q: Any) -> Float[Array, ""] | None:
        """-E log q in closed form, in nats; None where there is none."""
        ...

    def natural(self, q: Any, gradient: Any) -> Any:
        """The inverse of the Fisher information of q times a gradient by its parameters."""
        ...


class Gaussian(NamedTuple):
    """N(mean, L L^T)."""

    mean: Float[Array, "*lanes D"]
    log_scale: Float[Array, "*lanes D"]  # logarithms of the diagonal of L
    below: Float[Array, "*lanes D D"] | None = (
        None  # L below its diagonal, what else it holds is not looked at
    )

    def factor(self) -> Float[Array, "D D"]:
        """L, lower triangular."""
        diagonal = jnp.diag(jnp.exp(self.log_scale))
        return diagonal if self.below is None else jnp.tril(self.below, -1) + diagonal

    def covariance(self) -> Float[Array, "D D"]:
        """L L^T."""
        return jnp.matmul(self.factor(), self.factor().T, precision=HIGHEST)


@dataclasses.dataclass(frozen=True)
class MeanField:
    """Independent normal numbers: 2 D parameters, a Gaussian without `below`."""

    def init(self, key: Key[Array, ""], mean: Float[Array, " D"], scale: float) -> Gaussian:
        return Gaussian(mean, jnp.full_like(mean, math.log(scale)))

    def draw(self, key: Key[Array, ""], q: Gaussian, draws: int, antithetic: bool = False) -> Draws:
        noise = _noise(key, (draws, q.mean.size), q.mean.dtype, antithetic)
        return _equal(q.mean[None] + jnp.exp(q.log_scale)[None] * noise)

    def log_density(self, q: Gaussian, points: Float[Array, "draws D"]) -> Float[Array, " draws"]:
        return _log_normal((points - q.mean[None]) * jnp.exp(-q.log_scale)[None], q.log_scale)

    def entropy(self, q: Gaussian) -> Float[Array, ""]:
        return _entropy(q.log_scale)

    def natural(self, q: Gaussian, gradient: Gaussian) -> Gaussian:
        """The Fisher information is diagonal: exp(-2 log_scale) of the means, 2 of the log scales."""
        return Gaussian(jnp.exp(2 * q.log_scale) * gradient.mean, gradient.log_scale / 2)


@dataclasses.dataclass(frozen=True)
class FullRank:
    """A Gaussian with any covariance: D mean, D (D + 1) / 2 of its factor L."""

    def init(self, key: Key[Array, ""], mean: Float[Array, " D"], scale: float) -> Gaussian:
        below = jnp.zeros((mean.size, mean.size), mean.dtype)
        return Gaussian(mean, jnp.full_like(mean, math.log(scale)), below)

    def draw(self, key: Key[Array, ""], q: Gaussian, draws: int, antithetic: bool = False) -> Draws:
        noise = _noise(key, (draws, q.mean.size), q.mean.dtype, antithetic)
        return _equal(q.mean[None] + jnp.matmul(noise, q.factor().T, precision=HIGHEST))

    def log_density(self, q: Gaussian, points: Float[Array, "draws D"]) -> Float[Array, " draws"]:
        solve = jax.scipy.linalg.solve_triangular
        noise = solve(q.factor(), (points - q.mean[None]).T, lower=True).T
        return _log_normal(noise, q.log_scale)

    def entropy(self, q: Gaussian) -> Float[Array, ""]:
        return _entropy(q.log_scale)

    def natural(self, q: Gaussian, gradient: Gaussian) -> Gaussian:
        """In the coordinates d, B of a small change mean + L d, L (1 + B), B lower triangular, the Fisher
        information is diagonal: 1, but 2 on the diagonal of B. So with G = L^T (gradient by L),

            d mean = L L^T (gradient by mean),    B = G below its diagonal, G / 2 on it.
        """
        L = q.factor()
        below = jnp.zeros_like(L) if gradient.below is None else jnp.tril(gradient.below, -1)
        by_L = below + jnp.diag(gradient.log_scale * jnp.exp(-q.log_scale))
        G = jnp.matmul(L.T, by_L, precision=HIGHEST)
        B = jnp.tril(G, -1) + jnp.diag(jnp.diag(G)) / 2
        moved = jnp.matmul(q.covariance(), gradient.mean, precision=HIGHEST)
        return Gaussian(moved, jnp.diag(B), jnp.tril(jnp.matmul(L, B, precision=HIGHEST), -1))


class MixtureParameters(NamedTuple):
    """sum_k softmax(logits)_k N(mean_k, diag(exp(2 log_scale_k)))."""

    logits: Float[Array, "*lanes components"]
    mean: Float[Array, "*lanes components D"]
    log_scale: Float[Array, "*lanes components D"]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of independent normal numbers.

    Each component is drawn from equally often and its draws are weighted by its share, so that the shares
    have a derivative as well, and no draw is spent on choosing. Its entropy has no closed form.

    Args:
        components: how many; the number of draws must be a multiple.
        spread: of their means at the start, in multiples of the scale there: all alike would stay alike.
    """

    components: int
    spread: float = 10.0

    def init(self, key: Key[Array, ""], mean: Float[Array, " D"], scale: float) -> MixtureParameters:
        shape = (self.components, mean.size)
        means = mean[None] + self.spread * scale * jax.random.normal(key, shape, mean.dtype)
        log_scale = jnp.full(shape, math.log(scale), mean.dtype)
        return MixtureParameters(jnp.zeros(self.components, mean.dtype), means, log_scale)

    def draw(self, key: Key[Array, ""], q: MixtureParameters, draws: int, antithetic: bool = False) -> Draws:
        if draws % self.components:
            raise ValueError(
                f"Mixture: draws = {draws} must be a multiple of its {self.components} components, which are "
                "drawn from equally often"
            )
        each = draws // self.components
        noise = _noise(key, (self.components, each, q.mean.shape[1]), q.mean.dtype, antithetic)
        points = q.mean[:, None] + jnp.exp(q.log_scale)[:, None] * noise
        weights = jnp.repeat(jax.nn.softmax(q.logits) / each, each)
        return Draws(points.reshape(draws, -1), weights)

    def log_density(self, q: MixtureParameters, points: Float[Array, "draws D"]) -> Float[Array, " draws"]:
        each = jax.vmap(lambda mean, log_scale: MeanField().log_density(Gaussian(mean, log_scale), points))
        log_shares = jax.nn.log_softmax(q.logits)[:, None]
        return jax.nn.logsumexp(log_shares + each(q.mean, q.log_scale), axis=0)

    def entropy(self, q: MixtureParameters) -> None:
        return None

    def natural(self, q: MixtureParameters, gradient: MixtureParameters) -> MixtureParameters:
        raise ValueError(
            "Mixture: the Fisher information of a mixture has no closed form; use natural_gradient with "
            "MeanField or FullRank"
        )


def _noise(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any, antithetic: bool) -> Array:
    """Standard normal numbers; antithetic ones with their negatives, along the last axis but one."""
    if not antithetic:
        return jax.random.normal(key, shape, dtype)
    *before, draws, D = shape
    half = jax.random.normal(key, (*before, (draws + 1) // 2, D), dtype)
    return jnp.concatenate([half, -half[..., : draws // 2, :]], axis=-2)


def _equal(points: Float[Array, "draws D"]) -> Draws:
    return Draws(points, jnp.full(len(points), 1 / len(points), points.dtype))


def _log_normal(noise: Float[Array, "draws D"], log_scale: Float[Array, " D"]) -> Float[Array, " draws"]:
    constant = jnp.sum(log_scale) + log_scale.size * math.log(2 * math.pi) / 2
    return -jnp.sum(noise**2, axis=1) / 2 - constant


def _entropy(log_scale: Float[Array, " D"]) -> Float[Array, ""]:
    return jnp.sum(log_scale) + log_scale.size * (1 + math.log(2 * math.pi)) / 2
