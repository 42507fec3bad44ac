"""The evidence by Laplace's method: a Gaussian at the mode, for comparison with the bound of a training run.

    laplace(log_likelihood, prior, params, data=)    -> Laplace

    log p(D) ~= log p(theta, D) + D/2 log 2 pi - 1/2 log|A|,    A = -d^2 log p(theta, D) / d theta^2

Three matrices A, each with the Hessian of the prior in it:

    hessian     that of the likelihood: not positive definite away from a mode, and then there is no answer
    ggn         generalised Gauss-Newton, J^T L J: that of the linearised network, positive semidefinite
    diagonal    the diagonal of the latter, in memory of D numbers for each output of the rows of a batch; for
                priors of independent numbers

Source: MacKay, A practical Bayesian framework for backpropagation networks, Neural Computation 1992; Immer et
al., Scalable marginal likelihood estimation for model selection in deep learning, ICML 2021.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from chainrule.core import PyTrees, Status, ggnvp, hvp
from chainrule.core.logdet import logdet_slq
from chainrule.inference.entropic.priors import Prior

# Beyond this part of its largest number, what stands beside the diagonal of a prior's Hessian is no rounding.
DIAGONAL_RTOL = 1e-3

Curvature = Literal["hessian", "ggn", "diagonal"]


class Laplace(NamedTuple):
    """An approximate log evidence, and what it is made of; NaN where there is none."""

    log_evidence: Float[Array, "*lanes"]  # in nats; no bound, unlike that of `run`
    log_joint: Float[Array, "*lanes"]  # log p(theta, D), in nats
    log_det: Float[Array, "*lanes"]  # log|A|, in nats
    standard_error: Float[Array, "*lanes"]  # of log_evidence, by its random probes; 0 without
    gradient_norm: Float[
        Array, "*lanes"
    ]  # |d log p(theta, D) / d theta|: 0 at a mode, where the method is meant
    status: Int[
        Array, "*lanes"
    ]  # CONVERGED; NONFINITE: A is not positive definite; MAX_STEPS: more lanczos_steps


def laplace(
    log_likelihood: Callable[..., Float[Array, ""]],
    prior: Prior,
    params: PyTree,
    *,
    data: PyTree = None,
    predict: Callable[..., PyTree] | None = None,
    curvature: Curvature = "hessian",
    key: Key[Array, ""] | None = None,
    probes: int = 30,
    lanczos_steps: int = 50,
    batch_size: int = 100,
) -> Laplace:
    """Approximate the log evidence by a Gaussian at these parameters.

    Args:
        log_likelihood: log_likelihood(params, data), in nats; log_likelihood(params) without data. With
            `predict`, of what that returns in place of params.
        prior: p(theta), normalised.
        params: theta, at a mode of the posterior or near it; `gradient_norm` tells.
        data: a pytree of arrays along a common first axis.
        predict: predict(params, data): the network, apart from the likelihood of its outputs. "ggn" and
            "diagonal" are about that division. For "diagonal", outputs have the rows of data, and the
            likelihood is a sum over them.
        curvature: "hessian", "ggn" or "diagonal".
        key: None takes log|A| from the D x D matrix, for a small D; a key has it estimated by `logdet_slq`,
            in O(D) memory. "diagonal" needs neither.
        probes, lanczos_steps: of `logdet_slq`.
        batch_size: rows whose Jacobians are held at a time, for "diagonal".

    Returns:
        Laplace. Where A is not positive definite, as it is at no mode, the status is NONFINITE and the
        evidence NaN; so it is for "diagonal" with a prior whose Hessian is not diagonal.

    Raises:
        ValueError: at once, for settings that do not go together.

    Example:
        >>> fit = lambda w, y: jnp.sum(jax.scipy.stats.norm.logpdf(y, w, 1.0))
        >>> y = jnp.array([0.5, 1.0])
        >>> found = laplace(fit, Gaussian(jnp.zeros(()), 1.0), jnp.sum(y) / 3, data=y)
        >>> print(f"{found.log_evidence:.4f}")  # log N(y; 0, 1 + identity)
        -2.6372
    """
    if curvature not in get_args(Curvature):
        raise ValueError(f"laplace: curvature = {curvature!r} must be one of {get_args(Curvature)}")
    if curvature != "hessian" and predict is None:
        raise ValueError(
            f"laplace: curvature = {curvature!r} needs predict, the network without its likelihood"
        )
    if curvature == "diagonal" and data is None:
        raise ValueError("laplace: curvature = 'diagonal' goes through data row by row: data is None")
    arguments = () if data is None else (data,)
    network = (lambda params, *args: params) if predict is None else predict
    loss = lambda params: -log_likelihood(network(params, *arguments), *arguments)
    prior_loss = lambda params: -prior.log_density(params)

    log_joint = -loss(params) - prior_loss(params)
    gradient = jax.grad(lambda params: loss(params) + prior_loss(params))(params)
    if curvature == "diagonal":
        diagonal = _diagonal(log_likelihood, network, params, data, batch_size) + _prior_diagonal(
            prior_loss, params
        )
        log_det, error, status = _of_positive(diagonal)
    else:
        on_outputs = lambda found: -log_likelihood(found, *arguments)
        if curvature == "hessian":
            likelihood_part = hvp(loss, params)
        else:
            likelihood_part = ggnvp(network, on_outputs, params, args=arguments)
        prior_part = hvp(prior_loss, params)
        A = lambda v: jax.tree.map(jnp.add, likelihood_part(v), prior_part(v))
        if key is None:
            log_det, error, status = _of_matrix(A, params)
        else:
            found = logdet_slq(key, A, params, probes=probes, steps=lanczos_steps)
            log_det, error, status = found.value, found.standard_error, found.status
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    evidence = log_joint + (size * math.log(2 * math.pi) - log_det) / 2
    status = jnp.where(jnp.isfinite(evidence), status, Status.NONFINITE).astype(jnp.int32)
    evidence = jnp.where(status == Status.NONFINITE, jnp.nan, evidence)
    return Laplace(
        evidence, log_joint, log_det, error / 2, jnp.sqrt(PyTrees(gradient).inner(gradient, gradient)), status
    )


def _of_matrix(A, like):
    """log|A| by Cholesky's factor; there is none of a matrix that is not positive definite."""
    flat, unravel = ravel_pytree(like)
    column = lambda v: ravel_pytree(A(unravel(v)))[0]
    matrix = jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype))
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky((matrix + matrix.T) / 2))))
    return log_det, jnp.zeros_like(log_det), Status.CONVERGED


