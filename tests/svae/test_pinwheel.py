"""The mixture inside learns how many arms the pinwheel has, from three seeds of three."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from chainrule.svae import worlds
from chainrule.svae.experiments.pinwheel import BATCH, CLUSTERS, SIZE, model_of, start_of
from chainrule.svae.scores import adjusted_rand

pytestmark = pytest.mark.slow

STEPS = 500


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)


def learn(key, y):
    """With half the steps of the command: which cluster each point is in."""
    start_key, train_key, state_key = jax.random.split(key, 3)
    svae = model_of(len(y))
    svae = dataclasses.replace(svae, prior=single(svae.prior))

    def step(state, key):
        state, metrics = svae.step(state, jax.random.choice(key, y, (BATCH,), replace=False))
        return single(state), metrics.unsettled

    start = single(svae.init(state_key, y[:BATCH], start_of(start_key, svae)))
    state, unsettled = jax.lax.scan(step, start, jax.random.split(train_key, STEPS))
    return jnp.argmax(svae.infer(state, y).labels, axis=1), jnp.mean(unsettled)


def test_five_arms_are_five_clusters():
    keys = jax.random.split(jax.random.key(0), 3)
    wheels = jax.vmap(worlds.pinwheel)(jax.random.split(jax.random.key(1), 3))
    labels, unsettled = jax.jit(jax.vmap(learn))(keys, single(SIZE * wheels.points))
    scores = [float(adjusted_rand(a, b, CLUSTERS)) for a, b in zip(labels, wheels.arms, strict=True)]
    assert min(scores) >= 0.9, scores
    assert [len(jnp.unique(a)) for a in labels] == [5, 5, 5], scores
    assert unsettled.max() < 0.01
