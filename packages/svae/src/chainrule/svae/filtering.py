"""Beliefs: what is known of the state while frames come in one by one.

before(regimes)                              the belief before the first frame
after(regimes, belief, J, h, action)         the belief after one more frame
filtered(regimes, potentials, actions)       all the beliefs of a sequence

A belief is a weight and a Gaussian for each system. Where a sequence follows one system throughout, it is
the exact posterior given the frames so far: Kalman's recursion, with the dynamics that are expected. Where
systems change, exact beliefs would have a Gaussian for each history of regimes. Here those that lead to the
same regime are merged before each step into one with their mean and covariance, which is an approximation.

Not knowing the dynamics for sure adds a precision R to the state that a step starts from (see `lds`). It
comes in with that step: a belief is that of `posterior` of the frames so far, at the last of them.

Source: Blom and Bar-Shalom, The interacting multiple model algorithm (IEEE Transactions on Automatic Control,
1988), for the merging.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax import lax
from jaxtyping import Array, Float, Int

from chainrule.svae.expfam import join_columns
from chainrule.svae.lds import Known, Regimes
from chainrule.svae.messages import Potentials


class Belief(NamedTuple):
    """Of one sequence, given its frames so far."""

    log_weights: Float[Array, "*batch systems"]  # log probabilities
    means: Float[Array, "*batch systems latents"]  # of the state, under each system
    covariances: Float[Array, "*batch systems latents latents"]
    log_evidence: Float[Array, "*batch systems"]  # what the last frame added to log p under each, in nats
    frames: Int[Array, "*batch"]  # how many there were, seen or not

    @property
    def weights(self) -> Float[Array, "*batch systems"]:
        """Probabilities of the systems."""
        return jnp.exp(self.log_weights)

    @property
    def mean(self) -> Float[Array, "*batch latents"]:
        """Of the state, whichever the system."""
        return jnp.einsum("...k,...ki->...i", self.weights, self.means)

    @property
    def covariance(self) -> Float[Array, "*batch latents latents"]:
        """Of the state, whichever the system."""
        apart = self.means - self.mean[..., None, :]
        each = self.covariances + apart[..., :, None] * apart[..., None, :]
        return jnp.einsum("...k,...kij->...ij", self.weights, each)


def before(regimes: Regimes) -> Belief:
    """The belief before the first frame, which is about that frame's state."""
    first = regimes.first
    log_weights = jax.nn.log_softmax(regimes.log_initial + first.gap - first.R[:, 0, 0] / 2)
    nothing = jnp.zeros_like(log_weights)
    return Belief(log_weights, first.M[:, :, 0], first.Q, nothing, jnp.zeros((), jnp.int32))


def after(
    regimes: Regimes,
    belief: Belief,
    J: Float[Array, "latents latents"],
    h: Float[Array, " latents"],
    action: Float[Array, " actions"] | None = None,
) -> Belief:
    """The belief after one more frame, of potential exp(h'x - x'J x / 2).

    Args:
        regimes: of `regimes` of a model.
        belief: given the frames before it; or none, of `before`.
        J, h: zero for a frame that was not seen.
        action: the one that led to this frame; of the first frame it makes no difference.
    """
    with jax.default_matmul_precision("highest"):  # or a GPU rounds float32 factors to 10 bits
        return _after(regimes, belief, J, h, action)


def _after(regimes, belief, J, h, action):
    ahead = _stepped(regimes, belief, action)
    choose = lambda start, later: jnp.where(belief.frames == 0, start, later)
    log_weights, means, covariances = jax.tree.map(choose, tuple(belief[:3]), ahead)
    means, covariances, log_evidence = jax.vmap(lambda m, P: _conditioned(m, P, J, h))(means, covariances)
    weights = jax.nn.log_softmax(log_weights + log_evidence)
    return Belief(weights, means, covariances, log_evidence, belief.frames + 1)


def filtered(
    regimes: Regimes, potentials: Potentials, actions: Float[Array, "steps actions"] | None = None
) -> Belief:
    """The beliefs after each frame of a sequence, with a leading axis of frames; J are matrices."""
    if actions is not None:
        actions = jnp.concatenate([jnp.zeros_like(actions[:1]), actions])[: len(potentials.h)]

    def step(belief, given):
        belief = after(regimes, belief, *given)
        return belief, belief

    return lax.scan(step, before(regimes), (potentials.J, potentials.h, actions))[1]


def _stepped(regimes, belief, action):
    """Weights and moments of the next state, under each system that may lead to it."""
    joint = belief.log_weights[:, None] + regimes.log_transition  # from, to
    log_weights = jax.nn.logsumexp(joint, 0)
    share = jnp.exp(joint - log_weights[None])
    mean = share.T @ belief.means
    apart = belief.means[None] - mean[:, None]  # to, from
    spread = belief.covariances[None] + apart[..., :, None] * apart[..., None, :]
    covariance = jnp.einsum("jk,kjab->kab", share, spread)
    move = lambda step, m, P: _moved(step, m, P, action)
    means, covariances, gained = jax.vmap(move)(regimes.steps, mean, covariance)
    return log_weights + gained, means, covariances


def _moved(step: Known, m, P, action):
    """Moments of the next state, and the log of what the step's own factor integrates to."""
    n = len(m)
    rest = join_columns(m[:0], action, bias=True)
    R_h = -step.R[:n, n:] @ rest
    m, P, gained = _conditioned(m, P, step.R[:n, :n], R_h)
    gained = gained + step.gap - rest @ step.R[n:, n:] @ rest / 2
    A = step.M[:, :n]
    return step.M @ jnp.concatenate([m, rest]), A @ P @ A.T + step.Q, gained


def _conditioned(m, P, J, h):
    """Moments under exp(h'x - x'J x / 2) N(x; m, P), and the log of its integral.

    As in `messages`, I + L'J L with P = L L' has no eigenvalue below one.
    """
    L = jnp.linalg.cholesky((P + P.T) / 2)
    root = jnp.linalg.cholesky(jnp.eye(len(m), dtype=m.dtype) + L.T @ J @ L)
    half = jax.scipy.linalg.solve_triangular(root, L.T, lower=True)
    pull = h - J @ m
    move = half @ pull
    log_integral = h @ m - m @ J @ m / 2 + move @ move / 2 - jnp.sum(jnp.log(jnp.diagonal(root)))
    return m + half.T @ move, half.T @ half, log_integral
