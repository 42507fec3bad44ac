"""The matrix-normal-inverse-Wishart family: what is known of a linear regression y = A x + noise.

    y | x ~ N(A x, Sigma),      A | Sigma ~ MN(M, Sigma, K),      Sigma^-1 ~ Wishart(nu, S^-1)

M is outputs x inputs; rows of A covary as Sigma does, columns as K. With the precision L = Sigma^-1,

    t = (-A'LA/2, (LA)', -L/2, log|L|/2),    eta = (K^-1, K^-1 M', S + M K^-1 M', nu),

so that eta is a sum of (xx', xy', yy', 1) over data, plus the prior. Base measure |L|^((inputs-outputs-1)/2).

    A = n p log(2 pi)/2 + n log|K|/2 + nu n log(2)/2 - nu log|S|/2 + log Gamma_n(nu/2),   n outputs, p inputs

join_columns, split_columns    inputs made of a state, an action and a one for the bias; and back

Conversion to M, K, S subtracts M K^-1 M' from yy: in float32, let data be centred and of size one.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from chainrule.svae.expfam._gamma import bregman, multidigamma, multigammaln, wishart_remainder
from chainrule.svae.expfam._matrices import (
    HIGHEST,
    as_floats,
    cholesky,
    excess,
    eye_like,
    half_log_det,
    inverse,
    is_positive_definite,
    require,
    require_symmetric,
    solve,
    symmetric,
)

LOG_2, LOG_2PI = math.log(2), math.log(2 * math.pi)


class Regression(NamedTuple):
    """Standard parameters."""

    M: Float[Array, "*batch outputs inputs"]  # mean coefficients
    K: Float[Array, "*batch inputs inputs"]  # covariance of a row of coefficients, in units of the noise's
    S: Float[Array, "*batch outputs outputs"]  # scale: E Sigma^-1 = nu S^-1
    nu: Float[Array, "*batch"]  # degrees of freedom, above outputs - 1


class MNIW(NamedTuple):
    """Natural parameters: sums over data and pseudo-data."""

    xx: Float[Array, "*batch inputs inputs"]  # of x x'
    xy: Float[Array, "*batch inputs outputs"]  # of x y'
    yy: Float[Array, "*batch outputs outputs"]  # of y y'
    nu: Float[Array, "*batch"]  # of 1

    @classmethod
    def of(cls, M: ArrayLike, K: ArrayLike, S: ArrayLike, nu: ArrayLike) -> "MNIW":
        """From standard parameters; see `Regression` for what they are.

        Raises:
            ValueError: if K or S is not symmetric and positive definite, or nu not above outputs - 1, where
                they are not traced.
        """
        M, K, S, nu = as_floats(M, K, S, nu)
        n = S.shape[-1]
        for name, matrix in (("MNIW: K", K), ("MNIW: S", S)):
            require_symmetric(name, matrix)
            require(name, matrix, is_positive_definite(matrix), "positive definite")
        require("MNIW: nu", nu, nu > n - 1, f"above {n - 1} for {n} outputs")
        L = cholesky(K)
        xx = inverse(L)
        xy = jnp.matmul(xx, M.mT, precision=HIGHEST)
        return cls(xx, xy, symmetric(S + jnp.matmul(M, xy, precision=HIGHEST)), nu)

    @classmethod
    def statistics(cls, x: Float[Array, "*batch inputs"], y: Float[Array, "*batch outputs"]) -> "MNIW":
        """What each pair (x, y) adds to the parameters."""
        ones = jnp.ones(x.shape[:-1], x.dtype)
        return cls(_outer(x, x), _outer(x, y), _outer(y, y), ones)

    def standard(self) -> Regression:
        """M, K, S and nu."""
        L = cholesky(self.xx)
        M = solve(L, self.xy).mT
        K = inverse(L)
        return Regression(M, K, self._scale(M), self.nu)

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        p, n = self.xy.shape[-2:]
        L = cholesky(self.xx)
        scale = half_log_det(cholesky(self._scale(solve(L, self.xy).mT)))
        gamma = self.nu * n * LOG_2 / 2 + multigammaln(self.nu / 2, n)
        return n * p * LOG_2PI / 2 - n * half_log_det(L) - self.nu * scale + gamma

    def expected_statistics(self) -> "MNIW":
        """(-E A'LA / 2, (E LA)', -E L / 2, E log|L| / 2), with L the precision of the noise."""
        M, K, S, nu = self.standard()
        n = S.shape[-1]
        L = cholesky(S)
        precision = nu[..., None, None] * inverse(L)
        coefficients = jnp.matmul(precision, M, precision=HIGHEST)
        squares = n * K + symmetric(jnp.matmul(M.mT, coefficients, precision=HIGHEST))
        log_det = multidigamma(nu / 2, n) + n * LOG_2 - 2 * half_log_det(L)
        return MNIW(-squares / 2, coefficients.mT, -precision / 2, log_det / 2)

    def kl(self, other: "MNIW") -> Float[Array, "*batch"]:
        """KL(self || other), in nats; no difference of large numbers is taken.

        Given Sigma it is that of two matrix-normals, and of the precisions, with D_f what f at other's nu/2
        exceeds its tangent at self's by, and f = log Gamma_n(x) - n (x log x - x),

            nu'/2 (tr C - n - log|C|) + D_f(nu'/2, nu/2),       C = (nu / nu') S^-1 S'.
        """
        n = self.yy.shape[-1]
        K, other_K = cholesky(self.xx), cholesky(other.xx)
        M, other_M = solve(K, self.xy).mT, solve(other_K, other.xy).mT
        S = cholesky(self._scale(M))
        apart = M - other_M
        spread = jnp.matmul(jnp.matmul(apart, other.xx, precision=HIGHEST), apart.mT, precision=HIGHEST)
        distance = self.nu * jnp.trace(solve(S, spread), axis1=-2, axis2=-1)
        given_noise = (n * excess(K, other.xx) + distance) / 2
        noise = other.nu / 2 * excess(S, other._scale(other_M), self.nu / other.nu)
        remainder = lambda x: wishart_remainder(x, n)
        return given_noise + noise + bregman(remainder, other.nu / 2, self.nu / 2)

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether K and S are positive definite, and nu above outputs - 1."""
        inputs = is_positive_definite(self.xx)
        xx = jnp.where(inputs[..., None, None], self.xx, eye_like(self.xx))
        M = solve(cholesky(xx), self.xy).mT
        return inputs & is_positive_definite(self._scale(M)) & (self.nu > self.yy.shape[-1] - 1)

    def _scale(self, M):
        """S."""
        return symmetric(self.yy - jnp.matmul(M, self.xy, precision=HIGHEST))


def join_columns(
    state: Float[Array, "*batch n"], action: Float[Array, "*batch m"] | None = None, *, bias: bool = False
) -> Float[Array, "*batch inputs"]:
    """The inputs (state, action, 1) of a regression with coefficients [A | B | b]."""
    parts = [state] if action is None else [state, action]
    if bias:
        parts.append(jnp.ones((*state.shape[:-1], 1), state.dtype))
    return jnp.concatenate(parts, -1)


def split_columns(
    M: Float[Array, "*batch outputs inputs"], state: int, action: int = 0, *, bias: bool = False
) -> tuple[Array, Array, Array]:
    """A, B and b of coefficients [A | B | b]: B has no columns without actions, b is zero without a bias.

    Raises:
        ValueError: if the columns are not as many as state, action and bias say.
    """
    if M.shape[-1] != state + action + bias:
        raise ValueError(
            f"split_columns: coefficients have {M.shape[-1]} columns, but {state} of the state, {action} of "
            f"the action and {int(bias)} of the bias make {state + action + bias}"
        )
    b = M[..., -1] if bias else jnp.zeros(M.shape[:-1], M.dtype)
    return M[..., :state], M[..., state : state + action], b


def _outer(x, y):
    return x[..., :, None] * y[..., None, :]
