"""Hidden Markov models, beside the sum over all paths in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.testing import check_derivatives
from chainrule.svae.messages import (
    HMM,
    hmm_filter,
    hmm_forecast,
    hmm_log_normaliser,
    hmm_sample,
    hmm_smoother,
    hmm_viterbi,
)

T, K = 8, 3
CLOSE = dict(rtol=1e-10, atol=1e-10)
METHODS = ["sequential", "chunked", "associative"]


def model(seed=0, varying=False, T=T):
    rng = np.random.default_rng(seed)
    log = lambda *shape: jnp.asarray(np.log(rng.dirichlet(np.ones(K), size=shape or None)))
    return HMM(log(), log(T - 1, K) if varying else log(K)), jnp.asarray(3 * rng.normal(size=(T, K)))


def oracle(hmm, l):
    """Paths, their log weights, their probabilities and log Z."""
    paths = np.array(list(itertools.product(range(K), repeat=len(l))))
    transition = np.broadcast_to(hmm.log_transition, (len(l) - 1, K, K))
    t = np.arange(len(l))
    weight = np.asarray(hmm.log_initial)[paths[:, 0]] + np.asarray(l)[t, paths].sum(1)
    weight = weight + transition[t[:-1], paths[:, :-1], paths[:, 1:]].sum(1)
    log_z = np.logaddexp.reduce(weight)
    return paths, weight, np.exp(weight - log_z), log_z


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("varying", [False, True])
def test_smoother_is_the_sum_over_all_paths(method, varying):
    hmm, l = model(varying=varying)
    paths, _, p, log_z = oracle(hmm, l)
    found = jax.jit(hmm_smoother, static_argnames="method")(hmm, l, method=method)
    here = paths[:, :, None] == np.arange(K)
    pairs = np.einsum("n,nti,ntj->tij", p, here[:, :-1], here[:, 1:])
    np.testing.assert_allclose(found.marginals, np.einsum("n,nti->ti", p, here), **CLOSE)
    np.testing.assert_allclose(found.pairs, pairs, **CLOSE)
    np.testing.assert_allclose(found.log_normaliser, log_z, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_one_frame_is_bayes_rule(method):
    hmm, l = model(T=1)
    found = hmm_smoother(hmm, l, method=method)
    np.testing.assert_allclose(found.marginals[0], jax.nn.softmax(hmm.log_initial + l[0]), **CLOSE)
    assert found.pairs.shape == (0, K, K)


@pytest.mark.parametrize("method", METHODS)
def test_filter_and_forecast_are_smoothers_with_later_frames_masked(method):
    hmm, l = model()
    smoother = jax.jit(hmm_smoother)
    found = jax.jit(hmm_filter, static_argnames="method")(hmm, l, method=method)
    for t in (0, 3, T - 1):
        past = smoother(hmm, l, mask=jnp.arange(T) <= t)
        np.testing.assert_allclose(found.probabilities[t], past.marginals[t], **CLOSE)
        np.testing.assert_allclose(jnp.sum(found.log_normalisers[: t + 1]), past.log_normaliser, **CLOSE)
    seen = smoother(hmm, l.at[5:].set(jnp.nan), mask=jnp.arange(T) < 5)
    ahead = jax.jit(hmm_forecast, static_argnums=2, static_argnames="method")(hmm, l[:5], 3, method=method)
    np.testing.assert_allclose(ahead, seen.marginals[5:], **CLOSE)


def test_viterbi_is_the_best_of_all_paths():
    hmm, l = model(varying=True)
    paths, weight, _, _ = oracle(hmm, l)
    np.testing.assert_array_equal(jax.jit(hmm_viterbi)(hmm, l), paths[weight.argmax()])


@pytest.mark.parametrize("method", METHODS)
def test_samples_have_the_probabilities_of_paths(method):
    n = 20_000
    hmm, l = model(T=4)
    sample = jax.jit(hmm_sample, static_argnums=3, static_argnames="method")
    paths, _, p, _ = oracle(hmm, l)
    drawn = np.asarray(sample(jax.random.key(1), hmm, l, n, method=method))
    found = (drawn[:, None] == paths).all(2).mean(0)
    assert (np.abs(found - p) <= 4.5 * np.sqrt(p * (1 - p) / n) + 1e-4).all()


@pytest.mark.parametrize("varying", [False, True])
def test_derivatives_of_the_log_normaliser_are_probabilities_in_both_modes(varying):
    hmm, l = model(varying=varying)
    check_derivatives(jax.jit(hmm_log_normaliser), (hmm, l))
    by_hmm, by_l = jax.jit(jax.grad(hmm_log_normaliser, (0, 1)))(hmm, l)
    found = jax.jit(hmm_smoother)(hmm, l)
    np.testing.assert_allclose(by_l, found.marginals, **CLOSE)
    expected = found.pairs if varying else found.pairs.sum(0)
    np.testing.assert_allclose(by_hmm.log_transition, expected, **CLOSE)


def test_transitions_that_cannot_be_do_no_harm():
    hmm, l = model()
    never = hmm._replace(
        log_transition=jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]))
    )
    _, _, _, log_z = oracle(never, l)
    value, slope = jax.jit(jax.value_and_grad(hmm_log_normaliser))(never, l)
    np.testing.assert_allclose(value, log_z, **CLOSE)
    assert jnp.isfinite(slope.log_transition).all()


def test_long_sequences_in_float32():
    hmm, l = jax.tree.map(lambda x: x.astype(jnp.float32), model(T=50_000))
    double = jax.tree.map(lambda x: x.astype(jnp.float64), (hmm, l))
    found, exact = (jax.jit(hmm_smoother)(*args) for args in ((hmm, l), double))
    np.testing.assert_allclose(found.log_normaliser, exact.log_normaliser, rtol=1e-5)
    np.testing.assert_allclose(found.marginals, exact.marginals, atol=1e-4)


def test_what_is_wrong_is_named():
    hmm, l = model()
    with pytest.raises(ValueError, match="method is 'parallel'"):
        hmm_smoother(hmm, l, method="parallel")
    with pytest.raises(ValueError, match="log_transition must be"):
        hmm_smoother(hmm, l[:, :2])
