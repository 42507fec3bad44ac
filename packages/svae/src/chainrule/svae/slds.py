"""Switching linear dynamical systems: a sequence changes, from frame to frame, the system that it follows.

    z_1 ~ pi_0 ,   z_t | z_{t-1} ~ pi_{z_{t-1}} ,                    each pi ~ Dirichlet
    x_1 ~ N(mu_z, Sigma_z) ,                                         (mu_k, Sigma_k) ~ NIW
    x_t ~ N(A_z x_{t-1} + B_z u_{t-1} + b_z, Sigma_z) ,   z = z_t ,  (A_k, B_k, b_k, Sigma_k) ~ MNIW

SLDS.of(components)                   natural parameters, of systems such as LDS.oscillating makes
SLDS.prior(regimes, latents)          the prior, under which all regimes are alike
prior.scattered(key)                  where training starts: regimes with dynamics of their own
model.expected_statistics()           what local inference needs to know of it
SLDS.posterior(statistics, hints)     q(z) q(x) of each sequence by mean field -> SwitchingPosterior

Which regime governs which frame, and the path, are inferred by turns, each as a whole: given q(z), the path
is that of one system which changes in time; given q(x), the regimes are those of a hidden Markov model. With
r_t = q(z_t), the system on the way to frame t has the expected statistics sum_k r_tk E t(theta_k). In the
terms of `lds`, precisions L_k and coefficients M_k of the regimes make

    L = sum_k r_k L_k ,   L M = sum_k r_k L_k M_k ,   R = sum_k r_k (R_k + (M_k - M)' L_k (M_k - M)) :

what not knowing the regime leaves open adds to R, as a sum of squares.

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), section 4; Ghahramani and
Hinton, Variational learning for switching state-space models (2000), for the factors.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from chainrule.core import Stats
from chainrule.core.adjoints import Adjoint
from chainrule.svae import messages
from chainrule.svae.expfam import MNIW, NIW, Dirichlet, join_columns, kl
from chainrule.svae.filtering import filtered
from chainrule.svae.hmm import chain_prior, chain_until
from chainrule.svae.lds import (
    LDS,
    Known,
    Regimes,
    known,
    not_knowing,
    path_given,
    precisions,
    sample_paths,
    within,
)
from chainrule.svae.mean_field import IMPLICIT, OnFailure, settle
from chainrule.svae.messages import Potentials

LOG_2PI = math.log(2 * math.pi)


class SwitchingPosterior(NamedTuple):
    """q(z) q(x) of sequences."""

    labels: Float[Array, "sequences frames regimes"]  # q(z_t), probabilities
    mean: Float[Array, "sequences frames latents"]  # of q(x)
    covariance: Float[Array, "sequences frames latents latents"]
    kl: Float[Array, " sequences"]  # from E log p(z, x | parameters), in nats
    chain: messages.LDS  # whose posterior q(x) is, given
    potentials: Potentials
    stats: Stats  # rounds of mean field, and whether they settled

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples sequences frames latents"]:
        """Paths of q(x), differentiable."""
        return sample_paths(key, self.chain, self.potentials, samples, self.kl.ndim)


class SLDS(NamedTuple):
    """Natural parameters of the system's parameters; or, in the same fields, their expected statistics."""

    leading = 2  # axes of a batch: sequences, frames
    initial: Dirichlet  # of the first regime
    transitions: Dirichlet  # from each regime, a row, to the next
    components: LDS  # a batch of them, one for each regime

    @classmethod
    def of(cls, components: LDS, *, concentration: float = 1.0, sticky: float = 0.0) -> "SLDS":
        """These systems as regimes.

        Args:
            components: a batch of systems, such as `LDS.oscillating(periods[:, None])`.
            concentration: of each choice in the Dirichlets: how many transitions it has been seen in.
            sticky: in how many more a regime has been seen to stay.
        """
        regimes = components.first.kappa.shape[0]
        return cls(*chain_prior(regimes, concentration, sticky), components)

    @classmethod
    def prior(
        cls, regimes: int, latents: int, *, concentration: float = 1.0, sticky: float = 0.0, **settings
    ) -> "SLDS":
        """Regimes, each as `LDS.prior(latents, **settings)` is, and otherwise as in `of`.

        Unless dynamics are given one by one, all are alike, and training must start from `scattered`.

        Raises:
            ValueError: for dynamics of another size.
        """
        A = jnp.asarray(settings.pop("dynamics", jnp.eye(latents)))
        if A.shape not in ((latents, latents), (regimes, latents, latents)):
            raise ValueError(
                f"SLDS: dynamics are {A.shape}: for {regimes} regimes of {latents} latents they must be "
                f"{(latents, latents)} or {(regimes, latents, latents)}"
            )
        each = jnp.broadcast_to(A, (regimes, latents, latents))
        components = LDS.prior(latents, dynamics=each, **settings)
        return cls.of(components, concentration=concentration, sticky=sticky)

    def scattered(self, key: Key[Array, ""], *, spread: float = 0.3, steps: float = 30.0) -> "SLDS":
        """A posterior to start from: each regime has dynamics of its own.

        From a prior under which all regimes are alike, nothing would ever part them.

        Args:
            key: for the dynamics.
            spread: standard deviation of an entry of A from what the prior expects.
            steps: how many steps, from states of variance one, each of them stands for.
        """
        n = self.components.first.x.shape[-1]
        M, _, S, nu = self.components.steps.standard()
        apart = spread * jax.random.normal(key, (*M.shape[:-1], n), M.dtype)
        M = M.at[..., :n].add(apart)
        inputs = jnp.broadcast_to(jnp.eye(M.shape[-1], dtype=M.dtype), (*M.shape[:-2], *2 * M.shape[-1:]))
        noise = S / nu[..., None, None]
        seen = MNIW(inputs, M.mT, M @ M.mT + noise, jnp.ones_like(nu))
        moved = jax.tree.map(lambda eta, t: eta + steps * t, self.components.steps, seen)
        return self._replace(components=self.components._replace(steps=moved))

    def expected_statistics(self) -> "SLDS":
        """E log pi of the first regime and of each row, and those of each system."""
        rows = self.transitions.expected_statistics()
        return SLDS(self.initial.expected_statistics(), rows, self.components.expected_statistics())

    def kl(self, prior: "SLDS") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    def bounded(self, radius: float) -> "SLDS":
        """The same, with smaller A where their spectral radius is larger than that."""
        return self._replace(components=self.components.bounded(radius))

    @staticmethod
    def regimes(statistics: "SLDS") -> Regimes:
        """As a filter wants them."""
        return Regimes.of(statistics.initial.alpha, statistics.transitions.alpha, statistics.components)

    @staticmethod
    def posterior(
        statistics: "SLDS",
        potentials: Potentials,
        *,
        actions: Float[Array, "sequences steps actions"] | None = None,
        lengths: Int[Array, " sequences"] | None = None,
        adjoint: Adjoint = IMPLICIT,
        rtol: ArrayLike | None = None,
        max_steps: ArrayLike = 200,
        on_failure: OnFailure = "one-step",
    ) -> SwitchingPosterior:
        """q(z) q(x) of each sequence, which maximise

            E_q <potentials, x> - KL(q(z) q(x) || E log p(z, x)),

        by turns: a smoother for the path, forward and backward messages for the regimes. They start from
        what a filter makes of the potentials that keeps one Gaussian for each regime.

        Args:
            statistics: expected statistics of a switching system, or any that stand for them.
            potentials, actions, lengths: as in `LDS.posterior`.
            adjoint, rtol, max_steps, on_failure: as in `mean_field.settle`.
        """
        settings = dict(adjoint=adjoint, rtol=rtol, max_steps=max_steps, on_failure=on_failure)
        each = lambda given: _posterior(statistics, given, settings)
        with jax.default_matmul_precision("highest"):  # or a GPU rounds float32 factors to 10 bits
            return jax.vmap(each)((within(potentials, lengths), actions, lengths))


