"""The normal-inverse-Wishart family: what is known of a Gaussian's mean and precision.

    mu | Sigma ~ N(m, Sigma / kappa),      Sigma^-1 ~ Wishart(nu, S^-1)

With the precision L = Sigma^-1,

    t = (-L/2, L mu, -mu'L mu / 2, log|L| / 2),    eta = (S + kappa m m', kappa m, kappa, nu),

so that eta is a sum of (xx', x, 1, 1) over data, plus the prior. It is the regression of x on the number one:
formulas are those of `MNIW` with one input. Base measure |L|^(-n/2).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from chainrule.svae.expfam._matrices import as_floats, is_positive_definite, require, require_symmetric
from chainrule.svae.expfam.mniw import MNIW


class MeanAndScale(NamedTuple):
    """Standard parameters."""

    m: Float[Array, "*batch n"]  # mean of the mean
    kappa: Float[Array, "*batch"]  # how many data that mean is worth, above 0
    S: Float[Array, "*batch n n"]  # scale: E Sigma^-1 = nu S^-1
    nu: Float[Array, "*batch"]  # degrees of freedom, above n - 1


class NIW(NamedTuple):
    """Natural parameters: sums over data and pseudo-data."""

    xx: Float[Array, "*batch n n"]  # of x x'
    x: Float[Array, "*batch n"]  # of x
    kappa: Float[Array, "*batch"]  # of 1
    nu: Float[Array, "*batch"]  # of 1

    @classmethod
    def of(cls, m: ArrayLike, kappa: ArrayLike, S: ArrayLike, nu: ArrayLike) -> "NIW":
        """From standard parameters; see `MeanAndScale` for what they are.

        Raises:
            ValueError: if S is not symmetric and positive definite, kappa not above 0 or nu not above n - 1,
                where they are not traced.
        """
        m, kappa, S, nu = as_floats(m, kappa, S, nu)
        n = S.shape[-1]
        require_symmetric("NIW: S", S)
        require("NIW: S", S, is_positive_definite(S), "positive definite")
        require("NIW: kappa", kappa, kappa > 0, "above 0")
        require("NIW: nu", nu, nu > n - 1, f"above {n - 1} for {n} numbers")
        x = kappa[..., None] * m
        return cls(S + x[..., :, None] * m[..., None, :], x, kappa, nu)

    @classmethod
    def statistics(cls, x: Float[Array, "*batch n"]) -> "NIW":
        """What each x adds to the parameters."""
        ones = jnp.ones(x.shape[:-1], x.dtype)
        return cls(x[..., :, None] * x[..., None, :], x, ones, ones)

    def standard(self) -> MeanAndScale:
        """m, kappa, S and nu."""
        regression = self._regression().standard()
        return MeanAndScale(regression.M[..., 0], self.kappa, regression.S, self.nu)

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        return self._regression().log_normalizer()

    def expected_statistics(self) -> "NIW":
        """(-E L / 2, E L mu, -E mu'L mu / 2, E log|L| / 2), with L the precision."""
        squares, coefficients, precision, log_det = self._regression().expected_statistics()
        return NIW(precision, coefficients[..., 0, :], squares[..., 0, 0], log_det)

    def kl(self, other: "NIW") -> Float[Array, "*batch"]:
        """KL(self || other), in nats; no difference of large numbers is taken."""
        return self._regression().kl(other._regression())

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether S is positive definite, kappa above 0 and nu above n - 1."""
        return self._regression().is_valid()

    def _regression(self):
        return MNIW(self.kappa[..., None, None], self.x[..., None, :], self.xx, self.nu)
