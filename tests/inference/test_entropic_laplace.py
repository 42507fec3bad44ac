"""Laplace's evidence is that of Bayesian linear regression exactly, and is none where there is no mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from chainrule.core import Status
from chainrule.inference.entropic import Gaussian, laplace

KEY = jax.random.key(3)
N, D, NOISE, SCALE = 15, 4, 0.5, 1.5
RNG = np.random.default_rng(1)
X = RNG.normal(size=(N, D))
DATA = jnp.asarray(X), jnp.asarray(X @ np.array([1.0, -2.0, 0.5, 0.0]) + NOISE * RNG.normal(size=N))
PRIOR = Gaussian({"w": jnp.zeros(D)}, SCALE)
PRECISION = X.T @ X / NOISE**2 + np.eye(D) / SCALE**2
MODE = {"w": jnp.asarray(np.linalg.solve(PRECISION, X.T @ np.asarray(DATA[1]) / NOISE**2))}
EVIDENCE = scipy.stats.multivariate_normal(np.zeros(N), NOISE**2 * np.eye(N) + SCALE**2 * X @ X.T).logpdf(
    DATA[1]
)


def predict(params, data):
    return data[0] @ params["w"]


def fit(outputs, data):
    return jnp.sum(jax.scipy.stats.norm.logpdf(data[1], outputs, NOISE))


def test_it_is_exact_for_linear_regression():
    """Hessian and Gauss-Newton matrix are the same there, and so is quadrature with as many steps as rows."""
    for curvature in ("hessian", "ggn"):
        found = laplace(fit, PRIOR, MODE, data=DATA, predict=predict, curvature=curvature)
        np.testing.assert_allclose(found.log_evidence, EVIDENCE, rtol=1e-10)
        assert found.status == Status.CONVERGED and found.gradient_norm < 1e-8 and found.standard_error == 0
        np.testing.assert_allclose(found.log_det, np.linalg.slogdet(PRECISION)[1], rtol=1e-10)
    by_probes = laplace(fit, PRIOR, MODE, data=DATA, predict=predict, key=KEY, probes=200)
    assert 0 < by_probes.standard_error < 0.1
    assert abs(by_probes.log_evidence - EVIDENCE) < 4 * by_probes.standard_error


@pytest.mark.parametrize("batch_size", [4, 15])
def test_the_diagonal_is_that_of_the_matrix(batch_size):
    """15 rows by 4: the last three are a batch of their own."""
    found = laplace(fit, PRIOR, MODE, data=DATA, predict=predict, curvature="diagonal", batch_size=batch_size)
    np.testing.assert_allclose(found.log_det, np.sum(np.log(np.diagonal(PRECISION))), rtol=1e-10)
    assert found.log_evidence < EVIDENCE  # Hadamard: the diagonal has the larger determinant


def test_gauss_newton_is_that_of_the_linearised_network():
    """Classes, and a network that is not linear: against J^T L J by whole Jacobians."""
    data = DATA[0], jnp.arange(N) % 3
    network = lambda params, data: jnp.tanh(data[0] @ params["w"].reshape(D, 3))
    chosen = lambda scores, data: jnp.sum(
        jnp.take_along_axis(jax.nn.log_softmax(scores), data[1][:, None], 1)
    )
    prior = Gaussian({"w": jnp.zeros(3 * D)}, SCALE)
    params = prior.sample(KEY)
    J = jax.jacobian(lambda w: network({"w": w}, data))(params["w"])
    p = jax.nn.softmax(network(params, data))
    L = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    expected = np.einsum("nki,nkl,nlj->ij", J, L, J) + np.eye(3 * D) / SCALE**2
    settings = dict(data=data, predict=network)
    whole = laplace(chosen, prior, params, curvature="ggn", **settings)
    np.testing.assert_allclose(whole.log_det, np.linalg.slogdet(expected)[1], rtol=1e-9)
    diagonal = laplace(chosen, prior, params, curvature="diagonal", **settings)
    np.testing.assert_allclose(diagonal.log_det, np.sum(np.log(np.diagonal(expected))), rtol=1e-9)
    joint = chosen(network(params, data), data) + prior.log_density(params)
    np.testing.assert_allclose(whole.log_joint, joint, rtol=1e-12)


def test_where_there_is_no_mode_there_is_no_evidence():
    """A saddle: curvature of both signs. The estimate by probes says so, too."""
    saddle = lambda params: 5 * params["w"][0] ** 2 - jnp.sum(params["w"] ** 2)
    for key in (None, KEY):
        found = laplace(saddle, PRIOR, {"w": jnp.zeros(D)}, key=key)
        assert np.isnan(found.log_evidence) and found.status == Status.NONFINITE
        assert np.isfinite(found.log_joint)
    assert laplace(lambda params: -saddle(params), PRIOR, MODE).gradient_norm > 1


class Correlated(Gaussian):
    """A prior whose numbers depend on each other."""

    def log_density(self, params):
        return super().log_density(params) - params["w"][0] * params["w"][1] / 4


def test_a_diagonal_of_a_prior_that_has_none_is_refused():
    found = laplace(
        fit, Correlated(PRIOR.mean, SCALE), MODE, data=DATA, predict=predict, curvature="diagonal"
    )
    assert np.isnan(found.log_evidence) and found.status == Status.NONFINITE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(curvature="ggn"), "needs predict"),
        (dict(curvature="diagonal", predict=predict), "data is None"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        laplace(lambda w: -jnp.sum(w["w"] ** 2), PRIOR, MODE, **changes)