class _Each(NamedTuple):
    """A regression under each regime: precision, coefficients, what not knowing them adds, E log|L| / 2."""

    L: Float[Array, "regimes outputs outputs"]
    M: Float[Array, "regimes outputs inputs"]
    R: Float[Array, "regimes inputs inputs"]
    half: Float[Array, " regimes"]


def _each(statistics: NIW | MNIW) -> _Each:
    found = jax.vmap(known)(statistics)
    L = -2 * (statistics.yy if isinstance(statistics, MNIW) else statistics.xx)
    return _Each(L, found.M, found.R, statistics.nu)


def _posterior(statistics, given, settings):
    potentials, actions, length = given
    systems = statistics.components
    each = _each(systems.first), _each(systems.steps)
    chain = chain_until(statistics.initial, statistics.transitions, len(potentials.h), length)
    a = each, chain, potentials, actions

    def log_likelihoods(a, smoothed):
        found = _expected(a[0], smoothed, a[3])
        return found if length is None else jnp.where((jnp.arange(len(found)) < length)[:, None], found, 0)

    def round(a, labels):
        smoothed = _path(a, labels, length)[1]
        return messages.hmm_smoother(a[1], log_likelihoods(a, smoothed)).marginals

    start = lax.stop_gradient(_suggested(SLDS.regimes(statistics), a))
    labels, stats = settle(round, a, start, **settings)
    path, smoothed = _path(a, labels, length)
    expected = log_likelihoods(a, smoothed)
    states = messages.hmm_smoother(a[1], expected)
    # the regimes' own part is E log p(x | z) - log Z; the first of these is already in that of the path
    kl = path.kl + jnp.sum(labels * expected) - states.log_normaliser
    return SwitchingPosterior(
        states.marginals, path.mean, path.covariance, kl, path.chain, path.potentials, stats
    )


