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
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from chainrule.svae import messages
from chainrule.svae.expfam import MNIW, NIW, Dirichlet, join_columns, kl, split_columns
from chainrule.svae.messages import Potentials

SQUARES = 40  # up to the power 2^40, where |A^m|^(1/m) is the radius to 1e-10, of defective matrices as well


class PathPosterior(NamedTuple):
    """q(x) of sequences, and of systems where there are several."""

    mean: Float[Array, "*batch frames latents"]
    covariance: Float[Array, "*batch frames latents latents"]
    kl: Float[Array, "*batch"]  # from E log p(x | parameters), in nats
    evidence: Float[Array, "*batch"]  # E <potentials, x> - kl: log of what exp(E log p + potentials) sums to
    chain: messages.LDS  # whose posterior it is, given
    potentials: Potentials

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples *batch frames latents"]:
        """Paths, differentiable."""
        return sample_paths(key, self.chain, self.potentials, samples, self.kl.ndim)


def spectral_radius(A: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """The largest |eigenvalue|, as the limit of |A^m|^(1/m) for m = 2, 4, 8, ... (Gelfand).

    log|A^m| / m is summed up, so that errors of later squares count for as little as they should.
    """

    def square(k, state):
        A, log_radius = state
        size = jnp.linalg.norm(A, axis=(-2, -1))
        A = A / jnp.where(size > 0, size, 1)[..., None, None]
        return jnp.matmul(A, A, precision="highest"), log_radius + jnp.log(size) * 0.5 ** k.astype(A.dtype)

    start = A, jnp.zeros(A.shape[:-2], A.dtype)
    return jnp.exp(jax.lax.fori_loop(0, SQUARES, square, start)[1])


def sample_paths(
    key: Key[Array, ""], chain: messages.LDS, potentials: Potentials, samples: int, batch_axes: int
) -> Float[Array, "samples *batch frames latents"]:
    """Paths of chains in a batch."""
    draw = lambda key, chain, potentials: messages.lds_sample(key, chain, potentials, samples)
    for _ in range(batch_axes):
        draw = _over_batch(draw)
    return draw(key, chain, potentials)


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

    def spectral_radius(self) -> Float[Array, "*batch"]:
        """The largest |eigenvalue| of the A that is expected: forecasts explode where it is above one."""
        return spectral_radius(self.coefficients()[0])

    def bounded(self, radius: float) -> "LDS":
        """The same, with A made smaller where its spectral radius is larger than that."""
        n = self.first.x.shape[-1]
        M, _, S, _ = self.steps.standard()
        found = spectral_radius(M[..., :n])
        smaller = M.at[..., :n].multiply((radius / found)[..., None, None])
        with jax.default_matmul_precision("highest"):
            xy = self.steps.xx @ smaller.mT
            changed = self.steps._replace(xy=xy, yy=S + smaller @ xy)
        choose = lambda a, b: jnp.where(
            (found > radius).reshape(*found.shape, *(1,) * (a.ndim - found.ndim)), a, b
        )
        return self._replace(steps=jax.tree.map(choose, changed, self.steps))

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
            lengths: how many of the frames are part of a sequence; all unless given. Potentials beyond them
                count for nothing. Frames that are part of it but were not seen are forecast, or filled in.
        """
        each = lambda given: _path(statistics, *given)
        with jax.default_matmul_precision("highest"):  # or a GPU rounds float32 factors to 10 bits
            return jax.vmap(each)((within(potentials, lengths), actions, lengths))

    @staticmethod
    def regimes(statistics: "LDS") -> "Regimes":
        """As a filter wants it: the only one."""
        alone = jax.tree.map(lambda x: x[None], statistics)
        sure = jnp.zeros_like(alone.first.kappa)
        return Regimes.of(sure, sure[None], alone)


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

    def bounded(self, radius: float) -> "LDSMixture":
        """The same, with smaller A where their spectral radius is larger than that."""
        return self._replace(components=self.components.bounded(radius))

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

        Args:
            statistics, potentials, actions, lengths: as for `LDS.posterior`.
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
            prior = statistics.weights.alpha
            if kept is not None:
                _, best = jax.lax.top_k(jax.lax.stop_gradient(prior + paths.evidence), kept)
                prior, paths = jax.tree.map(lambda a: a[best], (prior, paths))
            weights = jax.nn.softmax(prior + paths.evidence)
            kl = jnp.sum(weights * (jax.nn.log_softmax(prior + paths.evidence) - prior + paths.kl))
            return MixedPaths(weights, paths, kl)

        with jax.default_matmul_precision("highest"):
            return jax.vmap(each)((within(potentials, lengths), actions, lengths))

    @staticmethod
    def regimes(statistics: "LDSMixture") -> "Regimes":
        """As a filter wants them: regimes that never change."""
        weights = statistics.weights.alpha
        stay = jnp.log(jnp.eye(len(weights), dtype=weights.dtype))
        return Regimes.of(weights, stay, statistics.components)


class Known(NamedTuple):
    """E log p(y | x) of a regression with unknown parameters, as log N(y; M x, Q) + gap - x'R x / 2."""

    M: Float[Array, "*batch outputs inputs"]
    Q: Float[Array, "*batch outputs outputs"]  # (E L)^-1
    R: Float[Array, "*batch inputs inputs"]
    gap: Float[Array, "*batch"]  # (E log|L| - log|E L|) / 2


class Regimes(NamedTuple):
    """Systems that a sequence may follow, and how one comes after another."""

    log_initial: Float[Array, " systems"]  # expected logarithms, which need not sum to one
    log_transition: Float[Array, "systems systems"]
    first: Known  # a batch of them
    steps: Known

    @classmethod
    def of(cls, log_initial: Array, log_transition: Array, systems: LDS) -> "Regimes":
        """Of expected statistics."""
        return cls(log_initial, log_transition, *(jax.vmap(known)(family) for family in systems))


def known(statistics: NIW | MNIW) -> Known:
    """Of expected statistics, by the module's formula. A Gaussian is a regression on the number one."""
    if isinstance(statistics, NIW):
        xx, x, kappa, nu = statistics
        statistics = MNIW(kappa[..., None, None], x[..., None, :], xx, nu)
    precision = -2 * statistics.yy
    M, Q, R = messages.expected_dynamics(precision, statistics.xy.T, -2 * statistics.xx)
    half = jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(precision))))  # of log|E L|
    return Known(M, Q, R, statistics.nu - half)


