"""A mixture of Gaussians whose points are not seen, but only hinted at by potentials.

    pi ~ Dirichlet,   (mu_k, Sigma_k) ~ NIW,   z ~ pi,   x | z ~ N(mu_z, Sigma_z),   hint ~ exp(-x'Jx/2 + h'x)

GMM.prior(clusters, latents)         the prior, which is a GMM of natural parameters
prior.scattered(key, spread)         where training starts: clusters with means apart
model.expected_statistics()          what local inference needs to know of a GMM
GMM.posterior(statistics, hints)     q(z) q(x) of each datum by mean field -> MixturePosterior

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), and `models/gmm.py` of
github.com/mattjj/svae.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax import lax
from jaxtyping import Array, Float, Key

from chainrule.core import Stats
from chainrule.core.adjoints import Adjoint
from chainrule.svae.expfam import NIW, Dirichlet, kl
from chainrule.svae.mean_field import IMPLICIT, OnFailure, settle
from chainrule.svae.messages import Potentials


class MixturePosterior(NamedTuple):
    """q(z) q(x) of each datum."""

    labels: Float[Array, "data clusters"]  # q(z), probabilities
    mean: Float[Array, "data latents"]  # of q(x)
    covariance: Float[Array, "data latents latents"]
    factor: Float[Array, "data latents latents"]  # R with R R' = covariance
    kl: Float[Array, " data"]  # from E log p(z, x | parameters), in nats
    stats: Stats  # rounds of mean field, and whether they settled

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples data latents"]:
        """Draws of x, differentiable."""
        return draws(key, self.mean, self.factor, samples)


def draws(
    key: Key[Array, ""],
    mean: Float[Array, "*batch latents"],
    factor: Float[Array, "*batch latents latents"],
    samples: int,
) -> Float[Array, "samples *batch latents"]:
    """Of Gaussians with covariance R R', R being the factor."""
    noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
    apart = jnp.einsum("...ij,s...j->s...i", factor, noise)
    return jnp.broadcast_to(mean, apart.shape) + apart


class GMM(NamedTuple):
    """Natural parameters of a mixture's parameters; or, in the same fields, their expected statistics."""

    leading = 1  # axes of a batch: data
    weights: Dirichlet
    components: NIW  # a batch of them, one for each cluster

    @classmethod
    def prior(
        cls,
        clusters: int,
        latents: int,
        *,
        concentration: float = 0.05,
        kappa: float = 0.5,
        scale: float = 1.0,
        nu: float | None = None,
    ) -> "GMM":
        """Clusters around zero, of which few are used.

        Args:
            clusters: the most there can be.
            latents: coordinates of x.
            concentration: of the Dirichlet, all clusters together. Below one it prefers few.
            kappa: how many data the mean of a cluster, zero, is worth.
            scale: the covariance of a cluster that is expected.
            nu: degrees of freedom: how many data that covariance is worth; latents + 2 unless given.

        Raises:
            ValueError: for settings that are no distribution.
        """
        nu = latents + 2.0 if nu is None else nu
        repeat = lambda value: jnp.full(clusters, value)
        S = scale * nu * jnp.broadcast_to(jnp.eye(latents), (clusters, latents, latents))
        components = NIW.of(jnp.zeros((clusters, latents)), repeat(kappa), S, repeat(nu))
        return cls(Dirichlet.of(repeat(concentration / clusters)), components)

    def scattered(self, key: Key[Array, ""], *, spread: float, scale: float, data: float = 10.0) -> "GMM":
        """A posterior to start from: every cluster in use, with a mean of its own.

        From the prior itself, where all clusters are alike, nothing would ever part them.

        Args:
            key: for the means.
            spread: their standard deviation around zero.
            scale: variance of each cluster.
            data: how many data each of them stands for.
        """
        clusters, latents = self.components.x.shape
        means = spread * jax.random.normal(key, (clusters, latents), self.components.x.dtype)
        square = scale * jnp.eye(latents, dtype=means.dtype)
        seen = data * (means[:, :, None] * means[:, None, :] + square[None])
        count = jnp.full(clusters, data, means.dtype)
        components = jax.tree.map(jnp.add, self.components, NIW(seen, data * means, count, count))
        return GMM(Dirichlet(self.weights.alpha + data), components)

    def expected_statistics(self) -> "GMM":
        """E log pi, and for each cluster (-E L / 2, E L mu, -E mu'L mu / 2, E log|L| / 2)."""
        return GMM(self.weights.expected_statistics(), self.components.expected_statistics())

    def kl(self, prior: "GMM") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    @staticmethod
    def posterior(
        statistics: "GMM",
        potentials: Potentials,
        *,
        adjoint: Adjoint = IMPLICIT,
        rtol: float | None = None,
        max_steps: int = 200,
        on_failure: OnFailure = "one-step",
    ) -> MixturePosterior:
        """q(z) q(x) of each datum, which maximise

            E_q <potentials, x> - KL(q(z) q(x) || E log p(z, x)),

        by turns: the best q(x) given q(z) is Gaussian, the best q(z) given q(x) is a softmax. They start from
        the label that the potential itself suggests.

        Args:
            statistics: expected statistics of a mixture, or any that stand for them.
            potentials: of each datum, (data, latents), diagonal and without centres.
            adjoint, rtol, max_steps, on_failure: as in `mean_field.settle`.
        """
        inferred = lambda J, h: _posterior(
            statistics, Potentials(J, h), (adjoint, rtol, max_steps, on_failure)
        )
        return jax.vmap(inferred)(potentials.J, potentials.h)


