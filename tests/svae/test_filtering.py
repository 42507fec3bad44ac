"""Beliefs, frame by frame: what inference of the whole says of the last frame, where that is exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae import GMM, LDS, SLDS, SVAE, LDSMixture, filtering, lds, messages
from chainrule.svae.messages import Potentials

KEY = jax.random.key(0)
FRAMES, HORIZON = 6, 3
FILM = jax.random.normal(KEY, (FRAMES, 2)).at[2].set(jnp.nan).at[4, 0].set(jnp.nan)
ACTIONS = jax.random.normal(jax.random.key(1), (FRAMES + HORIZON - 1, 1))
ONE = LDS.oscillating(jnp.array([7.0]), actions=1, worth=5.0, noise=0.3)
SEVERAL = LDS.oscillating(jnp.array([[4.0], [9.0], [20.0]]), actions=1, worth=5.0, noise=0.3)
MODELS = {
    "one system": ONE,
    "several": LDSMixture.of(SEVERAL, 2.0),
    "one regime": SLDS.of(jax.tree.map(lambda x: x[None], ONE)),
    "regimes": SLDS.of(SEVERAL, sticky=3.0),
}


def svae_of(model):
    """With an encoder that hears one coordinate better than the other."""
    seen = lambda y: Potentials(jnp.full_like(y, 4.0).at[:, 0].set(9.0), y * jnp.array([[9.0, 4.0]]))
    return SVAE(model, seen, lambda x: jnp.concatenate([x, x**2], 1), data=1)


def beliefs(svae, state, film, actions):
    """One after each frame."""

    def step(belief, given):
        belief = svae.update(state, belief, *given)
        return belief, belief

    actions = jnp.concatenate([jnp.full_like(actions[:1], 99.0), actions])  # none led to the first frame
    return jax.lax.scan(step, svae.belief(state), (film, actions))[1]


def test_a_belief_is_what_inference_says_of_the_last_of_the_frames_so_far():
    """Also of frames to come, which are frames that nobody has seen."""
    unseen = jnp.concatenate([FILM, jnp.full((HORIZON, 2), jnp.nan)])
    ends = jnp.arange(len(unseen))
    many = lambda x: jnp.broadcast_to(x, (len(ends), *x.shape))
    found = {}
    for name in ("one system", "several", "one regime"):
        svae = svae_of(MODELS[name])
        state = svae.init(KEY, many(unseen))
        if name != "one regime":
            found[name] = jax.jit(svae.infer)(state, many(unseen), actions=many(ACTIONS), lengths=ends + 1)
            q = found[name]
        else:
            q = found["one system"]  # with which test_slds compares it
        so_far = jax.jit(lambda state, svae=svae: beliefs(svae, state, FILM, ACTIONS[: FRAMES - 1]))(state)
        last = jax.tree.map(lambda x: x[-1], so_far)
        to_come = jax.jit(svae.predict, static_argnums=2)(state, last, HORIZON, ACTIONS[FRAMES - 1 :])
        belief = jax.tree.map(lambda *x: jnp.concatenate(x), so_far, to_come.beliefs)
        np.testing.assert_array_equal(belief.frames, ends + 1)
        if name == "several":
            np.testing.assert_allclose(belief.weights, q.weights, atol=1e-12)
            np.testing.assert_allclose(belief.means, q.paths.mean[ends, :, ends], atol=1e-12)
            each = svae.decode(state, belief.means[FRAMES:])
            frames = jnp.einsum("tk,tki->ti", belief.weights[FRAMES:], each)
        else:
            np.testing.assert_allclose(belief.mean, q.mean[ends, ends], atol=1e-12)
            np.testing.assert_allclose(belief.covariance, q.covariance[ends, ends], atol=1e-12)
            frames = svae.decode(state, belief.mean[FRAMES:])
        np.testing.assert_allclose(to_come.frames, frames, atol=1e-12)


def test_a_frame_may_be_missing_in_three_ways():
    svae = svae_of(MODELS["regimes"])
    state = svae.init(KEY, FILM[None])
    belief = jax.tree.map(lambda x: x[1], beliefs(svae, state, FILM, ACTIONS[: FRAMES - 1]))
    update = jax.jit(svae.update)
    ways = [
        update(state, belief, None, ACTIONS[1]),
        update(state, belief, jnp.full(2, jnp.nan), ACTIONS[1]),
        update(state, belief, FILM[0], ACTIONS[1], jnp.zeros(2, bool)),
    ]
    for other in ways[1:]:
        jax.tree.map(np.testing.assert_array_equal, ways[0], other)
    assert (update(state, belief, FILM[0], ACTIONS[1]).means != ways[0].means).all()


def test_the_mean_and_covariance_of_a_belief_are_those_of_its_mixture():
    svae = svae_of(MODELS["regimes"])
    state = svae.init(KEY, FILM[None])
    belief = jax.tree.map(lambda x: x[-1], beliefs(svae, state, FILM, ACTIONS[: FRAMES - 1]))
    kinds = jax.random.categorical(KEY, belief.log_weights, shape=(100_000,))
    roots = jnp.linalg.cholesky(belief.covariances)
    noise = jax.random.normal(jax.random.key(2), (100_000, 2))
    x = belief.means[kinds] + jnp.einsum("sij,sj->si", roots[kinds], noise)
    np.testing.assert_allclose(x.mean(0), belief.mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), belief.covariance, atol=0.01)
    np.testing.assert_allclose(belief.weights.sum(), 1, rtol=1e-12)


def test_regimes_are_weighed_by_bayes_theorem_until_histories_have_to_be_merged():
    """Exact for two frames, the first of which is the same in all regimes; close for more."""
    A, offsets = jnp.array([[[0.9]], [[-0.7]]]), jnp.array([[0.5], [-0.4]])
    noise, frames, log_stay = 0.3, 6, jnp.log(jnp.array([[0.8, 0.2], [0.3, 0.7]]))
    steps = lds.Known(
        jnp.concatenate([A, offsets[..., None]], 2),
        jnp.full((2, 1, 1), noise**2),
        jnp.zeros((2, 2, 2)),
        jnp.zeros(2),
    )
    first = lds.Known(jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.zeros((2, 1, 1)), jnp.zeros(2))
    regimes = lds.Regimes(jnp.log(jnp.array([0.6, 0.4])), log_stay, first, steps)
    hints = Potentials(jnp.full((frames, 1, 1), 5.0), 5.0 * jax.random.normal(KEY, (frames, 1)))
    found = jax.jit(filtering.filtered)(regimes, hints).weights
    paths = jnp.array(list(itertools.product(range(2), repeat=frames)))

    @jax.jit
    def exact(length):
        def log_weight(path):
            later = path[1:]
            chain = messages.LDS(jnp.zeros(1), jnp.eye(1), A[later], noise**2 * jnp.eye(1), offsets[later])
            seen = messages.lds_log_normaliser(chain, hints, mask=jnp.arange(frames) < length)
            return regimes.log_initial[path[0]] + jnp.sum(log_stay[path[:-1], path[1:]]) + seen

        weights = jax.nn.softmax(jax.vmap(log_weight)(paths))
        return jnp.sum(weights[:, None] * jax.nn.one_hot(paths[:, length - 1], 2), 0)

    np.testing.assert_allclose(found[:2], [exact(1), exact(2)], rtol=1e-12)
    later = jnp.stack([exact(n) for n in range(3, frames + 1)])
    assert 1e-6 < jnp.abs(found[2:] - later).max() < 0.1


def test_what_has_no_belief_or_another_action_is_refused():
    with pytest.raises(TypeError, match="GMM has no belief that goes from frame to frame: take LDS"):
        svae = svae_of(GMM.prior(2, 2))
        svae.belief(svae.init(KEY, FILM))
    svae = svae_of(ONE)
    state = svae.init(KEY, FILM[None])
    with pytest.raises(ValueError, match="have 1 coordinates, but update was given none"):
        svae.update(state, svae.belief(state), FILM[0])
