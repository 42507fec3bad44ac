"""Models of sequences in the autoencoder: training that goes on, frames that are missing, frames to come."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chainrule.svae import GMM, LDS, SVAE, LDSMixture, fit, forecast
from chainrule.svae.forecasting import _ranks
from chainrule.svae.likelihoods import Normal
from chainrule.svae.networks import MLP
from chainrule.svae.worlds import Dot, simulate

KEY = jax.random.key(0)
FILMS = simulate(Dot(pixels=6), KEY, sequences=5, frames=7).frames
PRIORS = {
    "one system": LDS.oscillating(jnp.array([27.0])),
    "several": LDSMixture.of(LDS.oscillating(jnp.array([[20.0], [27.0], [40.0]]))),
}


def model(prior):
    encoder, decoder = MLP(4, (8,), residual=False), MLP(6, (8,), residual=False)
    return SVAE(prior, encoder, decoder, data=5, optimizer=optax.adam(1e-2))


@pytest.fixture(scope="module", params=PRIORS)
def untrained(request):
    svae = model(PRIORS[request.param])
    return svae, svae.init(KEY, FILMS)


def test_training_goes_on_as_if_it_had_not_stopped():
    svae = model(PRIORS["one system"])
    whole, history = fit(svae, KEY, FILMS, steps=6, batch_size=3)
    half, _ = fit(svae, KEY, FILMS, steps=3, batch_size=3)
    again, _ = fit(svae, KEY, FILMS, steps=6, batch_size=3, state=half)
    jax.tree.map(np.testing.assert_array_equal, again.networks, whole.networks)
    jax.tree.map(np.testing.assert_array_equal, again.model, whole.model)
    assert history.steps[-1] == int(again.steps) == 6
    assert history.metrics.unsettled[-1] == 0


def test_a_step_is_compiled_once(untrained):
    """Types of the first state are those of all that follow: none is weak, or a step is compiled again."""
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(untrained[1]))


def test_noise_that_is_known_stays_what_it_is():
    slope = lambda likelihood: jax.grad(likelihood.log_prob)(likelihood.init(), jnp.ones(()), jnp.zeros(()))
    assert slope(Normal(0.3, learned=False)) == 0 < slope(Normal(0.3))


def test_what_comes_next_is_what_is_missing_at_the_end(untrained):
    svae, state = untrained
    predict = jax.jit(partial(forecast, svae), static_argnames=("horizon", "samples"))
    ahead = predict(state, KEY, FILMS[:, :4], horizon=3, samples=20)
    filled = predict(state, KEY, FILMS.at[:, 4:].set(jnp.nan), horizon=0, samples=20)
    # What makes an array of five frames may be fused otherwise than what makes one of seven.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), ahead, filled)
    assert ahead.samples.shape == (20, 5, 7, 6) and ahead.quantiles.shape == (3, 5, 7, 6)
    assert np.all(ahead.quantiles[0] < ahead.quantiles[2])


def test_a_next_draw_is_below_a_quantile_as_often_as_its_level_says():
    """Also with few draws: nine of them, of which the first is above 1 / 10 on average."""
    draws = jax.random.normal(KEY, (20_000, 10))
    levels = jnp.array([0.1, 0.25, 0.5, 0.9])
    quantiles = jnp.quantile(draws[:, :9], _ranks(levels, 9), axis=1)
    below = jnp.mean(draws[None, :, 9] < quantiles, 1)
    np.testing.assert_allclose(below, levels, atol=4 * 0.5 / 20_000**0.5)  # four standard errors
    np.testing.assert_array_equal(_ranks((0.0, 0.01, 1.0), 9), [0, 0, 1])


def test_a_frame_nobody_saw_may_be_anything(untrained):
    svae, state = untrained
    mask = jnp.arange(7)[None] < jnp.full((5, 1), 4)
    infer = jax.jit(svae.infer)
    hidden = infer(state, FILMS, mask), infer(state, jnp.where(mask[..., None], FILMS, 99.0), mask)
    jax.tree.map(np.testing.assert_array_equal, *hidden)


def test_a_system_is_chosen_by_its_weight():
    svae = model(PRIORS["several"])
    posterior = jax.jit(svae.infer)(svae.init(KEY, FILMS), FILMS)._replace(
        weights=jnp.full((5, 3), jnp.array([0.7, 0.3, 0.0]))
    )
    marked = jnp.broadcast_to(jnp.arange(3.0)[None, None, :, None, None], (2000, 5, 3, 1, 1))
    chosen = posterior.choose(KEY, marked)
    np.testing.assert_allclose(np.mean(chosen == 0), 0.7, atol=0.02)
    assert chosen.shape == (2000, 5, 1, 1) and chosen.max() == 1


def test_nonsense_is_refused():
    svae = model(PRIORS["one system"])
    state = svae.init(KEY, FILMS)
    with pytest.raises(ValueError, match=r"shape \(5, 6\): LDS wants \(sequences, frames, ...\)"):
        svae.infer(state, FILMS[:, 0])
    with pytest.raises(ValueError, match="horizon of -1"):
        forecast(svae, state, KEY, FILMS, -1)
    with pytest.raises(ValueError, match="GMM with a horizon of 2"):
        forecast(SVAE(GMM.prior(2, 2), svae.encoder, svae.decoder, data=5), state, KEY, FILMS, 2)
    with pytest.raises(ValueError, match="batch_size is 9: with 5 data"):
        fit(svae, KEY, FILMS, steps=1, batch_size=9)
    with pytest.raises(FloatingPointError, match="the bound is nan after 1 steps"):
        fit(svae, KEY, jnp.full_like(FILMS, jnp.inf), steps=1, batch_size=2)
