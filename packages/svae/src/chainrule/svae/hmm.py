"""A hidden Markov model whose points are not seen, but only hinted at by potentials.

    z_1 ~ pi_0 ,   z_t | z_{t-1} ~ pi_{z_{t-1}} ,   each pi ~ Dirichlet
    x_t | z_t ~ N(mu_z, Sigma_z) ,                  (mu_k, Sigma_k) ~ NIW
    hint_t ~ exp(-x'J x/2 + h'x)

HMM.prior(states, latents)           the prior, which is an HMM of natural parameters
prior.scattered(key, spread)         where training starts: states with means apart
model.expected_statistics()          what local inference needs to know of it
HMM.posterior(statistics, hints)     q(z) q(x) of each sequence by mean field -> StatesPosterior

It is the mixture of `gmm`, whose labels follow one another. That of known parameters, with likelihoods in
place of hints, is `messages.HMM`.

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), for a local optimum.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from chainrule.core import Stats
from chainrule.core.adjoints import Adjoint
from chainrule.svae import messages
from chainrule.svae.expfam import NIW, Dirichlet, kl
from chainrule.svae.gmm import GMM, draws, expected_log_likelihoods, gaussian_given
from chainrule.svae.mean_field import IMPLICIT, OnFailure, settle
from chainrule.svae.messages import Potentials


class StatesPosterior(NamedTuple):
    """q(z) q(x) of sequences."""

    labels: Float[Array, "sequences frames states"]  # q(z_t), probabilities
    mean: Float[Array, "sequences frames latents"]  # of q(x)
    covariance: Float[Array, "sequences frames latents latents"]
    factor: Float[Array, "sequences frames latents latents"]  # R with R R' = covariance
    kl: Float[Array, " sequences"]  # from E log p(z, x | parameters), in nats
    stats: Stats  # rounds of mean field, and whether they settled

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples sequences frames latents"]:
        """Draws of x, differentiable."""
        return draws(key, self.mean, self.factor, samples)


class HMM(NamedTuple):
    """Natural parameters of the model's parameters; or, in the same fields, their expected statistics."""

    leading = 2  # axes of a batch: sequences, frames
    initial: Dirichlet  # of the first state
    transitions: Dirichlet  # from each state, a row, to the next
    components: NIW  # a batch of them, one for each state

    @classmethod
    def prior(
        cls, states: int, latents: int, *, concentration: float = 1.0, sticky: float = 0.0, **settings
    ) -> "HMM":
        """States that are all alike.

        Args:
            states: the most there can be.
            latents: coordinates of x.
            concentration: of each choice in the Dirichlets: how many transitions it has been seen in.
            sticky: in how many more a state has been seen to stay.
            settings: of the Gaussians, as in `GMM.prior`: kappa, scale, nu.

        Raises:
            ValueError: for settings that are no distribution.
        """
        components = GMM.prior(states, latents, **settings).components
        return cls(*chain_prior(states, concentration, sticky), components)

    def scattered(self, key: Key[Array, ""], *, spread: float, scale: float, data: float = 10.0) -> "HMM":
        """A posterior to start from, in which each state has a mean of its own, as in `GMM.scattered`."""
        apart = GMM(self.initial, self.components).scattered(key, spread=spread, scale=scale, data=data)
        return self._replace(components=apart.components)

    def expected_statistics(self) -> "HMM":
        """E log pi of the first state and of each row, and those of each Gaussian."""
        rows = self.transitions.expected_statistics()
        return HMM(self.initial.expected_statistics(), rows, self.components.expected_statistics())

    def kl(self, prior: "HMM") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    @staticmethod
    def posterior(
        statistics: "HMM",
        potentials: Potentials,
        *,
        lengths: Int[Array, " sequences"] | None = None,
        adjoint: Adjoint = IMPLICIT,
        rtol: ArrayLike | None = None,
        max_steps: ArrayLike = 200,
        on_failure: OnFailure = "one-step",
    ) -> StatesPosterior:
        """q(z) q(x) of each sequence, which maximise

            E_q <potentials, x> - KL(q(z) q(x) || E log p(z, x)),

        by turns: given q(z), a Gaussian for each frame; given q(x), forward and backward messages. They start
        from the states that the potentials themselves suggest.

        Args:
            statistics: expected statistics of a model, or any that stand for them.
            potentials: (sequences, frames, latents), diagonal and without centres; zero where a frame was
                not seen.
            lengths: how many of the frames are part of a sequence; all unless given.
            adjoint, rtol, max_steps, on_failure: as in `mean_field.settle`.
        """
        settings = dict(adjoint=adjoint, rtol=rtol, max_steps=max_steps, on_failure=on_failure)
        each = lambda given: _posterior(statistics, given, settings)
        with jax.default_matmul_precision("highest"):  # or a GPU rounds float32 factors to 10 bits
            return jax.vmap(each)((potentials, lengths))


def chain_prior(states: int, concentration: float, sticky: float) -> tuple[Dirichlet, Dirichlet]:
    """Of the first state, and of those that follow each."""
    rows = concentration + sticky * jnp.eye(states)
    return Dirichlet.of(jnp.full(states, concentration)), Dirichlet.of(rows)


def chain_until(
    initial: Dirichlet, transitions: Dirichlet, frames: int, length: Int[Array, ""] | None
) -> messages.HMM:
    """Of expected statistics, the chain of so many frames; beyond its length, all states are as good."""
    log_transition = transitions.alpha
    if length is not None:
        leads = (jnp.arange(frames - 1) < length - 1)[:, None, None]
        log_transition = jnp.where(leads, log_transition[None], -math.log(len(log_transition)))
    return messages.HMM(initial.alpha, log_transition)


def _posterior(statistics, given, settings):
    potentials, length = given
    frames = len(potentials.h)
    chain = chain_until(statistics.initial, statistics.transitions, frames, length)
    within = None if length is None else jnp.arange(frames) < length

    def points(a, labels):
        """q(x) of each frame, and E log p(x | z) under it."""
        components, _, potentials = a
        gaussian = lambda potentials, labels: gaussian_given(components, potentials, labels)
        factor, mean = jax.vmap(gaussian)(potentials, labels)
        likelihoods = jax.vmap(lambda m, R: expected_log_likelihoods(components, m, R))(mean, factor)
        return factor, mean, likelihoods

    def round(a, labels):
        return messages.hmm_smoother(a[1], points(a, labels)[2], mask=within).marginals

    a = statistics.components, chain, potentials
    labels, stats = settle(round, a, lax.stop_gradient(_suggested(a, within)), **settings)
    factor, mean, likelihoods = points(a, labels)
    states = messages.hmm_smoother(chain, likelihoods, mask=within)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), 1)
    negentropy = -half_log_det - mean.shape[-1] / 2
    negentropy = negentropy if within is None else jnp.where(within, negentropy, 0)
    kl = jnp.sum(negentropy) - states.log_normaliser
    return StatesPosterior(states.marginals, mean, factor @ factor.mT, factor, kl, stats)


def _suggested(a, within):
    """q(z) for x where the potentials have it; a frame without one says nothing."""
    components, chain, potentials = a
    known = jnp.all(potentials.J > 0, 1)
    J = jnp.where(potentials.J > 0, potentials.J, 1)
    factor = jax.vmap(jnp.diag)(1 / jnp.sqrt(J))
    likelihoods = jax.vmap(lambda m, R: expected_log_likelihoods(components, m, R))(potentials.h / J, factor)
    seen = known if within is None else known & within
    return messages.hmm_smoother(chain, likelihoods, mask=seen).marginals
