"""Mean field of a mixture: a bound that only rises, exact where it can be, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from chainrule.core import Implicit, OneStep, Status, Unrolled
from chainrule.svae import expfam
from chainrule.svae.expfam import NIW, Dirichlet
from chainrule.svae.gmm import GMM, Potentials
from chainrule.svae.mean_field import settle

KEYS = jax.random.split(jax.random.key(0), 6)
PLACES = 2 * jax.random.normal(KEYS[0], (60, 2))
POTENTIALS = Potentials(jnp.full((60, 2), 0.8), 0.8 * PLACES)
MIXTURE = GMM.prior(4, 2, concentration=4.0).scattered(KEYS[1], spread=2.0, scale=0.5)
STATISTICS = MIXTURE.expected_statistics()
WEIGHTS = jax.random.normal(KEYS[2], PLACES.shape)


def known(weights, means, covariances):
    """Statistics of parameters that are known for certain."""
    precisions = np.linalg.inv(covariances)
    places = np.einsum("kij,kj->ki", precisions, means)
    squares = np.einsum("ki,ki->k", places, means)
    components = NIW(-precisions / 2, places, -squares / 2, np.linalg.slogdet(precisions)[1] / 2)
    return GMM(Dirichlet(jnp.log(weights)), jax.tree.map(jnp.asarray, components))


def bound(posterior, potentials):
    """E <potentials, x> - KL of each datum: log of the potential's integral under the mixture, at most."""
    squares = jnp.diagonal(posterior.covariance, axis1=-2, axis2=-1) + posterior.mean**2
    hinted = jnp.sum(potentials.h * posterior.mean - potentials.J * squares / 2, -1)
    return hinted - posterior.kl


def log_evidence(weights, means, covariances, potentials):
    """log sum_k pi_k of N(place; mu_k, Sigma_k + 1/J), with the constant of the potential taken off."""
    J, place = np.asarray(potentials.J), np.asarray(potentials.h / potentials.J)
    noise = np.stack([np.diag(1 / j) for j in J])
    clusters = list(zip(weights, means, covariances, strict=True))
    normal = scipy.stats.multivariate_normal.pdf
    densities = [[w * normal(y, m, S + R) for w, m, S in clusters] for y, R in zip(place, noise, strict=True)]
    constant = np.sum(np.log(2 * np.pi / J) / 2 + J * place**2 / 2, -1)
    return np.log(np.sum(densities, -1)) + constant


def test_with_one_cluster_the_bound_is_the_evidence():
    truth = [1.0], [[0.5, -1.0]], [[[1.0, 0.3], [0.3, 0.5]]]
    posterior = GMM.posterior(known(*map(np.array, truth)), POTENTIALS)
    np.testing.assert_allclose(bound(posterior, POTENTIALS), log_evidence(*truth, POTENTIALS), rtol=1e-9)
    exact = np.linalg.inv(np.linalg.inv(truth[2][0]) + 0.8 * np.eye(2))
    np.testing.assert_allclose(posterior.covariance[0], exact, rtol=1e-9)


def test_with_more_it_is_below_and_near_where_clusters_are_apart():
    spread = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    for apart, least, most in ((1.0, 0.05, 1.0), (200.0, -1e-9, 1e-6)):
        truth = np.full(3, 1 / 3), apart * spread, np.broadcast_to(0.4 * np.eye(2), (3, 2, 2))
        places = truth[1][np.arange(60) % 3] + 0.3 * np.asarray(WEIGHTS)
        hints = Potentials(POTENTIALS.J, POTENTIALS.J * places)
        gap = log_evidence(*truth, hints) - bound(GMM.posterior(known(*truth), hints), hints)
        assert (gap >= least).all() and (gap <= most).all()


def test_no_round_lowers_the_bound():
    unsettled = dict(rtol=0.0, adjoint=OneStep())
    bounds = [
        bound(GMM.posterior(STATISTICS, POTENTIALS, max_steps=rounds, **unsettled), POTENTIALS)
        for rounds in (1, 2, 5, 40)
    ]
    rises = np.diff(bounds, axis=0)
    assert rises.min() > -1e-12 and rises.max() > 1e-3


def test_where_it_has_settled_no_label_can_be_improved():
    posterior = GMM.posterior(STATISTICS, POTENTIALS)
    assert (posterior.stats.status == Status.CONVERGED).all() and posterior.stats.steps.max() > 10
    moments = NIW.statistics(posterior.mean)._replace(
        xx=posterior.covariance + posterior.mean[:, :, None] * posterior.mean[:, None, :]
    )
    components = STATISTICS.components
    logits = jax.vmap(
        lambda t: jax.vmap(lambda eta: sum(jnp.sum(a * b) for a, b in zip(eta, t, strict=True)))(components)
    )(moments)
    best = jax.nn.softmax(logits + jnp.broadcast_to(STATISTICS.weights.alpha, logits.shape))
    np.testing.assert_allclose(posterior.labels, best, atol=1e-9)


