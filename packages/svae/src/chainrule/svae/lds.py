"""Linear dynamical systems whose parameters are not known, and mixtures of them.

    x_1 ~ N(mu, Sigma_1) ,                     (mu, Sigma_1) ~ NIW
    x_{t+1} ~ N(A x_t + B u_t + b, Sigma) ,    (A, B, b, Sigma) ~ MNIW

LDS.prior(latents)                    a prior, which is an LDS of natural parameters
LDS.oscillating(periods)              the same, with dynamics that turn
model.expected_statistics()           what local inference needs to know of it
LDS.posterior(statistics, hints)      q(x) of a sequence, exact -> PathPosterior
LDSMixture(weights, components)       a sequence follows one of several systems throughout

Local inference needs expected log-densities of steps. With L the precision Sigma^-1 and z = (x_t, u_t, 1),

    E log p(x_{t+1} | x_t) = log N(x_{t+1}; M z, (E L)^-1) + (E log|L| - log|E L|) / 2 - z'R z / 2 ,

where M = (E L)^-1 E[L A] and R = E[A'L A] - M' E[L] M. So it is the chain of one known system, M and
(E L)^-1, with potentials to which not knowing it adds the precision R. Nothing is iterated.

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), for what a local optimum
is; the identity is one of quadratic forms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from chainrule.svae import messages
from chainrule.svae.expfam import MNIW, NIW, Dirichlet, join_columns, kl, split_columns
from chainrule.svae.messages import Potentials


class PathPosterior(NamedTuple):
    """q(x) of sequences, and of systems where there are several."""

    mean: Float[Array, "*batch frames latents"]
    covariance: Float[Array, "*batch frames latents latents"]
    kl: Float[Array, "*batch"]  # from E log p(x | parameters), in nats
    chain: messages.LDS  # whose posterior it is, given
    potentials: Potentials

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples *batch frames latents"]:
        """Paths, differentiable."""
        draw = lambda key, chain, potentials: messages.lds_sample(key, chain, potentials, samples)
        for _ in range(self.kl.ndim):
            draw = _over_batch(draw)
        return draw(key, self.chain, self.potentials)


def _over_batch(draw):
    def each(key, chain, potentials):
        keys = jax.random.split(key, len(potentials.h))
        return jax.vmap(draw, out_axes=1)(keys, chain, potentials)

    return each


class LDS(NamedTuple):
    """Natural parameters of a system's parameters; or, in the same fields, their expected statistics."""

    leading = 2  # axes of a batch: sequences, frames
    first: NIW  # of the first state
    steps: MNIW  # of the others, given (state, action, 1)

    @classmethod
    def prior(
        cls,
        latents: int,
        *,
        actions: int = 0,
        dynamics: ArrayLike | None = None,
        worth: float = 1.0,
        noise: float = 0.1,
        nu: float | None = None,
        spread: float = 1.0,
    ) -> "LDS":
        """Dynamics about as given, on states of size one.

        Args:
            latents: coordinates of the state.
            actions: coordinates of an action.
            dynamics: A that is expected, (latents, latents), or several, (systems, latents, latents); the
                identity if None.
            worth: how many steps from states of variance one that A is worth.
            noise: standard deviation of a step's noise that is expected.
            nu: degrees of freedom, how many steps that is worth: latents + 2 unless given.
            spread: standard deviation of the first state.

        Raises:
            ValueError: for settings that are no distribution.
        """
        A = jnp.eye(latents) if dynamics is None else jnp.asarray(dynamics)
        if A.shape[-2:] != (latents, latents):
            raise ValueError(
                f"LDS: dynamics are {A.shape}: for {latents} latents they must end in {(latents,) * 2}"
            )
        nu = latents + 2.0 if nu is None else nu
        batch, eye = A.shape[:-2], jnp.eye(latents)
        M = jnp.concatenate([A, jnp.zeros((*batch, latents, actions + 1))], -1)
        whole = lambda x: jnp.broadcast_to(x, (*batch, *jnp.shape(x)))
        K = whole(jnp.eye(latents + actions + 1) / worth)
        steps = MNIW.of(M, K, whole(nu * noise**2 * eye), whole(jnp.asarray(nu)))
        first = NIW.of(
            whole(jnp.zeros(latents)),
            whole(jnp.ones(())),
            whole(nu * spread**2 * eye),
            whole(jnp.asarray(nu)),
        )
        return cls(first, steps)

    @classmethod
    def oscillating(cls, periods: ArrayLike, **settings) -> "LDS":
        """A prior of systems that turn: one oscillator with two latents for each period, in frames.

        Args:
            periods: (oscillators,) for one system, (systems, oscillators) for several.
            settings: as for `prior`.
        """
        angle = 2 * jnp.pi / jnp.asarray(periods)
        c, s = jnp.cos(angle), jnp.sin(angle)
        turns = jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)
        count = angle.shape[-1]
        A = jnp.einsum("...kij,kl->...kilj", turns, jnp.eye(count)).reshape(
            *angle.shape[:-1], 2 * count, 2 * count
        )
        return cls.prior(2 * count, dynamics=A, **settings)

    def expected_statistics(self) -> "LDS":
        """Of the first state's parameters and of the steps'."""
        return LDS(self.first.expected_statistics(), self.steps.expected_statistics())

    def kl(self, prior: "LDS") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    def coefficients(self) -> tuple[Array, Array, Array]:
        """A, B and b that are expected."""
        M, latents = self.steps.standard().M, self.first.x.shape[-1]
        return split_columns(M, latents, M.shape[-1] - latents - 1, bias=True)

    def spectral_radius(self) -> np.ndarray:
        """The largest |eigenvalue| of the A that is expected: forecasts explode where it is above one."""
        return np.asarray(np.abs(np.linalg.eigvals(np.asarray(self.coefficients()[0], float))).max(-1))

    @staticmethod
    def posterior(
        statistics: "LDS",
        potentials: Potentials,
        *,
        actions: Float[Array, "sequences steps actions"] | None = None,
        lengths: Int[Array, " sequences"] | None = None,
    ) -> PathPosterior:
        """q(x) of each sequence, which maximises E_q <potentials, x> - KL(q(x) || E log p(x)).

        Args:
            statistics: expected statistics of a system, or any that stand for them.
            potentials: (sequences, frames, ...), without scales or centres; zero where a frame was not seen.
            actions: of each step.
            lengths: how many of the frames are part of a sequence; all unless given. Frames that are part of
                it but were not seen are forecast, or filled in.
        """
        each = lambda given: _path(statistics, *given)
        return jax.vmap(each)((potentials, actions, lengths))