def _posterior(statistics, potentials, settings):
    adjoint, rtol, max_steps, on_failure = settings

    def round(a, labels):
        statistics, potentials = a
        factor, mean = gaussian_given(statistics.components, potentials, labels)
        return jax.nn.softmax(_logits(statistics, mean, factor))

    a = statistics, potentials
    start = lax.stop_gradient(_suggested(statistics, potentials))
    labels, stats = settle(
        round, a, start, adjoint=adjoint, rtol=rtol, max_steps=max_steps, on_failure=on_failure
    )
    factor, mean = gaussian_given(statistics.components, potentials, labels)
    logits = _logits(statistics, mean, factor)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    log_labels = jnp.log(
        jnp.maximum(labels, jnp.finfo(labels.dtype).tiny)
    )  # the slope of p log p at zero is not finite
    kl = labels @ (log_labels - logits) - half_log_det - mean.size / 2
    return MixturePosterior(labels, mean, factor @ factor.T, factor, kl, stats)


def gaussian_given(
    components: NIW, potentials: Potentials, labels: Float[Array, " clusters"]
) -> tuple[Float[Array, "latents latents"], Float[Array, " latents"]]:
    """R and the mean of q(x) of one datum, given q(z): R = L^-T with L L' = J, the precision."""
    J = -2 * jnp.einsum("k,kij->ij", labels, components.xx) + jnp.diag(potentials.J)
    h = labels @ components.x + potentials.h
    L = lax.linalg.cholesky(J)
    factor = jax.scipy.linalg.solve_triangular(L, jnp.eye(h.size, dtype=h.dtype), lower=True).T
    return factor, factor @ (factor.T @ h)


def expected_log_likelihoods(
    components: NIW, mean: Float[Array, " latents"], factor: Float[Array, "latents latents"]
) -> Float[Array, " clusters"]:
    """E log p(x | z = k) for each k, without latents * log(2 pi) / 2, which the entropy of x cancels."""
    moments = NIW(factor @ factor.T + jnp.outer(mean, mean), mean, jnp.ones(()), jnp.ones(()))
    squares = jnp.einsum("kij,ij->k", components.xx, moments.xx)
    return squares + components.x @ moments.x + components.kappa + components.nu


def _logits(statistics, mean, factor):
    """E log p(z = k, x) for each k."""
    return statistics.weights.alpha + expected_log_likelihoods(statistics.components, mean, factor)


def _suggested(statistics, potentials):
    """q(z) for x where the potential has it, or by the weights where there is none."""
    known = jnp.all(potentials.J > 0)
    J = jnp.where(potentials.J > 0, potentials.J, 1)
    logits = _logits(statistics, potentials.h / J, jnp.diag(1 / jnp.sqrt(J)))
    return jax.nn.softmax(jnp.where(known, logits, statistics.weights.alpha))
