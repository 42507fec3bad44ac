"""The structured variational autoencoder: a graphical model with conjugate priors, and networks at its edges.

    SVAE(prior, encoder, decoder, data=N)     what there is to learn
    .init(key, batch)                          -> SVAEState
    .step(state, batch, mask)                  -> SVAEState, Metrics
    .infer(state, batch, mask)                 the local posterior of each datum
    .decode(state, latents)                    what the decoder expects to see
    .belief(state)                             what is known of a sequence before its first frame
    .update(state, belief, frame, action)      and after one more
    .predict(state, belief, steps, actions)    and of those that follow

One step raises, per datum of a mini-batch,

    L = E_q(x) log p(y | x) - KL(q(x, z) || E log p(x, z | theta)) - KL(q(theta) || p(theta)) / N,

where q(x, z) is the best for the encoder's potentials in place of log p(y | x). Networks take a step of any
optax optimiser; the parameters eta of q(theta) take a natural one. With mu its expected statistics, the first
two terms depend on it through mu alone, so that the natural gradient is prior + N dL/dmu - eta: a plain
gradient with respect to mu does it, with all that flows through q(x, z) and the decoder. docs/svae.md derives
this.

Source: Johnson et al., Composing graphical models with neural networks for structured representations and
fast inference (NIPS 2016); Bendekgey, Hope and Sudderth, Unbiased learning of deep generative models with
structured discrete representations (NeurIPS 2023), for the term that the former drops.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from chainrule.core import Status
from chainrule.svae import filtering
from chainrule.svae.expfam import natural_step
from chainrule.svae.filtering import Belief
from chainrule.svae.lds import precisions
from chainrule.svae.likelihoods import Likelihood, Normal
from chainrule.svae.messages import Potentials
from chainrule.svae.networks import as_network


class SVAEState(NamedTuple):
    """All that training changes."""

    model: PyTree  # natural parameters of q(theta), like the prior
    networks: Any  # a dict: parameters of encoder, decoder and likelihood
    optimizer: PyTree  # of those
    key: Key[Array, ""]  # of the next step
    steps: Int[Array, ""]  # taken


class Metrics(NamedTuple):
    """What a step saw, before it moved; in nats per datum of the batch."""

    elbo: Float[Array, ""]  # log_likelihood - local_kl - global_kl
    log_likelihood: Float[Array, ""]  # of what was observed
    local_kl: Float[Array, ""]
    global_kl: Float[Array, ""]  # divided by the number of data
    unsettled: Float[Array, ""]  # part of the batch whose mean field had not settled
    shortened: Float[Array, ""]  # the smallest part of a natural step that was taken: 1 if all were whole


class Prediction(NamedTuple):
    """What is to come, one step after another."""

    beliefs: Belief  # with a leading axis of steps: mean, covariance, weights of each
    frames: Array  # (steps, *frame), what the decoder makes of the systems' means, by their weights


@dataclasses.dataclass(frozen=True, eq=False)
class SVAE:
    """A model to learn, and how.

    Raises:
        ValueError: for fewer than one datum or sample, and a radius that is not above 0 or of no use.
        TypeError: for an encoder or a decoder that is no network.
    """

    prior: Any  # such as GMM.prior(...): natural parameters, with expected_statistics, posterior and kl
    encoder: Any  # of data: potentials, or 2 * latents numbers (see `potentials_of`)
    decoder: Any  # of latents (points, latents): outputs for the likelihood
    data: int  # how many data there are in all
    likelihood: Likelihood = Normal()  # noqa: RUF009 (frozen)
    optimizer: optax.GradientTransformation = optax.adam(1e-3)  # noqa: RUF009 (a pair of functions)
    rho: ArrayLike | Callable[[Any], Any] = 0.1  # natural step size in (0, 1], or a schedule of the step
    samples: int = 1  # of x, for each datum and step
    radius: float | None = None  # dynamics of q(theta) are made smaller where their |eigenvalues| are larger
    inference: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # settings of prior.posterior

    def __post_init__(self):
        if self.data < 1 or self.samples < 1:
            raise ValueError(f"SVAE: data and samples must be at least 1, got {self.data} and {self.samples}")
        as_network(self.encoder), as_network(self.decoder)
        if self.radius is not None and not (self.radius > 0 and hasattr(self.prior, "bounded")):
            raise ValueError(
                f"SVAE: radius is {self.radius} for {type(self.prior).__name__}: it must be above 0, and the "
                "model one with dynamics, such as LDS"
            )

    def init(self, key: Key[Array, ""], batch: Array, model: Any = None) -> SVAEState:
        """A state to start from.

        Args:
            key: for the networks, and all steps to come.
            batch: some data, (data, ...).
            model: natural parameters to start from, such as `prior.scattered(...)`; the prior unless given.
                From a prior under which all clusters are alike, nothing would ever part them.
        """
        encoder_key, decoder_key, key = jax.random.split(key, 3)
        encoder, decoder = as_network(self.encoder), as_network(self.decoder)
        frames = _flat(batch, self._event_axes(batch))
        encoder_params = encoder.init(encoder_key, frames)
        potentials = potentials_of(encoder.apply(encoder_params, frames))
        networks = {
            "encoder": encoder_params,
            "decoder": decoder.init(decoder_key, jnp.zeros_like(potentials.h)),
            "likelihood": self.likelihood.init(),
        }
        model = self.prior if model is None else model
        return SVAEState(model, networks, self.optimizer.init(networks), key, jnp.zeros((), jnp.int32))

    def step(
        self, state: SVAEState, batch: Array, mask: Bool[Array, "..."] | None = None, **extra
    ) -> tuple[SVAEState, Metrics]:
        """One step of the networks and of q(theta), on a mini-batch; put `jax.jit` around it.

        Args:
            state: of `init` or of the step before.
            batch: data, (data, ...), or (sequences, frames, ...) for a model of sequences.
            mask: what was observed: as batch, or its leading axes. Unless given, all that is not NaN. What
                was not observed is zero for the encoder and nothing for the likelihood; a datum or a frame of
                which nothing was has potentials of zero.
            extra: what else `posterior` of the graphical model takes: actions of sequences, and their
                lengths; frames beyond those were not observed.

        Raises:
            ValueError: for a batch without the axes of the model, and for a mask whose shape is not that of
                the batch's leading axes.
        """
        key, sample_key = jax.random.split(state.key)
        batch, mask = self._observed(batch, mask, extra)
        statistics = state.model.expected_statistics()
        objective = lambda statistics, networks: self._local(
            sample_key, statistics, networks, batch, mask, **extra
        )
        slopes, local = jax.grad(objective, (0, 1), has_aux=True)(statistics, state.networks)
        upwards, downhill = slopes[0], jax.tree.map(jnp.negative, slopes[1])
        updates, optimizer = self.optimizer.update(downhill, state.optimizer, state.networks)
        networks = optax.apply_updates(state.networks, updates)
        target = jax.tree.map(lambda eta, slope: eta + self.data * slope, self.prior, upwards)
        rho = self.rho(state.steps) if callable(self.rho) else self.rho
        model, used = natural_step(state.model, target, rho)
        model = model if self.radius is None else model.bounded(self.radius)
        shortened = jnp.min(jnp.stack([jnp.min(u) for u in jax.tree.leaves(used)])) / rho
        global_kl = state.model.kl(self.prior) / self.data
        elbo = local["log_likelihood"] - local["local_kl"] - global_kl
        metrics = Metrics(elbo=elbo, global_kl=global_kl, shortened=shortened, **local)
        return SVAEState(model, networks, optimizer, key, state.steps + 1), metrics

    def infer(self, state: SVAEState, batch: Array, mask: Bool[Array, "..."] | None = None, **extra) -> Any:
        """The local posterior of each datum, as `posterior` of the graphical model returns it.

        Arguments as for `step`.
        """
        batch, mask = self._observed(batch, mask, extra)
        return self._posterior(state.model.expected_statistics(), state.networks, batch, mask, **extra)

    def outputs(self, state: SVAEState, latents: Float[Array, "*batch latents"]) -> Array:
        """What the decoder says of latents, for the likelihood to read."""
        return _decoded(self.decoder, state.networks["decoder"], latents)

    def decode(self, state: SVAEState, latents: Float[Array, "*batch latents"]) -> Array:
        """The mean of what is seen of latents."""
        return self.likelihood.mean(state.networks["likelihood"], self.outputs(state, latents))

    def belief(self, state: SVAEState) -> Belief:
        """What is known of the state of a sequence before its first frame.

        Raises:
            TypeError: for a model that is not one of sequences with a state, such as LDS.
        """
        return filtering.before(self._regimes(state))

    def update(
        self,
        state: SVAEState,
        belief: Belief,
        frame: Array | None,
        action: Float[Array, " actions"] | None = None,
        mask: Bool[Array, "..."] | None = None,
    ) -> Belief:
        """What is known after one more frame; of one sequence, and jax.vmap takes it to more.

        For `LDS` and `LDSMixture` it is what `infer` says of the last of the frames so far, for `SLDS` an
        approximation (see `filtering`).

        Args:
            state: trained.
            belief: of `belief`, or of the frame before.
            frame: what was seen; NaN, or None for all of it, where nothing was.
            action: the one that led to this frame. Of the first frame any will do.
            mask: what of it was seen, as in `step`.

        Raises:
            ValueError: for an action that is not of the model's size.
        """
        regimes = self._regimes(state)
        latents, wanted = belief.means.shape[-1], regimes.steps.M.shape[-1] - belief.means.shape[-1] - 1
        if (0 if action is None else action.shape[-1]) != wanted:
            given = "none" if action is None else f"one of {action.shape[-1]}"
            raise ValueError(
                f"SVAE: the model's actions have {wanted} coordinates, but update was given {given}"
            )
        J, h = jnp.zeros((latents, latents), belief.means.dtype), jnp.zeros(latents, belief.means.dtype)
        if frame is not None:
            alone = observed(frame[None], None if mask is None else mask[None])
            potentials = self._potentials(state.networks, *alone)
            J, h = precisions(potentials)[0], potentials.h[0]
        return filtering.after(regimes, belief, J, h, action)

    def predict(
        self,
        state: SVAEState,
        belief: Belief,
        steps: int,
        actions: Float[Array, "ahead actions"] | None = None,
    ) -> Prediction:
        """What is to come, as far as is known now: `update` without frames.

        Args:
            state, belief: as in `update`.
            steps: how many frames.
            actions: those that lead to them.
        """

        def step(belief, action):
            belief = self.update(state, belief, None, action)
            return belief, belief

        beliefs = jax.lax.scan(step, belief, actions, length=steps)[1]
        frames = self.decode(state, beliefs.means)
        return Prediction(beliefs, jnp.einsum("tk,tk...->t...", beliefs.weights, frames))

    def _regimes(self, state):
        if not hasattr(type(self.prior), "regimes"):
            raise TypeError(
                f"SVAE: {type(self.prior).__name__} has no belief that goes from frame to frame: take LDS, "
                "LDSMixture or SLDS"
            )
        return type(self.prior).regimes(state.model.expected_statistics())

    def _observed(self, batch, mask, extra):
        """The batch and its mask, which ends where a sequence does."""
        batch, mask = observed(batch, mask)
        if extra.get("lengths") is None:
            return batch, mask
        within = jnp.arange(batch.shape[1])[None] < extra["lengths"][:, None]
        mask = mask & within.reshape(*within.shape, *(1,) * (batch.ndim - 2))
        return jnp.where(mask, batch, 0), mask

    def _event_axes(self, batch):
        """Axes of one datum, or of one frame of a sequence: what networks see of it."""
        if batch.ndim <= self.prior.leading:
            what = "(data, ...)" if self.prior.leading == 1 else "(sequences, frames, ...)"
            raise ValueError(
                f"SVAE: the batch has shape {batch.shape}: {type(self.prior).__name__} wants {what}"
            )
        return batch.ndim - self.prior.leading

    def _potentials(self, networks, events, mask):
        """Of each event; zero for one of which nothing was seen."""
        seen = jnp.any(mask, axis=tuple(range(1, mask.ndim)))
        found = potentials_of(as_network(self.encoder).apply(networks["encoder"], events))
        keep = lambda a: jnp.where(seen.reshape(-1, *(1,) * (a.ndim - 1)), a, 0)
        return jax.tree.map(keep, found)

    def _posterior(self, statistics, networks, batch, mask, **extra):
        axes = self._event_axes(batch)
        potentials = self._potentials(networks, _flat(batch, axes), _flat(mask, axes))
        restored = lambda a: a.reshape(*batch.shape[: self.prior.leading], *a.shape[1:])
        potentials = jax.tree.map(restored, potentials)
        return type(self.prior).posterior(statistics, potentials, **self.inference, **extra)

    def _local(self, key, statistics, networks, batch, mask, **extra):
        """What the mini-batch says of L, per datum, and its parts."""
        posterior = self._posterior(statistics, networks, batch, mask, **extra)
        weights = getattr(posterior, "weights", None)  # of alternatives, each with draws of its own
        outputs = _decoded(self.decoder, networks["decoder"], posterior.sample(key, self.samples))
        own = 1 if weights is None else 2  # axes of a draw before those of the datum
        apart = lambda a: jnp.broadcast_to(a if weights is None else a[:, None], outputs.shape)
        log_prob = self.likelihood.log_prob(networks["likelihood"], outputs, apart(batch))
        seen = jnp.sum(jnp.where(apart(mask), log_prob, 0), tuple(range(own + 1, log_prob.ndim)))
        expected = seen if weights is None else jnp.einsum("sdk,dk->sd", seen, weights)
        log_likelihood = jnp.mean(expected)
        local_kl = jnp.mean(posterior.kl)
        exact = not hasattr(posterior, "stats")  # nothing was iterated
        status = jnp.zeros(()) if exact else posterior.stats.status != Status.CONVERGED
        unsettled = jnp.mean(status, dtype=local_kl.dtype)
        parts = {"log_likelihood": log_likelihood, "local_kl": local_kl, "unsettled": unsettled}
        return log_likelihood - local_kl, parts


def potentials_of(outputs: Any) -> Potentials:
    """Potentials of an encoder's outputs.

    Potentials are taken as they are. Of 2 * latents numbers the first half says where x is, the second how
    surely: J = softplus(second half), h = J * first half. (In the original h is free; here a J near zero says
    nothing, as it should.)

    Raises:
        ValueError: for an odd number of outputs.
    """
    if isinstance(outputs, Potentials):
        return outputs
    if outputs.shape[-1] % 2:
        raise ValueError(
            f"SVAE: the encoder has {outputs.shape[-1]} outputs: make it 2 * latents, places and precisions, "
            "or let it return Potentials"
        )
    place, raw = jnp.split(outputs, 2, axis=-1)
    J = jax.nn.softplus(raw)
    return Potentials(J, J * place)


def observed(batch: Array, mask: Bool[Array, "..."] | None) -> tuple[Array, Bool[Array, "..."]]:
    """The batch with zeros where nothing was observed, and a mask of its own shape.

    Raises:
        ValueError: for a mask whose shape is not that of the batch's leading axes.
    """
    if mask is None:
        mask = ~jnp.isnan(batch)
    if mask.shape != batch.shape[: mask.ndim]:
        raise ValueError(
            f"SVAE: mask has shape {mask.shape}, but the batch {batch.shape}: give the mask that shape, or "
            "that of its leading axes"
        )
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (batch.ndim - mask.ndim)), batch.shape)
    return jnp.where(mask, batch, 0), mask


def _flat(a, event_axes):
    """One batch axis, and those of an event."""
    return a.reshape(-1, *a.shape[a.ndim - event_axes :])


def _decoded(decoder, params, latents):
    """Outputs of the decoder, which sees one batch axis."""
    flat = as_network(decoder).apply(params, latents.reshape(-1, latents.shape[-1]))
    return flat.reshape(*latents.shape[:-1], *flat.shape[1:])