def _path(a, labels, length):
    """The best q(x) given q(z), and its moments."""
    (first, steps), _, potentials, actions = a
    n = potentials.h.shape[-1]
    first, steps = _averaged(first, labels[:1]), _averaged(steps, labels[1:])
    b = jnp.einsum("tij,tj->ti", steps.M[:, :, n:], _rest(steps.M, actions))
    chain = messages.LDS(first.M[0, :, 0], first.Q[0], steps.M[:, :, :n], steps.Q, b)
    own, constant = not_knowing(steps.R, steps.gap, n, actions, length)
    return path_given(chain, own, constant + first.gap[0] - first.R[0, 0, 0] / 2, potentials)


def _averaged(each: _Each, labels: Float[Array, "steps regimes"]) -> Known:
    """What is known of a step whose regime is known in probability: see the module's formula."""
    mix = lambda x: jnp.tensordot(labels, x, 1)
    root = jnp.linalg.cholesky(mix(each.L))
    eye = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    Q = jax.scipy.linalg.cho_solve((root, True), eye)
    M = Q @ mix(each.L @ each.M)
    apart = each.M[None] - M[:, None]  # (steps, regimes, outputs, inputs)
    spread = jnp.einsum("tkij,tkil->tjl", apart, labels[:, :, None, None] * (each.L[None] @ apart))
    half = jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), 1)
    return Known(M, (Q + Q.mT) / 2, mix(each.R) + spread, mix(each.half) - half)


def _expected(each, smoothed, actions) -> Float[Array, "frames regimes"]:
    """E log p(x_t | x_{t-1}, z_t = k, parameters) of each frame and regime."""
    first, steps = each
    mean, V = smoothed.mean, smoothed.covariance
    n = mean.shape[-1]

    def of_means(each, inputs, outputs, spread):
        left = outputs[:, None] - jnp.einsum("kij,tj->tki", each.M, inputs)
        squares = jnp.einsum("tki,kij,tkj->tk", left, each.L, left)
        squares += jnp.einsum("ti,kij,tj->tk", inputs, each.R, inputs)
        return each.half[None] - (n * LOG_2PI + squares + jnp.einsum("kij,tij->tk", each.L, spread)) / 2

    def of_covariances():
        A, LA = steps.M[:, :, :n], steps.L @ steps.M[:, :, :n]
        onwards = jnp.einsum("kij,tij->tk", A.mT @ LA + steps.R[:, :n, :n], V[:-1])
        return jnp.einsum("kij,tji->tk", LA, smoothed.cross) - onwards / 2

    at_first = of_means(first, jnp.ones((1, 1), mean.dtype), mean[:1], V[:1])
    before = jnp.concatenate([mean[:-1], _rest(mean[1:], actions)], 1)
    later = of_means(steps, before, mean[1:], V[1:]) + of_covariances()
    return jnp.concatenate([at_first, later])


def _suggested(regimes: Regimes, a) -> Float[Array, "frames regimes"]:
    """q(z) by what a filter expects of each frame under each regime."""
    _, hmm, potentials, actions = a
    hints = Potentials(precisions(potentials), potentials.h)
    return messages.hmm_smoother(hmm, filtered(regimes, hints, actions).log_evidence).marginals


def _rest(like, actions):
    """Inputs of the steps besides the state: actions and a one."""
    return join_columns(jnp.zeros((len(like), 0), like.dtype), actions, bias=True)
