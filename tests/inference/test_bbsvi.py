"""Families fit what they can hold, exactly, and what they cannot as well as theory says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from chainrule.core import Status
from chainrule.inference import bbsvi
from chainrule.inference.bbsvi import FullRank, Gaussian, MeanField, Mixture, elbo, fit
from chainrule.inference.bbsvi.objective import bound

pytestmark = pytest.mark.slow

KEY = jax.random.key(3)
estimate = jax.jit(bbsvi.estimate, static_argnames=("log_density", "family", "draws"))
MEAN = jnp.array([1.0, -2.0, 0.5])
FACTOR = jnp.array([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.4, 0.7]])
COVARIANCE = FACTOR @ FACTOR.T
PRECISION = jnp.linalg.inv(COVARIANCE)
LOG_Z = 1.7


def correlated(z):
    return LOG_Z + jax.scipy.stats.multivariate_normal.logpdf(z, MEAN, COVARIANCE)


def funnel(z):
    """The density of the demonstration in autograd: a normal whose log standard deviation is normal, too."""
    return jax.scipy.stats.norm.logpdf(z[1], 0.0, 1.35) + jax.scipy.stats.norm.logpdf(
        z[0], 0.0, jnp.exp(z[1])
    )


def bimodal(z):
    apart = jnp.array([3.0, 0.0])
    both = jnp.stack([-jnp.sum((z - apart) ** 2) / 2, -jnp.sum((z + apart) ** 2) / 2])
    return jax.nn.logsumexp(both) - jnp.log(4 * jnp.pi)


def test_mean_field_finds_its_optimum_of_a_correlated_gaussian():
    """Known: the mean, and variances 1 / precision_ii; the bound is log Z - KL, and no more."""
    settings = dict(steps=500, draws=100, antithetic=True, natural_gradient=True, patience=5)
    found = fit(KEY, correlated, jnp.zeros(3), optax.sgd(0.2), **settings)
    np.testing.assert_allclose(found.q.mean, MEAN, atol=1e-2)
    np.testing.assert_allclose(jnp.exp(found.q.log_scale), jnp.diag(PRECISION) ** -0.5, atol=1e-2)
    kl = 0.5 * (jnp.sum(jnp.log(jnp.diag(PRECISION))) + jnp.linalg.slogdet(COVARIANCE)[1])
    bounded = estimate(KEY, correlated, found.q, MeanField(), draws=20_000)
    assert abs(bounded.elbo - (LOG_Z - kl)) < 4 * bounded.standard_error + 1e-3 and kl > 0.5


def test_full_rank_is_exact_on_a_gaussian():
    """By the path derivative there is no noise at the optimum: the limit is that of rounding."""
    settings = dict(steps=400, family=FullRank(), natural_gradient=True, draws=20, patience=9)
    found = fit(KEY, correlated, jnp.zeros(3), optax.sgd(0.2), **settings)
    np.testing.assert_allclose(found.q.mean, MEAN, atol=1e-9)
    np.testing.assert_allclose(found.last.covariance(), COVARIANCE, atol=1e-9)
    assert abs(found.elbo[-1] - LOG_Z) < 1e-9 and found.history[-1].standard_error < 1e-9


def test_the_funnel_demonstration_reaches_its_reference():
    """Its settings: 2000 draws, Adam, from mean -1 and log scale -5; 300 steps at 0.1 are enough."""
    start = Gaussian(jnp.full(2, -1.0), jnp.full(2, -5.0))
    settings = dict(steps=300, draws=2000, entropy="closed", start=start)
    found = fit(KEY, funnel, jnp.zeros(2), optax.adam(0.1), **settings)
    reference = estimate(jax.random.key(1), funnel, found.q, MeanField(), draws=1_000_000)
    assert reference.standard_error < 0.002
    assert abs(found.history[-1].elbo - reference.elbo) < 0.05
    # And in closed form: E_q of log p is one of powers and of exp(-2 z_1), which a normal z_1 has.
    (m, mu), (s, tau) = found.q.mean, jnp.exp(found.q.log_scale)
    closed = -(m**2 + s**2) / 2 * jnp.exp(-2 * mu + 2 * tau**2) - mu - (mu**2 + tau**2) / (2 * 1.35**2)
    constant = -jnp.log(2 * jnp.pi) - jnp.log(1.35)
    entropy = jnp.log(2 * jnp.pi * jnp.e * s * tau)
    np.testing.assert_allclose(reference.elbo, closed + constant + entropy, atol=0.01)


def test_natural_gradient_takes_fewer_steps_at_the_same_rate():
    """Scales from 0.01 to 1: a plain step may not be longer than the narrowest allows."""
    scales = jnp.array([1.0, 0.1, 0.01])
    target = lambda z: -jnp.sum((z / scales) ** 2) / 2
    near = lambda q: jnp.max(jnp.abs(q.log_scale - jnp.log(scales)))
    settings = dict(steps=300, draws=10, init_scale=0.01, patience=9)
    found = [
        fit(KEY, target, scales, optax.sgd(5e-5 if plain else 0.1), natural_gradient=not plain, **settings)
        for plain in (True, False)
    ]
    assert near(found[1].q) < 1e-3 and near(found[0].q) > 1
    # At the rate that the natural one takes, the plain one is thrown out.
    thrown = fit(KEY, target, scales, optax.sgd(0.1), **settings)
    assert thrown.status == Status.NONFINITE or not near(thrown.q) < 1


@pytest.mark.parametrize("family", [MeanField(), FullRank()])
def test_natural_is_the_inverse_fisher_information_times_the_gradient(family):
    q = Gaussian(MEAN, jnp.array([0.1, -0.4, 0.3]), FACTOR if isinstance(family, FullRank) else None)
    flat, unravel = ravel_pytree(q)
    points = family.draw(KEY, q, 4).points
    # The Fisher information is the second derivative of KL(q || q'), which Gaussians have in closed form.

    def divergence(flat):
        other = unravel(flat)
        L, M = other.factor(), q.factor()
        apart = jnp.linalg.solve(L, jnp.concatenate([M, (other.mean - q.mean)[:, None]], axis=1))
        return jnp.sum(apart**2) / 2 + jnp.sum(other.log_scale)

    fisher = jax.jit(jax.hessian(divergence))(flat)
    used = np.flatnonzero(np.diag(fisher))
    gradient = jax.tree.map(jnp.sin, unravel(jnp.arange(1.0, flat.size + 1)))
    if gradient.below is not None:
        gradient = gradient._replace(below=jnp.tril(gradient.below, -1))
    expected = np.zeros(flat.size)
    by_flat = ravel_pytree(gradient)[0]
    expected[used] = np.linalg.solve(fisher[np.ix_(used, used)], by_flat[used])
    np.testing.assert_allclose(ravel_pytree(jax.jit(family.natural)(q, gradient))[0], expected, atol=1e-9)
    oracle = scipy.stats.multivariate_normal(q.mean, q.covariance())
    np.testing.assert_allclose(family.log_density(q, points), oracle.logpdf(points), rtol=1e-9)
    np.testing.assert_allclose(family.entropy(q), oracle.entropy(), rtol=1e-9)


def test_a_mixture_beats_mean_field_on_two_modes():
    rate = optax.adam(optax.linear_schedule(0.1, 0.0, 600))
    settings = dict(steps=600, draws=20)
    one = fit(KEY, bimodal, jnp.array([0.5, 0.0]), rate, **settings)
    two = fit(KEY, bimodal, jnp.array([0.5, 0.0]), rate, family=Mixture(2), **settings)
    narrow = estimate(KEY, bimodal, one.q, MeanField(), draws=10_000)
    wide = estimate(KEY, bimodal, two.q, Mixture(2), draws=10_000)
    assert abs(wide.elbo) < 0.02 < 0.6 < -narrow.elbo < np.log(2) + 0.02
    np.testing.assert_allclose(jax.nn.softmax(two.q.logits), 0.5, atol=0.05)
    np.testing.assert_allclose(np.sort(two.q.mean[:, 0]), [-3, 3], atol=0.1)


@pytest.mark.parametrize("family", [FullRank(), Mixture(3)])
def test_path_and_total_derivatives_agree_in_the_mean(family):
    """Roeder et al.: what is left out has the mean zero. Shares of a mixture and their gradient included."""
    q = family.init(KEY, MEAN / 2, 0.7)

    def gradients(entropy):
        keys = jax.random.split(KEY, 400)
        one = lambda key: jax.grad(lambda q: bound(key, correlated, q, family, 30, entropy))(q)
        flat = jax.jit(jax.vmap(lambda key: ravel_pytree(one(key))[0]))(keys)
        return flat.mean(0), flat.std(0) / 20

    (path, path_error), (total, total_error) = gradients("path"), gradients("total")
    assert np.all(np.abs(path - total) <= 4.5 * np.hypot(path_error, total_error) + 1e-9)
    assert np.any(np.abs(path) > 0.1)


def test_strata_are_unbiased_and_their_error_is_told():
    family, q = Mixture(3), Mixture(3).init(KEY, MEAN, 0.7)
    q = q._replace(logits=jnp.array([0.0, 1.0, -1.0]))
    keys = jax.random.split(jax.random.key(2), 500)
    found = jax.jit(jax.vmap(lambda key: estimate(key, correlated, q, family, draws=60)))(keys)
    long = estimate(KEY, correlated, q, family, draws=300_000)
    spread = np.std(found.elbo)
    assert abs(found.elbo.mean() - long.elbo) < 4 * (spread / 500**0.5 + long.standard_error)
    np.testing.assert_allclose(np.sqrt(np.mean(found.standard_error**2)), spread, rtol=0.15)


def test_the_tweets_bound_is_that_of_its_gaussian():
    """Log variances in p, log standard deviations in the family: the same number, up to noise."""
    p = jnp.concatenate([MEAN, jnp.array([0.2, -0.6, 0.4])])
    lp = jax.vmap(correlated)
    tweet = jax.jit(elbo, static_argnums=(2, 3, 4))(KEY, p, lp, 3, 200_000)
    long = estimate(KEY, correlated, Gaussian(MEAN, p[3:] / 2), MeanField(), draws=200_000)
    assert abs(tweet - long.elbo) < 8 * long.standard_error
    gf = jax.jit(jax.grad(elbo, 1), static_argnums=(2, 3, 4))
    slope = gf(KEY, p, lp, 3, 100_000)
    np.testing.assert_allclose(slope[3:], (1 - jnp.exp(p[3:]) * jnp.diag(PRECISION)) / 2, atol=0.1)


def test_steps_that_are_not_finite_are_skipped_and_counted():
    """log z is NaN left of zero; where a draw falls there the step is left out."""
    target = lambda z: jnp.sum(2 * jnp.log(z) - z)  # a gamma density
    settings = dict(steps=200, chunk=50, draws=3, init_scale=0.5, patience=9)
    found = fit(KEY, target, jnp.ones(1), optax.adam(0.02), **settings)
    assert 0 < found.skipped < 200 and found.skipped == np.sum(~np.isfinite(found.elbo))
    assert np.isfinite(found.last.mean).all() and found.history[-1].skipped == found.skipped
    counted = found.optimizer_state[0].count
    assert counted == 200 - found.skipped

    hopeless = fit(KEY, lambda z: jnp.nan * z[0], jnp.ones(1), optax.adam(0.02), **settings)
    assert hopeless.status == Status.NONFINITE and hopeless.skipped == 50
    np.testing.assert_array_equal(hopeless.last.mean, jnp.ones(1))


def test_convergence_is_judged_by_the_noise_and_keys_repeat():
    told = []
    settings = dict(steps=3000, draws=5, callback=lambda progress, q: told.append(progress))
    first = fit(KEY, correlated, jnp.zeros(3), optax.adam(0.05), **settings)
    assert first.status == Status.CONVERGED and 300 < len(first.elbo) < 3000 and told == first.history
    again = fit(KEY, correlated, jnp.zeros(3), optax.adam(0.05), **settings | dict(chunk=50))
    n = min(len(first.elbo), len(again.elbo))
    np.testing.assert_array_equal(first.elbo[:n], again.elbo[:n])
    other = fit(jax.random.key(4), correlated, jnp.zeros(3), optax.adam(0.05), **settings)
    assert np.any(other.elbo[:100] != first.elbo[:100])
    short = fit(KEY, correlated, jnp.zeros(3), optax.adam(1e-5), steps=200, chunk=100)
    assert short.status == Status.MAX_STEPS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(chunk=30), "divide steps = 100"),
        (dict(patience=0), "patience must be at least 1"),
        (dict(family=Mixture(3), draws=10), "draws = 10 must be a multiple of its 3 components"),
        (dict(family=Mixture(2), entropy="closed"), "no entropy in closed form"),
        (dict(family=Mixture(2), natural_gradient=True), "use natural_gradient with"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        fit(KEY, correlated, jnp.zeros(3), optax.sgd(0.1), **dict(steps=100) | changes)


@pytest.mark.parametrize("family", [MeanField(), FullRank(), Mixture(2)])
def test_antithetic_draws_have_the_mean_of_their_family(family):
    """Also an odd number of them for each component but one."""
    q = family.init(KEY, MEAN, 0.5)
    points, weights = family.draw(KEY, q, 8, antithetic=True)
    mean = q.mean if q.mean.ndim == 1 else q.mean.mean(0)
    np.testing.assert_allclose(weights @ points, mean, atol=1e-12)
    assert len(np.unique(points, axis=0)) == 8
    assert family.draw(KEY, q, 6, antithetic=True).points.shape == (6, 3)
