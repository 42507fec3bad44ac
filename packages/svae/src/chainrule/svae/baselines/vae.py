"""An autoencoder that knows nothing of time, and linear regression on what it makes of frames.

FrameVAE.fit(key, frames, latents)        networks, with a standard normal prior for each frame by itself
fitted.followed(frames, lag)              with regression of a latent mean on the `lag` before it
fitted.forecast(seen, horizon)            frames to come: encode, predict, decode
StandardNormal.of(latents)                the prior, in the place of a graphical model

Source: Kingma and Welling, Auto-encoding variational Bayes (ICLR 2014).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from chainrule.svae.autoencoder import SVAE, SVAEState
from chainrule.svae.baselines.regression import Autoregression
from chainrule.svae.expfam import Gaussian
from chainrule.svae.fitting import fit
from chainrule.svae.messages import Potentials
from chainrule.svae.networks import MLP


class FramePosterior(NamedTuple):
    """q(x) of each frame."""

    mean: Float[Array, "data latents"]
    variance: Float[Array, "data latents"]
    kl: Float[Array, " data"]  # from the standard normal, in nats

    def sample(self, key: Key[Array, ""], samples: int) -> Float[Array, "samples data latents"]:
        """Draws, differentiable."""
        noise = jax.random.normal(key, (samples, *self.mean.shape), self.mean.dtype)
        return self.mean[None] + jnp.sqrt(self.variance)[None] * noise


class StandardNormal(NamedTuple):
    """N(0, I) for each datum by itself: a model in which nothing is learned."""

    leading = 1
    known: Gaussian

    @classmethod
    def of(cls, latents: int) -> "StandardNormal":
        """Of so many coordinates."""
        return cls(Gaussian(jnp.eye(latents), jnp.zeros(latents)))

    def expected_statistics(self) -> "StandardNormal":
        """Itself: nothing has to be known of it, and no gradient comes back."""
        return self

    def kl(self, prior: "StandardNormal") -> Float[Array, ""]:
        """Zero, in nats."""
        return jnp.zeros_like(self.known.h[0])

    @staticmethod
    def posterior(statistics: "StandardNormal", potentials: Potentials) -> FramePosterior:
        """q(x) of each datum; potentials are diagonal."""
        variance = 1 / (1 + potentials.J)
        mean = variance * potentials.h
        kl = jnp.sum(variance + mean**2 - 1 - jnp.log(variance), -1) / 2
        return FramePosterior(mean, variance, kl)


class FrameVAE(NamedTuple):
    """Networks, and how latent means follow each other."""

    svae: SVAE
    state: SVAEState
    regression: Autoregression | None = None

    @classmethod
    def fit(
        cls,
        key: Key[Array, ""],
        frames: Float[Array, "films frames pixels"],
        latents: int,
        *,
        hidden: tuple[int, ...] = (50, 50),
        rate: float = 3e-3,
        steps: int = 1250,
        batch_size: int = 1600,
        **settings: Any,
    ) -> "FrameVAE":
        """Encoder and decoder, learned from frames in any order.

        Args:
            key: for weights and mini-batches.
            frames: to learn from.
            latents: coordinates of a frame's latent.
            hidden: widths of layers of either network.
            rate: of Adam, which falls to zero as a cosine does.
            steps, batch_size: of training; a batch is one of frames, all of them if there are fewer.
            settings: others of `SVAE`, such as the likelihood.
        """
        flat = frames.reshape(-1, frames.shape[-1])
        networks = [MLP(n, hidden, residual=False) for n in (2 * latents, frames.shape[-1])]
        falling = optax.adam(optax.cosine_decay_schedule(rate, steps))
        optimizer = optax.chain(optax.clip_by_global_norm(10.0), falling)
        svae = SVAE(StandardNormal.of(latents), *networks, data=len(flat), optimizer=optimizer, **settings)
        state, _ = fit(svae, key, flat, steps=steps, batch_size=min(batch_size, len(flat)))
        return cls(svae, state)

    def followed(self, frames: Float[Array, "films frames pixels"], lag: int, **settings) -> "FrameVAE":
        """With a regression of the latent means of these films; settings as for `Autoregression.fit`."""
        return self._replace(regression=Autoregression.fit(self._means(frames), lag, **settings))

    def forecast(
        self, seen: Float[Array, "films frames pixels"], horizon: int
    ) -> Float[Array, "films horizon pixels"]:
        """What follows the frames seen.

        Raises:
            ValueError: before `followed`.
        """
        if self.regression is None:
            raise ValueError("FrameVAE: it does not know what follows: call followed(frames, lag) before")
        return self.svae.decode(self.state, self.regression.forecast(self._means(seen), horizon))

    def _means(self, frames):
        flat = frames.reshape(-1, frames.shape[-1])
        return self.svae.infer(self.state, flat).mean.reshape(*frames.shape[:2], -1)