def not_knowing(
    R: Float[Array, "steps inputs inputs"],
    gap: Float[Array, " steps"],
    latents: int,
    actions: Float[Array, "steps actions"] | None,
    length: Int[Array, ""] | None,
) -> tuple[Potentials, Float[Array, ""]]:
    """What R and gap of each step add to the potentials of its frames, and a constant."""
    R = (R + R.mT) / 2  # one block is read, and the other has as much of the derivative
    rest = jnp.ones((len(R), 1), R.dtype) if actions is None else join_columns(actions, bias=True)
    if length is not None:  # no step leads from the last frame to those beyond
        leads = jnp.arange(len(R)) < length - 1
        R, gap = jnp.where(leads[:, None, None], R, 0), jnp.where(leads, gap, 0)
    J, h = R[:, :latents, :latents], -jnp.einsum("ti,tij->tj", rest, R[:, latents:, :latents])
    alone = jnp.einsum("ti,tij,tj->t", rest, R[:, latents:, latents:], rest)
    end = lambda x: jnp.concatenate([x, jnp.zeros((1, *x.shape[1:]), x.dtype)])
    return Potentials(end(J), end(h)), jnp.sum(gap - alone / 2)


def path_given(
    chain: messages.LDS, own: Potentials, constant: Float[Array, ""], potentials: Potentials
) -> tuple[PathPosterior, messages.Smoothed]:
    """q(x) of a chain with potentials of its own, and its moments."""
    J = precisions(potentials)
    together = Potentials(J + own.J, potentials.h + own.h)
    smoothed = messages.lds_smoother(chain, together)
    log_normaliser = smoothed.log_normaliser + constant
    second = smoothed.covariance + smoothed.mean[:, :, None] * smoothed.mean[:, None, :]
    hinted = jnp.sum(potentials.h * smoothed.mean) - jnp.sum(J * second) / 2
    kl = hinted - log_normaliser
    path = PathPosterior(smoothed.mean, smoothed.covariance, kl, log_normaliser, chain, together)
    return path, smoothed


def within(potentials: Potentials, lengths: Int[Array, " sequences"] | None) -> Potentials:
    """Potentials of sequences, zero beyond the last frame of each."""
    if lengths is None:
        return potentials
    frames = jnp.arange(potentials.h.shape[1])
    return jax.vmap(lambda each, length: messages.masked(each, frames < length))(potentials, lengths)


def precisions(potentials: Potentials) -> Float[Array, "frames latents latents"]:
    """J as matrices, also where they are diagonals."""
    return potentials.J if potentials.J.ndim == 3 else jax.vmap(jnp.diag)(potentials.J)


def _path(statistics: LDS, potentials, actions, length) -> PathPosterior:
    first, steps = known(statistics.first), known(statistics.steps)
    n, inputs = first.Q.shape[-1], steps.M.shape[-1]
    A, B, b = split_columns(steps.M, n, inputs - n - 1, bias=True)
    shift = b if actions is None else b[None] + actions @ B.T
    chain = messages.LDS(first.M[:, 0], first.Q, A, steps.Q, shift)
    count = len(potentials.h) - 1
    R, gap = (jnp.broadcast_to(x, (count, *x.shape)) for x in (steps.R, steps.gap))
    own, constant = not_knowing(R, gap, n, actions, length)
    return path_given(chain, own, constant + first.gap - first.R[0, 0] / 2, potentials)[0]
