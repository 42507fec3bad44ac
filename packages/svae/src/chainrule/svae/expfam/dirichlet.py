"""The Dirichlet family: what is known of the probabilities of a choice.

t = log pi,      eta = alpha

alpha is a sum of one-hot choices over data, plus the prior; the base measure is 1 / prod pi.

    A = sum_k log Gamma(alpha_k) - log Gamma(sum_k alpha_k)
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from chainrule.svae.expfam._gamma import bregman, gamma_remainder, relative_excess
from chainrule.svae.expfam._matrices import as_floats, require


class Dirichlet(NamedTuple):
    """Natural parameters, which are the standard ones."""

    alpha: Float[Array, "*batch choices"]  # above 0

    @classmethod
    def of(cls, alpha: ArrayLike) -> "Dirichlet":
        """From concentrations.

        Raises:
            ValueError: if one is not above 0, where they are not traced.
        """
        (alpha,) = as_floats(alpha)
        require("Dirichlet: alpha", alpha, jnp.all(alpha > 0, -1), "above 0")
        return cls(alpha)

    def standard(self) -> "Dirichlet":
        """The concentrations."""
        return self

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        return jnp.sum(gammaln(self.alpha), -1) - gammaln(jnp.sum(self.alpha, -1))

    def expected_statistics(self) -> "Dirichlet":
        """E log pi."""
        return Dirichlet(digamma(self.alpha) - digamma(jnp.sum(self.alpha, -1, keepdims=True)))

    def kl(self, other: "Dirichlet") -> Float[Array, "*batch"]:
        """KL(self || other), in nats; no difference of large numbers is taken.

        log Gamma x = x log x - x + remainder. The first two terms make total' KL(mean' || mean), with the
        prime of other's; the remainder is small however large x is.
        """
        total, other_total = jnp.sum(self.alpha, -1), jnp.sum(other.alpha, -1)
        mean, other_mean = self.alpha / total[..., None], other.alpha / other_total[..., None]
        leading = other_total * jnp.sum(mean * relative_excess((other_mean - mean) / mean), -1)
        remainders = jnp.sum(bregman(gamma_remainder, other.alpha, self.alpha), -1)
        return leading + remainders - bregman(gamma_remainder, other_total, total)

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether all concentrations are above 0."""
        return jnp.all((self.alpha > 0) & jnp.isfinite(self.alpha), -1)
