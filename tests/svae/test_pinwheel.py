"""The mixture inside learns how many arms the pinwheel has, from three seeds of three."""

import jax
import jax.numpy as jnp
import optax
import pytest

from chainrule.svae import GMM, SVAE, worlds
from chainrule.svae.networks import MLP
from chainrule.svae.scores import adjusted_rand

pytestmark = pytest.mark.slow

CLUSTERS, STEPS, BATCH = 15, 500, 100


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)


def learn(key, y):
    """As in examples/svae_pinwheel.py, with half the steps: which cluster each point is in."""
    start_key, train_key, state_key = jax.random.split(key, 3)
    prior = single(GMM.prior(CLUSTERS, latents=2, scale=1.6))
    encoder = MLP(4, last_bias=(0.0, 0.0, 3.0, 3.0))
    inference = {"rtol": 1e-4, "max_steps": 100}
    settings = dict(optimizer=optax.adam(3e-3), rho=0.5, inference=inference)
    svae = SVAE(prior, encoder, MLP(2), len(y), **settings)

    def step(state, key):
        state, metrics = svae.step(state, jax.random.choice(key, y, (BATCH,), replace=False))
        return single(state), metrics.unsettled

    start = single(svae.init(state_key, y[:BATCH], prior.scattered(start_key, spread=1.0, scale=0.6)))
    state, unsettled = jax.lax.scan(step, start, jax.random.split(train_key, STEPS))
    return jnp.argmax(svae.infer(state, y).labels, axis=1), jnp.mean(unsettled)


def test_five_arms_are_five_clusters():
    keys = jax.random.split(jax.random.key(0), 3)
    wheels = jax.vmap(worlds.pinwheel)(jax.random.split(jax.random.key(1), 3))
    labels, unsettled = jax.jit(jax.vmap(learn))(keys, single(2 * wheels.points))
    scores = [float(adjusted_rand(a, b, CLUSTERS)) for a, b in zip(labels, wheels.arms, strict=True)]
    assert min(scores) >= 0.9, scores
    assert [len(jnp.unique(a)) for a in labels] == [5, 5, 5], scores
    assert unsettled.max() < 0.01
