"""k-hat finds the tail that is there, and smoothing gets the evidence right where it can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from chainrule.inference import bbsvi
from chainrule.inference.bbsvi import FullRank, Gaussian, MeanField, Mixture

diagnose = jax.jit(bbsvi.diagnose, static_argnames=("log_density", "family", "draws"))
pareto_tail, psis = jax.jit(bbsvi.pareto_tail), jax.jit(bbsvi.psis)


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 0.9, 1.5])
def test_shape_and_scale_of_a_pareto_tail_are_found(k):
    """Within four of the errors of maximum likelihood, (1 + k) / sqrt(n) and about 2 sqrt((1 + k) / n)."""
    n = 5000
    x = scipy.stats.genpareto(k, scale=2.0).rvs(n, random_state=1)
    found, sigma = pareto_tail(jnp.asarray(x))
    assert abs(found - k) < 4 * (1 + k) / n**0.5 + 0.005
    assert abs(sigma / 2 - 1) < 4 * 2 * (1 + k) ** 0.5 / n**0.5
    near, _, scale = scipy.stats.genpareto.fit(x, floc=0)
    assert abs(found - near) < 0.01 and abs(sigma - scale) < 0.05  # maximum likelihood


@pytest.mark.parametrize("width", [2**0.5, 2.0, 4.0])
def test_k_of_two_gaussians_is_one_minus_the_ratio_of_their_variances(width):
    """p = N(0, width^2), q = N(0, 1): P(p / q > t) falls like t^(-1 / k), but for logarithms of t."""
    q = Gaussian(jnp.zeros(1), jnp.zeros(1))
    target = lambda z: jax.scipy.stats.norm.logpdf(z[0], 0.0, width)
    ks = jax.jit(jax.vmap(lambda key: diagnose(key, target, q, MeanField(), draws=20_000).k))(
        jax.random.split(jax.random.key(0), 20)
    )
    assert abs(np.mean(ks) - (1 - 1 / width**2)) < 0.12


def test_a_good_fit_is_called_one_and_its_evidence_is_right():
    q = Gaussian(jnp.zeros(3), jnp.zeros(3), jnp.zeros((3, 3)))
    wide = lambda z: 2.5 + jnp.sum(jax.scipy.stats.norm.logpdf(z, 0.1, 1.1))
    found = diagnose(jax.random.key(0), wide, q, FullRank(), draws=4000)
    assert found.k < 0.5 and found.effective > 2000
    assert abs(found.log_evidence - 2.5) < 0.03 and found.elbo < 2.5
    standard = lambda z: jnp.sum(jax.scipy.stats.norm.logpdf(z))
    exact = diagnose(jax.random.key(0), standard, q, FullRank())
    assert exact.k < 0.5 and abs(exact.log_evidence) < 1e-9 and abs(exact.effective - 2000) < 1e-3


def two_modes(z, apart):
    """Of mass two."""
    return jnp.logaddexp(*(jax.scipy.stats.norm.logpdf(z[0], mean, 1.0) for mean in (-apart, apart)))


def test_a_fit_to_one_of_two_modes_is_not_trusted():
    q = Gaussian(jnp.full(1, 3.0), jnp.zeros(1))
    assert diagnose(jax.random.key(0), lambda z: two_modes(z, 3.0), q, MeanField(), draws=10_000).k > 0.7


def test_shares_of_a_mixture_are_weighed():
    """Shares of 0.27 and 0.73 where 0.5 is right: ratios are bounded, and their mean is the evidence."""
    q = Mixture(2).init(jax.random.key(1), jnp.zeros(1), 1.0)
    q = q._replace(mean=jnp.array([[-1.5], [1.5]]), logits=jnp.array([0.0, 1.0]))
    found = diagnose(jax.random.key(0), lambda z: two_modes(z, 1.5), q, Mixture(2))
    assert found.k < 0.5 and abs(found.log_evidence - np.log(2)) < 0.02


def test_smoothing_keeps_the_order_the_total_and_what_is_no_tail():
    log_ratios = jnp.asarray(scipy.stats.norm(0, 2).rvs(2000, random_state=0))
    found = psis(log_ratios)
    np.testing.assert_allclose(jax.nn.logsumexp(found.log_weights), 0.0, atol=1e-12)
    np.testing.assert_array_equal(jnp.argsort(found.log_weights), jnp.argsort(log_ratios))
    body = jnp.argsort(log_ratios)[: 2000 - 135]
    raw = log_ratios - jnp.log(2000.0) - found.log_mean
    np.testing.assert_allclose(found.log_weights[body], raw[body], atol=1e-12)
    shifted = psis(log_ratios + 1000)  # ratios that overflow
    np.testing.assert_allclose(shifted.log_weights, found.log_weights, atol=1e-9)
    np.testing.assert_allclose(shifted.log_mean, found.log_mean + 1000, rtol=1e-12)


def test_ratios_that_are_no_numbers_make_none():
    log_ratios = jnp.linspace(0.0, 1.0, 100)
    assert np.isnan(psis(log_ratios.at[3].set(jnp.nan)).k) and np.isnan(psis(log_ratios.at[3].set(jnp.inf)).k)
    assert np.isfinite(psis(log_ratios.at[3].set(-jnp.inf)).k)  # p is zero there
    with pytest.raises(ValueError, match="20 draws are too few"):
        psis(jnp.zeros(20))
