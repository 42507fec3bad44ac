"""The Gaussian in information form: its natural parameters are what messages and potentials are made of.

p(x) = exp(-x'Jx / 2 + h'x - A),      t(x) = (-xx'/2, x)

    A = h' J^-1 h / 2 - log|J| / 2 + n log(2 pi) / 2
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from chainrule.svae.expfam._matrices import (
    as_floats,
    cholesky,
    excess,
    half_log_det,
    inverse,
    is_positive_definite,
    require,
    solve,
    trace_of_product,
)

LOG_2PI = math.log(2 * math.pi)


class GaussianMoments(NamedTuple):
    """Standard parameters."""

    mean: Float[Array, "*batch n"]
    covariance: Float[Array, "*batch n n"]


class Gaussian(NamedTuple):
    """Natural parameters of a Gaussian of n numbers."""

    J: Float[Array, "*batch n n"]  # precision, symmetric
    h: Float[Array, "*batch n"]  # precision times mean

    @classmethod
    def of(cls, mean: ArrayLike, covariance: ArrayLike) -> "Gaussian":
        """From mean and covariance.

        Raises:
            ValueError: if the covariance is not symmetric and positive definite, where it is not traced.
        """
        mean, covariance = as_floats(mean, covariance)
        require("Gaussian: covariance", covariance, is_positive_definite(covariance), "positive definite")
        L = cholesky(covariance)
        J = inverse(L)
        return cls(J, solve(L, mean[..., None])[..., 0])

    def standard(self) -> GaussianMoments:
        """Mean and covariance."""
        L = cholesky(self.J)
        covariance = inverse(L)
        return GaussianMoments(solve(L, self.h[..., None])[..., 0], covariance)

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        L = cholesky(self.J)
        whitened = jax.scipy.linalg.solve_triangular(L, self.h[..., None], lower=True)[..., 0]
        return jnp.sum(whitened**2, -1) / 2 - half_log_det(L) + self.h.shape[-1] * LOG_2PI / 2

    def expected_statistics(self) -> "Gaussian":
        """(-E xx' / 2, E x)."""
        mean, covariance = self.standard()
        return Gaussian(-(covariance + mean[..., :, None] * mean[..., None, :]) / 2, mean)

    def kl(self, other: "Gaussian") -> Float[Array, "*batch"]:
        """KL(self || other), in nats; no difference of large numbers is taken."""
        L = cholesky(self.J)
        apart = solve(L, self.h[..., None])[..., 0] - solve(cholesky(other.J), other.h[..., None])[..., 0]
        distance = trace_of_product(other.J, apart[..., :, None] * apart[..., None, :])
        return (excess(L, other.J) + distance) / 2

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether J is positive definite and h finite."""
        return is_positive_definite(self.J) & jnp.all(jnp.isfinite(self.h), -1)
