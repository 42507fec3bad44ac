"""Modules of flax with convolutions, nnx and linen, as encoders and decoders of pictures."""

import jax
import jax.numpy as jnp
import optax
import pytest

from chainrule.core import OneStep
from chainrule.svae import GMM, SVAE

KEY = jax.random.key(0)
PICTURES = jax.random.uniform(KEY, (6, 8, 8), dtype=jnp.float32)


def of_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Encoder(nnx.Module):
        def __init__(self, rngs):
            self.inside = nnx.Conv(1, 3, (3, 3), strides=2, rngs=rngs)
            self.last = nnx.Linear(48, 4, rngs=rngs)

        def __call__(self, x):
            hidden = nnx.relu(self.inside(x[..., None]))
            return self.last(hidden.reshape(len(x), -1))

    class Decoder(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 48, rngs=rngs)
            self.outside = nnx.ConvTranspose(3, 1, (3, 3), strides=2, rngs=rngs)

        def __call__(self, x):
            return self.outside(nnx.relu(self.first(x)).reshape(len(x), 4, 4, 3))[..., 0]

    return Encoder(nnx.Rngs(0)), Decoder(nnx.Rngs(1))


def of_linen():
    linen = pytest.importorskip("flax.linen")

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x):
            hidden = linen.relu(linen.Conv(3, (3, 3), strides=2)(x[..., None]))
            return linen.Dense(4)(hidden.reshape(len(x), -1))

    class Decoder(linen.Module):
        @linen.compact
        def __call__(self, x):
            hidden = linen.relu(linen.Dense(48)(x)).reshape(len(x), 4, 4, 3)
            return linen.ConvTranspose(1, (3, 3), strides=(2, 2))(hidden)[..., 0]

    return Encoder(), Decoder()


@pytest.mark.parametrize("modules", [of_nnx, of_linen])
def test_convolutions_learn(modules):
    encoder, decoder = modules()
    prior = jax.tree.map(lambda x: x.astype(jnp.float32), GMM.prior(1, 2))
    svae = SVAE(prior, encoder, decoder, data=6, optimizer=optax.adam(1e-2), inference={"adjoint": OneStep()})
    state, step, bounds = svae.init(KEY, PICTURES), jax.jit(svae.step), []
    before = state.networks
    for _ in range(60):
        state, metrics = step(state, PICTURES)
        bounds.append(metrics.elbo)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), state.networks, before))
    assert all(moved) and len(moved) == 9
    assert sum(bounds[-5:]) / 5 > sum(bounds[:3]) / 3 + 1
    assert svae.decode(state, jnp.zeros((3, 2), jnp.float32)).shape == (3, 8, 8)
