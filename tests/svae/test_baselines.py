"""Baselines are what they say: maximum likelihood, an autoencoder of frames without time, regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae import messages
from chainrule.svae.baselines import FrameVAE, LinearGaussian, StandardNormal
from chainrule.svae.expfam import Gaussian
from chainrule.svae.worlds import Dot, simulate

KEY = jax.random.key(0)


def turning(films, length):
    """Films of three pixels that a rotation by a tenth of a turn draws, with noise, and the system."""
    c, s = np.cos(0.2 * np.pi), np.sin(0.2 * np.pi)
    A = jnp.array([[c, -s], [s, c]])
    chain = messages.LDS(jnp.zeros(2), jnp.eye(2), A, 0.01 * jnp.eye(2), jnp.zeros(2))
    C, d, R = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), jnp.array([0.0, 1.0, 2.0]), jnp.full(3, 0.04)
    nothing = messages.Potentials(jnp.zeros((length, 2)), jnp.zeros((length, 2)))
    states = messages.lds_sample(KEY, chain, nothing, films)
    noise = 0.2 * jax.random.normal(jax.random.key(1), (films, length, 3))
    return states @ C.T + d[None, None] + noise, LinearGaussian(chain, C, d, R)


def test_expectation_maximisation_never_lowers_the_evidence_and_finds_the_system():
    frames, truth = turning(films=60, length=12)
    fitted, evidence = jax.jit(lambda y: LinearGaussian.fit(y, 2, window=2, rounds=30))(frames)
    assert np.all(np.diff(evidence) > -1e-6 * np.abs(evidence[:-1])) and evidence[-1] > evidence[0] + 1
    assert fitted.log_evidence(frames) > truth.log_evidence(frames)  # it is the most likely for these films
    turns = np.linalg.eigvals(fitted.chain.A)
    np.testing.assert_allclose(np.abs(np.angle(turns)), 0.2 * np.pi, atol=0.02)
    np.testing.assert_allclose(fitted.R, 0.04, rtol=0.3)


def test_a_linear_system_predicts_what_was_hidden_at_the_end():
    frames, truth = turning(films=3, length=12)
    ahead = truth.forecast(frames[:, :9], 3)
    hidden = truth.smooth(frames.at[:, 9:].set(99.0), jnp.arange(12) < 9)
    np.testing.assert_allclose(ahead, hidden[:, 9:], rtol=1e-8)


def test_the_autoencoder_of_frames_has_the_posterior_of_a_standard_normal():
    potentials = messages.Potentials(jnp.array([[0.5, 3.0]]), jnp.array([[1.0, -2.0]]))
    prior = StandardNormal.of(2)
    found = prior.posterior(prior, potentials)
    joint = Gaussian(prior.known.J + jnp.diag(potentials.J[0]), potentials.h[0])
    np.testing.assert_allclose(found.mean[0], joint.standard().mean, rtol=1e-12)
    np.testing.assert_allclose(found.variance[0], jnp.diagonal(joint.standard().covariance), rtol=1e-12)
    np.testing.assert_allclose(found.kl[0], joint.kl(prior.known), rtol=1e-12)


def test_the_autoencoder_of_frames_learns_to_draw_and_nothing_else():
    frames = simulate(Dot(pixels=6), KEY, sequences=20, frames=10).frames
    fitted = FrameVAE.fit(KEY, frames, 2, hidden=(10,), rate=2e-2, steps=800)
    jax.tree.map(np.testing.assert_array_equal, fitted.state.model, StandardNormal.of(2))
    drawn = fitted.svae.decode(fitted.state, fitted._means(frames))
    assert jnp.mean((drawn - frames) ** 2) < jnp.var(frames) / 2
    with pytest.raises(ValueError, match="does not know what follows"):
        fitted.forecast(frames, 2)
    assert fitted.followed(frames, 3).forecast(frames[:, :4], 5).shape == (20, 5, 6)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"9 latents from windows of 2 of 4 frames.*at most 6"):
        LinearGaussian.fit(jnp.zeros((20, 4, 3)), 9, window=2)