def slope(adjoint, max_steps=400):
    """Of something made of q(x), by statistics and potentials."""

    def loss(inputs):
        posterior = GMM.posterior(*inputs, adjoint=adjoint, max_steps=max_steps, rtol=1e-11)
        return jnp.sum(jnp.sin(posterior.mean) * WEIGHTS) - jnp.sum(posterior.kl)

    return jax.jit(jax.grad(loss))


def test_the_implicit_gradient_is_the_unrolled_one_and_one_step_is_not():
    implicit, unrolled, one_step = (
        ravel_pytree(slope(adjoint)((STATISTICS, POTENTIALS)))[0]
        for adjoint in (Implicit(), Unrolled(), OneStep())
    )
    assert implicit @ unrolled / jnp.linalg.norm(implicit) / jnp.linalg.norm(unrolled) > 1 - 1e-9
    np.testing.assert_allclose(implicit, unrolled, rtol=1e-5, atol=1e-6)
    assert jnp.linalg.norm(one_step - unrolled) > 1e-3 * jnp.linalg.norm(unrolled)


def test_the_gradient_of_the_bound_needs_none_through_the_labels():
    """The envelope theorem: at the best q, it makes no difference how q is differentiated."""
    slopes = []
    for adjoint in (Implicit(), OneStep()):
        posterior = lambda s, adjoint=adjoint: GMM.posterior(s, POTENTIALS, adjoint=adjoint)
        total = lambda s, posterior=posterior: jnp.sum(bound(posterior(s), POTENTIALS))
        slopes.append(ravel_pytree(jax.grad(total)(STATISTICS))[0])
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-7)


def test_memory_of_the_implicit_gradient_does_not_grow_with_rounds():
    def memory(adjoint, rounds):
        compiled = slope(adjoint, rounds).lower((STATISTICS, POTENTIALS)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(Implicit(), 1000) == memory(Implicit(), 10)
    assert memory(Unrolled(), 1000) > 10 * memory(Unrolled(), 10)


def test_a_datum_that_has_not_settled_is_told_and_keeps_a_derivative():
    hard = dict(rtol=1e-11, max_steps=8)
    posterior = GMM.posterior(STATISTICS, POTENTIALS, **hard)
    settled = posterior.stats.status == Status.CONVERGED
    assert settled.any() and not settled.all()
    assert np.isfinite(posterior.kl).all()
    strict = GMM.posterior(STATISTICS, POTENTIALS, on_failure="nan", **hard)
    np.testing.assert_array_equal(np.isnan(strict.kl), ~settled)
    loss = lambda h: jnp.sum(GMM.posterior(STATISTICS, Potentials(POTENTIALS.J, h), **hard).mean)
    assert np.isfinite(jax.grad(loss)(POTENTIALS.h)).all()
    with pytest.raises(RuntimeError, match="did not converge in"):
        GMM.posterior(STATISTICS, POTENTIALS, on_failure="raise", **hard)


def test_a_round_after_the_end_is_what_an_unsettled_datum_is_differentiated_by():
    value = lambda a: settle(lambda a, x: jnp.cos(a * x), a, 0.5, max_steps=3)[0]
    x = value(0.9)
    np.testing.assert_allclose(x, np.cos(0.9 * np.cos(0.9 * np.cos(0.45))), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(value)(0.9), -x * jnp.sin(0.9 * x), rtol=1e-12)


def test_without_potentials_the_posterior_is_the_prior():
    nothing = Potentials(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    means = np.array([[0.0, 0.0], [50.0, 0.0]])
    statistics = known(np.array([0.999, 0.001]), means, np.broadcast_to(np.eye(2), (2, 2, 2)))
    posterior = GMM.posterior(statistics, nothing)
    np.testing.assert_allclose(posterior.labels[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(posterior.covariance[0], np.eye(2), atol=1e-6)


def test_samples_have_the_moments_of_the_posterior():
    posterior = GMM.posterior(STATISTICS, POTENTIALS)
    x = posterior.sample(KEYS[3], 20_000)
    error = np.sqrt(np.diagonal(posterior.covariance, axis1=-2, axis2=-1) / 20_000)
    assert (np.abs(x.mean(0) - posterior.mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(x[:, 0].T), posterior.covariance[0], atol=0.05)


def test_a_start_is_scattered_and_inside_its_family():
    prior = GMM.prior(6, 3)
    start = prior.scattered(KEYS[4], spread=2.0, scale=0.1)
    assert jax.tree.all(jax.tree.map(jnp.all, expfam.valid(start)))
    means = start.components.standard().m
    assert (jnp.linalg.norm(means[:, None] - means[None], axis=-1) + jnp.eye(6) > 0.3).all()
    assert start.kl(prior) > 0 and abs(prior.kl(prior)) < 1e-12