class MixedPaths(NamedTuple):
    """q(k) q(x | k) of sequences: which system, and the path."""

    weights: Float[Array, "sequences systems"]  # q(k), probabilities
    paths: PathPosterior  # of each sequence and system
    kl: Float[Array, " sequences"]  # from E log p(k, x | parameters), in nats

    def sample(
        self, key: Key[Array, ""], samples: int
    ) -> Float[Array, "samples sequences systems frames latents"]:
        """Paths of each system, differentiable; `weights` says how much each counts."""
        return self.paths.sample(key, samples)

    def choose(self, key: Key[Array, ""], drawn: Float[Array, "samples sequences systems *rest"]) -> Array:
        """Of each draw that of one system, by the weights."""
        return chosen(key, self.weights, drawn)


def chosen(key: Key[Array, ""], weights: Float[Array, "sequences systems"], drawn: Array) -> Array:
    """Of draws (samples, sequences, systems, ...) those of one system each, by the weights."""
    logits = jnp.broadcast_to(jnp.log(weights), drawn.shape[:3])
    index = jax.random.categorical(key, logits)
    index = index.reshape(*index.shape, *(1,) * (drawn.ndim - 2))
    return jnp.take_along_axis(drawn, index, 2)[:, :, 0]


class LDSMixture(NamedTuple):
    """Natural parameters of several systems, of which a sequence follows one; or expected statistics."""

    leading = 2
    weights: Dirichlet
    components: LDS  # a batch of them, one for each system

    @classmethod
    def of(cls, components: LDS, concentration: float = 1.0) -> "LDSMixture":
        """These systems, and as much as concentration for each in the Dirichlet of their weights."""
        return cls(Dirichlet.of(jnp.full(components.first.kappa.shape, concentration)), components)

    def expected_statistics(self) -> "LDSMixture":
        """E log pi, and those of each system."""
        return LDSMixture(self.weights.expected_statistics(), self.components.expected_statistics())

    def kl(self, prior: "LDSMixture") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    @staticmethod
    def posterior(
        statistics: "LDSMixture",
        potentials: Potentials,
        *,
        actions: Float[Array, "sequences steps actions"] | None = None,
        lengths: Int[Array, " sequences"] | None = None,
        kept: int | None = None,
    ) -> MixedPaths:
        """q(k, x) of each sequence: exact as well, by as many smoothers as there are systems.

        Other arguments as for `LDS.posterior`.

        Args:
            kept: how many systems a sequence may follow, of highest q(k): the best q that is zero for the
                others. Only those are then sampled and decoded. All unless given, which is exact.

        Raises:
            ValueError: for a number kept that is not from 1 to that of the systems.
        """
        systems = statistics.weights.alpha.shape[-1]
        if kept is not None and not 1 <= kept <= systems:
            raise ValueError(f"LDSMixture: kept is {kept}: it must be from 1 to {systems}, or None for all")

        def each(given):
            paths = jax.vmap(lambda system: _path(system, *given))(statistics.components)
            evidence = statistics.weights.alpha - paths.kl
            if kept is not None:
                _, best = jax.lax.top_k(jax.lax.stop_gradient(evidence), kept)
                evidence, paths = jax.tree.map(lambda a: a[best], (evidence, paths))
            return MixedPaths(jax.nn.softmax(evidence), paths, -jax.nn.logsumexp(evidence))

        return jax.vmap(each)((potentials, actions, lengths))


