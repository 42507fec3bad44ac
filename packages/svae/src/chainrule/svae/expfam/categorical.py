"""The categorical family: a choice, by unnormalised log probabilities.

t(z) = one-hot z,      eta = logits,      A = log sum_k exp(logits_k)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from chainrule.svae.expfam._matrices import as_floats, require


class Categorical(NamedTuple):
    """Natural parameters."""

    logits: Float[Array, "*batch choices"]  # log probabilities, but for a constant; -inf is probability zero

    @classmethod
    def of(cls, probabilities: ArrayLike) -> "Categorical":
        """From probabilities.

        Raises:
            ValueError: if they are negative or do not sum to one, where they are not traced.
        """
        (p,) = as_floats(probabilities)
        require("Categorical: probabilities", p, jnp.all(p >= 0, -1), "at least 0")
        require("Categorical: probabilities", p, jnp.abs(jnp.sum(p, -1) - 1) < 1e-4, "of sum one")
        return cls(jnp.log(p))

    def standard(self) -> Float[Array, "*batch choices"]:
        """Probabilities."""
        return jax.nn.softmax(self.logits, -1)

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        return jax.nn.logsumexp(self.logits, -1)

    def expected_statistics(self) -> "Categorical":
        """Probabilities."""
        return Categorical(self.standard())

    def kl(self, other: "Categorical") -> Float[Array, "*batch"]:
        """KL(self || other), in nats. A choice of probability zero adds nothing."""
        p = self.standard()
        log_ratio = jax.nn.log_softmax(self.logits, -1) - jax.nn.log_softmax(other.logits, -1)
        return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_ratio, 0), 0), -1)

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether a choice is possible, and none certain beyond measure: no NaN, no +inf."""
        possible = jnp.any(self.logits > -jnp.inf, -1)
        return possible & jnp.all(self.logits < jnp.inf, -1)
