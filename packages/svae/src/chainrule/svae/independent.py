"""Parts of a latent state that move independently of each other: the two coordinates of a ball, several dots.

    p(x) = prod_i p_i(x_i),     x = (x_1, ..., x_parts)

Independent((part, part))                a prior; of parts that are alike, the networks learn which is which
Independent.posterior(statistics, hints) q(x) of each sequence, exact given which systems may count

Each part is an `LDSMixture`, so that a sequence follows one system in each of its parts: of two parts with
twelve systems, one of 144 pairs. No smoother goes through the pairs: where hints are diagonal, parts are
independent in the posterior as well. Only the decoder sees them together, for those systems that are `kept`
in each part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from chainrule.svae.expfam import kl
from chainrule.svae.lds import LDSMixture, MixedPaths, chosen
from chainrule.svae.messages import Potentials


class IndependentPaths(NamedTuple):
    """q(x) of sequences, for each choice of a system in each part."""

    weights: Float[Array, "sequences choices"]  # probabilities; choices = kept ** parts
    kl: Float[Array, " sequences"]  # from E log p(x | parameters), in nats
    parts: tuple[MixedPaths, ...]

    def sample(
        self, key: Key[Array, ""], samples: int
    ) -> Float[Array, "samples sequences choices frames latents"]:
        """Paths of each choice, differentiable; `weights` says how much each counts."""
        keys = jax.random.split(key, len(self.parts))
        drawn = [part.sample(key, samples) for key, part in zip(keys, self.parts, strict=True)]
        chosen = [paths[:, :, which] for paths, which in zip(drawn, _choices(self.parts), strict=True)]
        return jnp.concatenate(chosen, -1)

    def choose(self, key: Key[Array, ""], drawn: Float[Array, "samples sequences choices *rest"]) -> Array:
        """Of each draw that of one choice, by the weights."""
        return chosen(key, self.weights, drawn)


class Independent(NamedTuple):
    """Natural parameters of the parts; or, in the same fields, their expected statistics."""

    leading = 2  # axes of a batch: sequences, frames
    parts: tuple[LDSMixture, ...]

    def expected_statistics(self) -> "Independent":
        """Of each part."""
        return Independent(tuple(part.expected_statistics() for part in self.parts))

    def kl(self, prior: "Independent") -> Float[Array, ""]:
        """KL(self || prior), in nats."""
        return kl(self, prior)

    @staticmethod
    def posterior(statistics: "Independent", potentials: Potentials, *, kept: int = 2) -> IndependentPaths:
        """q(x) of each sequence.

        Args:
            statistics: expected statistics.
            potentials: (sequences, frames, latents), J diagonal: first those of the first part, and so on.
            kept: how many systems a sequence may follow in each part; see `LDSMixture.posterior`.

        Raises:
            ValueError: for a J that is not diagonal, and for latents that are not those of the parts.
        """
        sizes = [part.components.first.x.shape[-1] for part in statistics.parts]
        if potentials.J.shape != potentials.h.shape or potentials.h.shape[-1] != sum(sizes):
            raise ValueError(
                f"Independent: potentials J {potentials.J.shape} and h {potentials.h.shape}: both must be "
                f"(sequences, frames, {sum(sizes)}), with {sizes} numbers for the parts"
            )
        ends = np.cumsum(sizes)[:-1]
        hints = zip(*(jnp.split(a, ends, axis=-1) for a in (potentials.J, potentials.h)), strict=True)
        found = tuple(
            LDSMixture.posterior(part, Potentials(*hint), kept=kept)
            for part, hint in zip(statistics.parts, hints, strict=True)
        )
        weights = [p.weights[:, which] for p, which in zip(found, _choices(found), strict=True)]
        divergence = jnp.sum(jnp.stack([p.kl for p in found]), 0)
        return IndependentPaths(jnp.prod(jnp.stack(weights), 0), divergence, found)


def _choices(parts):
    """For each part, which of its systems each choice takes."""
    counts = [part.weights.shape[-1] for part in parts]
    return np.indices(counts).reshape(len(parts), -1)