def _path(statistics: LDS, potentials, actions, length) -> PathPosterior:
    chain, own, constant = _known_system(statistics, len(potentials.h), actions, length)
    J = potentials.J if potentials.J.ndim == 3 else jax.vmap(jnp.diag)(potentials.J)
    together = Potentials(J + own.J, potentials.h + own.h)
    smoothed = messages.lds_smoother(chain, together)
    log_normaliser = smoothed.log_normaliser + constant
    second = smoothed.covariance + smoothed.mean[:, :, None] * smoothed.mean[:, None, :]
    hinted = jnp.sum(potentials.h * smoothed.mean) - jnp.sum(J * second) / 2
    return PathPosterior(smoothed.mean, smoothed.covariance, hinted - log_normaliser, chain, together)


def _known_system(statistics: LDS, frames, actions, length):
    """M and (E L)^-1 as a chain, what R adds to potentials, and constants: see the module's formula."""
    first, steps = statistics
    n = first.x.shape[-1]
    m, P, gap = _known_gaussian(-2 * first.xx, first.x[None, :], -2 * first.kappa[None, None], first.nu)
    M, Q, gaps = _known_gaussian(-2 * steps.yy, steps.xy, -2 * steps.xx, steps.nu)
    A, B, b = split_columns(M, n, M.shape[-1] - n - 1, bias=True)
    R = jnp.zeros_like(steps.xx) + gaps[1]
    count = frames - 1 if length is None else length - 1
    leads = (jnp.arange(frames) < count).astype(R.dtype)  # to a next frame
    if actions is None:
        rest = jnp.ones((frames, 1), R.dtype)
    else:
        rest = join_columns(jnp.concatenate([actions, jnp.zeros_like(actions[:1])]), bias=True)
    J = jnp.einsum("t,ij->tij", leads, R[:n, :n])
    h = -leads[:, None] * (rest @ R[n:, :n])
    alone = jnp.einsum("ti,ij,tj->t", rest, R[n:, n:], rest)
    constant = gap[0] - gap[1][0, 0] / 2 + jnp.sum(leads * (gaps[0] - alone / 2))
    shift = b if actions is None else b[None] + actions @ B.T
    return messages.LDS(m[:, 0], P, A, Q, shift), Potentials(J, h), constant


def _known_gaussian(precision, coefficients, squares, half_log_det):
    """M, (E L)^-1, and (half of E log|L| - log|E L|, R) of a regression's expected statistics."""
    M, covariance, R = messages.expected_dynamics(precision, coefficients.T, squares)
    half = jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(precision))))  # of log|E L|
    return M, covariance, (half_log_det - half, R)
