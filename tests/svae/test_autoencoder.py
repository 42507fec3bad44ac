"""The SVAE: exact where it can be, with any networks, with data missing, the same from the same seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from chainrule.core import Unrolled
from chainrule.svae import worlds
from chainrule.svae.autoencoder import SVAE, potentials_of
from chainrule.svae.expfam import NIW
from chainrule.svae.gmm import GMM, Potentials
from chainrule.svae.likelihoods import Bernoulli, Normal
from chainrule.svae.networks import MLP, as_network
from chainrule.svae.scores import adjusted_rand

KEY = jax.random.key(0)
Y = jax.random.normal(KEY, (40, 2)) + jnp.array([[1.0, -2.0]])
PRIOR = GMM.prior(3, 2)
START = PRIOR.scattered(jax.random.key(1), spread=1.5, scale=0.3)


def all_but_seen(y):
    """Potentials of data that are the latents themselves, but for noise of a ten-thousandth."""
    J = jnp.full(y.shape, 1e8)
    return Potentials(J, J * y)


def small(**settings):
    defaults = dict(encoder=MLP(4, (8,)), decoder=MLP(2, (8,)), data=40, optimizer=optax.adam(1e-2))
    return SVAE(PRIOR, **{**defaults, **settings})


def test_with_one_cluster_and_latents_seen_a_full_step_is_the_exact_posterior():
    prior = GMM.prior(1, 2)
    svae = SVAE(prior, all_but_seen, lambda x: x, data=40, rho=1.0)
    state, metrics = svae.step(svae.init(KEY, Y, prior), Y)
    exact = jax.tree.map(lambda eta, t: eta + jnp.sum(t, 0)[None], prior.components, NIW.statistics(Y))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.model.components, exact)
    np.testing.assert_allclose(state.model.weights.alpha, prior.weights.alpha + 40)
    assert metrics.shortened == 1


def test_the_bound_at_the_exact_posterior_is_the_evidence():
    """With x in hand: log p(Y) = A(posterior) - A(prior) - n log 2 pi, and the ELBO says the same."""
    prior = NIW.of(jnp.zeros(2), 0.5, jnp.eye(2), 4.0)
    posterior = jax.tree.map(lambda eta, t: eta + jnp.sum(t, 0), prior, NIW.statistics(Y))
    evidence = posterior.log_normalizer() - prior.log_normalizer() - 40 * jnp.log(2 * jnp.pi)
    products = jax.tree.map(
        lambda mu, t: jnp.sum(mu[None] * t), posterior.expected_statistics(), NIW.statistics(Y)
    )
    expected = sum(jax.tree.leaves(products)) - 40 * jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(expected - posterior.kl(prior), evidence, rtol=1e-12)
    one = scipy.stats.multivariate_t.logpdf(Y[0], np.zeros(2), np.eye(2) * 1.5 / (0.5 * 3.0), df=3)
    first = jax.tree.map(jnp.add, prior, jax.tree.map(lambda t: t[0], NIW.statistics(Y)))
    np.testing.assert_allclose(
        first.log_normalizer() - prior.log_normalizer() - jnp.log(2 * jnp.pi), one, rtol=1e-12
    )


def test_the_natural_gradient_has_the_term_that_goes_through_the_decoder():
    """That of the mixture as the unrolled iteration has it, and as differences have it."""
    inference = dict(rtol=1e-12, max_steps=300)
    implicit = small(inference=inference)
    unrolled = small(inference=dict(inference, adjoint=Unrolled()))
    state = implicit.init(KEY, Y, START)
    stepped = [svae.step(state, Y)[0].model for svae in (implicit, unrolled)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *stepped)

    mask = jnp.ones(Y.shape, bool)
    value = lambda s: implicit._local(KEY, s, state.networks, Y, mask)[0]
    statistics = START.expected_statistics()
    direction = jax.tree.map(lambda a: 1e-4 * a, statistics)
    ahead, behind = (jax.tree.map(op, statistics, direction) for op in (jnp.add, jnp.subtract))
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(value)(statistics), direction)
    difference = (value(ahead) - value(behind)) / 2
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), difference, rtol=1e-6)


def networks():
    nnx, linen = pytest.importorskip("flax.nnx"), pytest.importorskip("flax.linen")

    class Dense(nnx.Module):
        def __init__(self, inputs, outputs):
            self.inside = nnx.Linear(inputs, 8, rngs=nnx.Rngs(0))
            self.last = nnx.Linear(8, outputs, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.last(nnx.tanh(self.inside(x)))

    return {
        "nnx": (Dense(2, 4), Dense(2, 2)),
        "linen": (linen.Dense(4), linen.Sequential([linen.Dense(8), linen.tanh, linen.Dense(2)])),
        "ours": (MLP(4, (8,)), MLP(2, (8,), residual=False)),
        "functions": (lambda y: Potentials(jnp.ones_like(y), y), lambda x: x),
    }


@pytest.mark.parametrize("kind", ["nnx", "linen", "ours", "functions"])
def test_any_networks_learn(kind):
    encoder, decoder = networks()[kind]
    svae = small(encoder=encoder, decoder=decoder)
    state = svae.init(KEY, Y, START)
    before = jax.tree.leaves(state.networks)

    def steps(state):
        return jax.lax.scan(lambda s, _: svae.step(s, Y), state, length=60)

    state, metrics = jax.jit(steps)(state)
    assert metrics.elbo[-10:].mean() > metrics.elbo[:3].mean() + 0.3
    after = jax.tree.leaves(state.networks)
    moved = [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
    assert all(moved) and len(moved) == {"functions": 1, "linen": 7}.get(kind, len(moved))
    assert svae.decode(state, svae.infer(state, Y).mean).shape == Y.shape


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="42 is no network: pass a module of flax, an object with init"):
        as_network(42)
    with pytest.raises(ValueError, match="encoder has 3 outputs: make it 2"):
        potentials_of(jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="data and samples must be at least 1, got 0 and 1"):
        small(data=0)


# Missing --------------------------------------------------------------------------------------------


def test_what_was_not_observed_changes_nothing():
    svae = small()
    state = svae.init(KEY, Y, START)
    mask = jnp.arange(40)[:, None] % 3 != jnp.arange(2)[None, :]
    mask = mask.at[7].set(False)
    step = jax.jit(svae.step)
    by_nan = step(state, jnp.where(mask, Y, jnp.nan))
    by_mask = step(state, jnp.where(mask, Y, 1e6), mask)
    jax.tree.map(np.testing.assert_array_equal, by_nan[1], by_mask[1])
    assert jax.tree.all(jax.tree.map(lambda a: jnp.isfinite(a).all(), (by_nan[1], by_nan[0].model)))
    assert by_nan[1].log_likelihood != step(state, Y)[1].log_likelihood
    nothing = GMM.posterior(START.expected_statistics(), Potentials(jnp.zeros((1, 2)), jnp.zeros((1, 2))))
    posterior = svae.infer(state, Y, mask)
    np.testing.assert_allclose(posterior.mean[7], nothing.mean[0], rtol=1e-9)
    assert (posterior.mean[0] != nothing.mean[0]).all()


def test_a_mask_of_leading_axes_is_one_of_all_pixels():
    svae = small()
    state = svae.init(KEY, Y, START)
    rows = jnp.arange(40) % 2 == 0
    whole = jnp.broadcast_to(rows[:, None], Y.shape)
    for a, b in zip(svae.infer(state, Y, rows)[:4], svae.infer(state, Y, whole)[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), but the batch \(40, 2\)"):
        svae.infer(state, Y, jnp.ones(2, bool))


# The rest -------------------------------------------------------------------------------------------


def test_the_same_seed_takes_the_same_steps_in_single_precision():
    single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    svae = SVAE(single(PRIOR), MLP(4, (8,)), MLP(2, (8,)), data=40)
    state = svae.init(KEY, single(Y), single(START))
    state = state._replace(networks=single(state.networks), optimizer=single(state.optimizer))
    step = jax.jit(svae.step)
    one, _ = step(state, single(Y))
    two, metrics = step(state, single(Y))
    jax.tree.map(np.testing.assert_array_equal, one.model, two.model)
    leaves = jax.tree.leaves((two.model, metrics))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert (jax.random.key_data(one.key) != jax.random.key_data(state.key)).any()


def test_likelihoods_are_scipys():
    x, y = jax.random.normal(KEY, (2, 5))
    normal = Normal(0.4)
    expected = scipy.stats.norm.logpdf(y, x, 0.4)
    np.testing.assert_allclose(normal.log_prob(normal.init(), x, y), expected, rtol=1e-10)
    on = (y > 0).astype(float)
    np.testing.assert_allclose(
        Bernoulli().log_prob((), x, on), scipy.stats.bernoulli.logpmf(on, jax.nn.sigmoid(x)), rtol=1e-6
    )


def test_adjusted_rand_is_one_for_other_names_and_zero_for_chance():
    arms = worlds.pinwheel(KEY, points=400).arms
    assert adjusted_rand(arms, (arms + 2) % 5, 5) == 1
    assert abs(adjusted_rand(arms, jax.random.permutation(KEY, arms), 5)) < 0.01
    known = adjusted_rand(jnp.array([0, 0, 1, 1]), jnp.array([0, 0, 1, 2]), 3)
    np.testing.assert_allclose(known, 4 / 7)  # by hand: (1 - 1/3) / (3/2 - 1/3)
