"""Hidden Markov models of latents: between a mixture without memory and the exact sum over all paths."""

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.core import OneStep, Status
from chainrule.svae import GMM, SVAE, messages
from chainrule.svae.expfam import NIW, Dirichlet
from chainrule.svae.hmm import HMM
from chainrule.svae.likelihoods import Normal
from chainrule.svae.messages import Potentials

SEQUENCES, FRAMES = 6, 5
KEYS = jax.random.split(jax.random.key(0), 5)
PLACES = 2 * jax.random.normal(KEYS[0], (SEQUENCES, FRAMES, 1))
J = jax.random.uniform(KEYS[1], (SEQUENCES, FRAMES, 1), minval=0.5, maxval=4.0)
HINTS = Potentials(J, J * PLACES)
STAY, MEANS, SPREADS = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([-1.0, 1.5]), np.array([0.6, 1.1])
WHOLE = jnp.full(SEQUENCES, FRAMES)


@jax.jit
def posterior(statistics, hints, lengths=WHOLE, rtol=1e-12, max_steps=500):
    return HMM.posterior(
        statistics, hints, lengths=lengths, rtol=rtol, max_steps=max_steps, adjoint=OneStep()
    )


def known(apart=1.0):
    """Expected statistics of two states whose parameters are known for certain."""
    precision = 1 / SPREADS**2
    mean = apart * MEANS
    components = NIW(
        -precision[:, None, None] / 2,
        (precision * mean)[:, None],
        -precision * mean**2 / 2,
        np.log(precision) / 2,
    )
    statistics = HMM(Dirichlet(np.log([0.6, 0.4])), Dirichlet(np.log(STAY)), components)
    return jax.tree.map(jnp.asarray, statistics)


def log_evidence(hints, apart=1.0):
    """Each frame's potential integrates under each state; a sum over paths has nothing else to know."""
    J, h = hints.J, hints.h
    variance, mean = SPREADS[None, None] ** 2, apart * MEANS[None, None]
    total = 1 + J * variance
    each = (h * mean + h**2 * variance / 2 - J * mean**2 / 2) / total - jnp.log(total) / 2
    chain = messages.HMM(jnp.log(jnp.array([0.6, 0.4])), jnp.log(jnp.asarray(STAY)))
    return jax.vmap(lambda l: messages.hmm_log_normaliser(chain, l))(each)


def bound(q, hints):
    squares = q.covariance[..., 0] + q.mean**2
    return jnp.sum(hints.h * q.mean - hints.J * squares / 2, (1, 2)) - q.kl


def test_with_one_state_it_is_a_mixture_of_one_cluster():
    lengths = jnp.array([5, 2, 1, 4, 3, 5])
    mixture = GMM.prior(1, 1)
    within = jnp.arange(FRAMES)[None] < lengths[:, None]
    flat = jax.tree.map(lambda x: jnp.where(within[..., None], x, 0).reshape(-1, 1), HINTS)
    exact = jax.jit(GMM.posterior)(mixture.expected_statistics(), flat)
    q = posterior(HMM.prior(1, 1, sticky=2.0).expected_statistics(), HINTS, lengths)
    np.testing.assert_allclose(q.mean[within], exact.mean[within.reshape(-1)], atol=1e-12)
    kl = jnp.where(within, exact.kl.reshape(within.shape), 0).sum(1)
    np.testing.assert_allclose(q.kl, kl, rtol=1e-12)


def test_no_round_lowers_the_bound_and_it_stays_below_the_evidence():
    found = [bound(posterior(known(), HINTS, WHOLE, 0.0, n), HINTS) for n in (1, 2, 5, 50)]
    rises = np.diff(found, axis=0)
    assert rises.min() > -1e-12 and rises.max() > 1e-3
    gap = log_evidence(HINTS) - found[-1]
    assert gap.min() > 1e-3 and gap.max() < 1.0


def test_where_states_are_far_apart_the_bound_is_the_evidence():
    states = jax.random.bernoulli(KEYS[2], shape=(SEQUENCES, FRAMES, 1)).astype(int)
    hints = HINTS._replace(h=HINTS.J * 40 * jnp.asarray(MEANS)[states])
    q = posterior(known(apart=40.0), hints)
    np.testing.assert_array_equal(q.labels.argmax(-1), states[..., 0])
    np.testing.assert_allclose(bound(q, hints), log_evidence(hints, apart=40.0), rtol=1e-9)


def test_where_it_has_settled_labels_and_points_are_what_is_counted():
    def total(statistics):
        q = posterior(statistics, HINTS)
        return jnp.sum(bound(q, HINTS)), q

    counts, q = jax.jit(jax.grad(total, has_aux=True))(known())
    assert (q.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(counts.initial.alpha, q.labels[:, 0].sum(0), atol=1e-9)
    np.testing.assert_allclose(counts.transitions.alpha.sum(0), q.labels[:, 1:].sum((0, 1)), atol=1e-9)
    np.testing.assert_allclose(counts.components.kappa, q.labels.sum((0, 1)), atol=1e-9)
    points = jnp.einsum("st,stk->k", q.mean[..., 0], q.labels)
    np.testing.assert_allclose(counts.components.x[:, 0], points, atol=1e-8)


def test_a_sticky_prior_expects_to_stay():
    rows = HMM.prior(3, 2, concentration=2.0, sticky=7.0).transitions.alpha
    np.testing.assert_array_equal(rows, 2 + 7 * np.eye(3))


def test_training_finds_states_that_follow_one_another():
    """Three states in a circle, whose points overlap."""
    key, noise = KEYS[3], jax.random.normal(KEYS[4], (8, 60, 1))
    start = jax.random.randint(key, (8, 1), 0, 3)
    states = (start + jnp.cumsum(jax.random.bernoulli(key, 0.9, (8, 60)), 1)) % 3
    y = jnp.array([-2.0, 0.0, 2.0])[states][..., None] + 0.7 * noise
    prior = HMM.prior(3, 1, scale=0.5)
    seen = lambda y: Potentials(jnp.full_like(y, 100.0), 100.0 * y)
    svae = SVAE(prior, seen, lambda x: x, data=8, likelihood=Normal(0.1), rho=0.5, inference={"rtol": 1e-6})
    state = svae.init(KEYS[0], y, prior.scattered(KEYS[3], spread=1.0, scale=0.5))
    step = jax.jit(svae.step)
    for _ in range(25):
        state, metrics = step(state, y)
    means = state.model.components.standard().m[:, 0]
    order = jnp.argsort(means)
    np.testing.assert_allclose(means[order], [-2, 0, 2], atol=0.2)
    rows = state.model.transitions.alpha[order][:, order]
    onwards = rows / rows.sum(1, keepdims=True)
    np.testing.assert_allclose(jnp.diagonal(jnp.roll(onwards, -1, 1)), 0.9, atol=0.1)
    assert metrics.unsettled == 0
