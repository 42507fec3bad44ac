"""Log-determinants of positive definite matrices that are known by their products with vectors only.

    logdet_slq(key, matvec, like)    log|A| by random probes, with its standard error    -> LogDeterminant

Differentiable with respect to what `matvec` closes over, such as the parameters of a kernel matrix.

Source: Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J. Matrix
Anal. Appl. 38 (2017); Golub and Meurant, Matrices, Moments and Quadrature, 2010.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, Int, Key, PyTree

from chainrule.core._linalg import Flat, combination, eigh, length
from chainrule.core._varying import varying_as
from chainrule.core.krylov import Lanczos, Matvec, lanczos_flat
from chainrule.core.status import Status

# The derivative is taken with A^-1 z to this accuracy, less than the 1 / sqrt(probes) of the estimate.
SOLVE_RTOL = 1e-2
# Half the digits of a sum of logarithms: a truncation below that is no truncation, but rounding.
NOISE_DIGITS = 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogDeterminant:
    """An estimate of log|A| and of its errors; no derivative flows through the latter."""

    value: Float[Array, "*lanes"]
    standard_error: Float[Array, "*lanes"]  # of value, from the spread of the probes
    truncation: Float[Array, "*lanes"]  # estimate of the error that more steps would remove, on top of that
    status: Int[Array, "*lanes"]  # a Status code


def logdet_slq(
    key: Key[Array, ""],
    matvec: Matvec,
    like: PyTree,
    *,
    probes: int = 30,
    steps: int = 30,
    batch_size: int | None = None,
) -> LogDeterminant:
    """Estimate log|A| of a self-adjoint positive definite A by stochastic Lanczos quadrature.

    log|A| = tr log A is the mean of z^H log(A) z over random signs z; with T, e_1 from Lanczos at z,

        z^H log(A) z  =  |z|^2 e_1^T log(T) e_1  =  n sum_i s_{1i}^2 log theta_i,

    exact if T has as many steps as A has different eigenvalues, and close to it long before: the error
    shrinks like exp(-4 steps / sqrt(cond A)). The variance of the mean is 2 / probes times the sum of the
    squared off-diagonal elements of log A: the closer A is to diagonal, the fewer probes it takes.

    The derivative, d log|A| = tr A^-1 dA, is estimated with the same probes, as the mean of
    (A^-1 z)^H dA z, with respect to whatever `matvec` closes over, in both modes, any number of times.
    It is NaN if the steps do not suffice for A^-1 z.

    Args:
        key: for the probes.
        matvec: v -> A v, linear, self-adjoint, positive definite.
        like: what v is like, arrays or `jax.ShapeDtypeStruct`s.
        probes: how many z, at least 2; the standard error goes with 1 / sqrt(probes).
        steps: matvecs per probe, at least 3. No more are taken than A has rows.
        batch_size: probes worked on at a time; default all. Memory is that of batch_size * steps vectors.

    Returns:
        LogDeterminant, with status CONVERGED; MAX_STEPS if `truncation` exceeds `standard_error`, so that
        the latter does not tell the error: take more steps; NONFINITE, and NaN, if A v is not finite, or A
        is not self-adjoint, or not positive definite in this precision.

    Source: Ubaru, Chen and Saad 2017, algorithm 1. The truncation is extrapolated from quadratures with a
    quarter and a half of the steps left out, as if it shrank geometrically.

    Example:
        >>> A = jnp.diag(jnp.arange(1.0, 6.0)) + 0.1
        >>> logdet = logdet_slq(jax.random.key(0), lambda v: A @ v, jnp.zeros(5))
        >>> bool(abs(logdet.value - jnp.linalg.slogdet(A)[1]) < 3 * logdet.standard_error)
        True
    """
    space = Flat("logdet_slq", matvec, like)
    if probes < 2:
        raise ValueError(f"logdet_slq: probes must be at least 2, to have a standard error, got {probes}")
    if steps < 3:
        raise ValueError(f"logdet_slq: steps must be at least 3, to see them converge, got {steps}")
    steps = min(steps, space.size)
    z = jax.random.rademacher(key, (probes, space.size), space.dtype)
    z = varying_as(z, lambda z: space.matvec(z[0]))
    # What matvec closes over becomes an argument: to differentiate by, and because a derivative may be taken
    # when the trace that it belongs to is over.
    closed = jax.make_jaxpr(space.matvec)(z[0])

    def matvec_of(parameters):
        return lambda v: jax.core.eval_jaxpr(closed.jaxpr, parameters, v)[0]

    def mapped(f, z):
        return lax.map(f, z, batch_size=batch_size or probes)

    @jax.custom_jvp
    def estimate(parameters, z):
        A = matvec_of(parameters)
        return _summary(mapped(lambda z: _quadrature(lanczos_flat(A, z, steps), space), z))

    @estimate.defjvp
    def estimate_jvp(primals, tangents):
        parameters, z = primals
        A = matvec_of(parameters)

        def of_probe(z):
            w = lax.custom_linear_solve(A, z, lambda A, b: _solve(A, b, steps), symmetric=True)
            _, dA_z = jax.jvp(lambda parameters: matvec_of(parameters)(z), (parameters,), tangents[:1])
            return jnp.vdot(w, dA_z).real

        result = estimate(parameters, z)
        value, zero = result[0], jnp.zeros_like(result[0])
        tangent = jnp.where(jnp.isnan(value), value, 1) * jnp.mean(mapped(of_probe, z))
        return result, (tangent, zero, zero, zero)

    value, standard_error, truncation, status = estimate(closed.consts, z)
    return LogDeterminant(value, standard_error, truncation, status.astype(jnp.int32))


def _quadrature(T: Lanczos, space: Flat) -> tuple[Float[Array, "3"], Float[Array, ""], Bool[Array, ""]]:
    """z^H log(A) z for a sign vector z, by all steps, three quarters and half of them; the sum of its terms'
    sizes; and whether log(A) exists.
    """

    def leading(rank):
        theta, S = eigh(T.matrix(T.diagonal[:1], rank))  # what is beyond lies between the others
        terms = space.size * S[0] ** 2 * jnp.log(theta)
        return jnp.sum(terms), jnp.sum(jnp.abs(terms)), theta[0] > 0

    steps = T.diagonal.size
    fewer = [max(1, steps - left_out * max(1, steps // 4)) for left_out in range(3)]
    values, sizes, positive = jax.vmap(leading)(jnp.array(fewer))
    complete = T.off_diagonal[-1] == 0  # then the first value is exact, and the others tell nothing
    return jnp.where(complete, values[0], values), sizes[0], positive[0] & T.is_self_adjoint(space.eps)


def _summary(probed: tuple[Float[Array, "probes 3"], Float[Array, " probes"], Bool[Array, " probes"]]):
    """The fields of a LogDeterminant; all are floating numbers, so that they have tangents."""
    values, sizes, exists = probed
    value = jnp.mean(values[:, 0])
    standard_error = jnp.std(values[:, 0], ddof=1) / jnp.sqrt(len(values))
    later, earlier = jnp.abs(jnp.diff(jnp.mean(values, axis=0)))
    # later / earlier = rate, and what is still to come is later * (rate + rate^2 + ...).
    rate = jnp.clip(later / jnp.where(earlier > 0, earlier, 1), 0, 0.99)
    truncation = later * rate / (1 - rate)
    noise = jnp.finfo(values.dtype).eps ** NOISE_DIGITS * jnp.mean(sizes)
    told = truncation <= standard_error + noise
    sound = jnp.all(exists) & jnp.isfinite(value)
    status = jnp.where(sound, jnp.where(told, Status.CONVERGED, Status.MAX_STEPS), Status.NONFINITE)
    value, standard_error, truncation = (
        jnp.where(sound, x, jnp.nan) for x in (value, standard_error, truncation)
    )
    return value, standard_error, truncation, status.astype(value.dtype)


def _solve(matvec: Matvec, b: Inexact[Array, " n"], steps: int) -> Inexact[Array, " n"]:
    """A^-1 b for a definite A, in the Krylov space of b; NaN if it is not in there, nearly."""
    T = lanczos_flat(matvec, b, steps)
    theta, S = eigh(T.matrix(T.diagonal[:1]))
    x = combination(T.vectors, (length(b) * (S @ (S[0] / theta))).astype(b.dtype))
    return jnp.where(length(matvec(x) - b) <= SOLVE_RTOL * length(b), x, jnp.nan)