def _of_positive(diagonal):
    log_det = jnp.sum(jnp.log(jnp.where(diagonal > 0, diagonal, jnp.nan)))
    return log_det, jnp.zeros_like(log_det), Status.CONVERGED


def _diagonal(log_likelihood, network, params, data, batch_size):
    """sum over rows of diag(J^T L J), J the Jacobian of a row's outputs and L minus the Hessian by them."""
    flat, unravel = ravel_pytree(params)

    def of_row(row):
        one = jax.tree.map(lambda leaf: leaf[None], row)
        at = network(params, one)
        outputs, back = ravel_pytree(at)
        J = jax.jacrev(lambda flat: ravel_pytree(network(unravel(flat), one))[0])(flat)
        L = jax.hessian(lambda outputs: -log_likelihood(back(outputs), one))(outputs)
        return jnp.sum(J * (L @ J), 0)

    def add(total, rows):
        return total + jnp.sum(jax.vmap(of_row)(rows), 0), None

    count = len(jax.tree.leaves(data)[0])
    size = min(batch_size, count)
    whole = count // size
    blocks = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), data)
    total, _ = lax.scan(add, jnp.zeros_like(flat), blocks)
    rest = jax.tree.map(lambda x: x[whole * size :], data)
    return add(total, rest)[0] if whole * size < count else total


def _prior_diagonal(prior_loss, params):
    """The diagonal of a prior's Hessian that has nothing else, by one product; NaN if it has."""
    flat, unravel = ravel_pytree(params)
    product = hvp(lambda flat: prior_loss(unravel(flat)), flat)
    diagonal = product(jnp.ones_like(flat))
    v = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    apart = jnp.max(jnp.abs(product(v) - diagonal * v))
    return jnp.where(apart <= DIAGONAL_RTOL * jnp.max(jnp.abs(diagonal)), diagonal, jnp.nan)
