"""Switching systems: one regime is one system, bounds rise and stay below the evidence, regimes are found."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from chainrule.core import Implicit, Status, Unrolled
from chainrule.svae import SVAE, messages
from chainrule.svae.expfam import MNIW, NIW, Dirichlet
from chainrule.svae.lds import LDS
from chainrule.svae.likelihoods import Normal
from chainrule.svae.messages import Potentials
from chainrule.svae.slds import SLDS

SEQUENCES, FRAMES = 6, 5
KEYS = jax.random.split(jax.random.key(0), 6)
HINTS = Potentials(
    jax.random.uniform(KEYS[0], (SEQUENCES, FRAMES, 1), minval=0.5, maxval=4.0),
    3 * jax.random.normal(KEYS[1], (SEQUENCES, FRAMES, 1)),
)
STAY = np.array([[0.8, 0.2], [0.3, 0.7]])
A, B = np.array([[[0.9]], [[-0.7]]]), np.array([[0.3], [-0.2]])
WHOLE = jnp.full(SEQUENCES, FRAMES)


@jax.jit
def posterior(statistics, hints, lengths=WHOLE, rtol=1e-12, max_steps=500, actions=None):
    """One program for all that has two regimes."""
    return SLDS.posterior(statistics, hints, actions=actions, lengths=lengths, rtol=rtol, max_steps=max_steps)


def known(spread=1.0, noise=0.3):
    """Expected statistics of two regimes whose parameters are known for certain; spread sets them apart."""
    precision = np.full((2, 1, 1), 1 / noise**2)
    M = np.concatenate([A, spread * B[:, :, None]], 2)
    LM = precision @ M
    half = np.log(precision[:, 0, 0]) / 2
    steps = MNIW(-np.swapaxes(M, 1, 2) @ LM / 2, np.swapaxes(LM, 1, 2), -precision / 2, half)
    first = NIW(-np.ones((2, 1, 1)) / 2, np.zeros((2, 1)), np.zeros(2), np.zeros(2))
    probabilities = Dirichlet(np.log([0.6, 0.4])), Dirichlet(np.log(STAY))
    return jax.tree.map(jnp.asarray, SLDS(*probabilities, LDS(first, steps)))


def log_evidence(hints, spread=1.0, noise=0.3):
    """log of the sum over all paths of regimes of p(path) times what the frames' potentials integrate to."""
    paths = np.array(list(itertools.product(range(2), repeat=FRAMES)))
    log_p = np.log([0.6, 0.4])[paths[:, 0]] + np.log(STAY)[paths[:, :-1], paths[:, 1:]].sum(1)

    def given(path, hints):
        later = jnp.asarray(path)[1:]
        b = spread * jnp.asarray(B)[later]
        chain = messages.LDS(jnp.zeros(1), jnp.eye(1), jnp.asarray(A)[later], noise**2 * jnp.eye(1), b)
        return messages.lds_log_normaliser(chain, hints)

    every = jax.jit(jax.vmap(lambda hints: jax.vmap(lambda path: given(path, hints))(paths)))(hints)
    return jax.nn.logsumexp(every + log_p[None], 1)


def bound(q, hints):
    """E <potentials, x> - KL: the log evidence, at most."""
    squares = q.covariance[..., 0] + q.mean**2
    return jnp.sum(hints.h * q.mean - hints.J * squares / 2, (1, 2)) - q.kl


def test_one_regime_is_one_system():
    actions = jax.random.normal(KEYS[2], (SEQUENCES, FRAMES - 1, 1))
    lengths = jnp.array([5, 2, 1, 4, 3, 5])
    model = LDS.prior(1, actions=1, worth=5.0, noise=0.3)
    exact = jax.jit(LDS.posterior)(model.expected_statistics(), HINTS, actions=actions, lengths=lengths)
    switching = SLDS.of(jax.tree.map(lambda x: x[None], model), sticky=3.0)
    q = posterior(switching.expected_statistics(), HINTS, lengths, actions=actions)
    for name in ("mean", "covariance", "kl"):
        np.testing.assert_allclose(getattr(q, name), getattr(exact, name), atol=1e-12)


def test_no_round_lowers_the_bound_and_it_stays_below_the_evidence():
    found = [bound(posterior(known(), HINTS, WHOLE, 0.0, n), HINTS) for n in (1, 2, 5, 50)]
    rises = np.diff(found, axis=0)
    assert rises.min() > -1e-12 and rises.max() > 1e-3
    gap = log_evidence(HINTS) - found[-1]
    assert gap.min() > 1e-3 and gap.max() < 2.5


def test_where_regimes_are_told_apart_the_bound_is_the_evidence():
    """One goes a hundred standard deviations to the right, the other as far to the left."""
    regimes, x = jax.random.bernoulli(KEYS[3], shape=(FRAMES, SEQUENCES, 1)).astype(int), [jnp.zeros((6, 1))]
    for k in regimes[1:]:
        x.append(jnp.asarray(A)[k, 0, 0] * x[-1] + 100 * jnp.asarray(B)[k, 0])
    hints = HINTS._replace(h=HINTS.J * jnp.stack(x, 1))
    q = posterior(known(spread=100.0), hints)
    np.testing.assert_array_equal(q.labels.argmax(-1)[:, 1:], regimes[1:, :, 0].T)
    # the first frame's regime is not told: there q is exact by itself, and only there
    np.testing.assert_allclose(bound(q, hints), log_evidence(hints, spread=100.0), atol=1e-8)


def test_where_it_has_settled_the_labels_are_those_of_the_path():
    """E log N(x_t; A_k x_{t-1} + b_k, s^2) by moments of the path, and messages between regimes."""
    q = posterior(known(), HINTS)
    x = jax.jit(jax.vmap(messages.lds_smoother))(q.chain, q.potentials)
    m, V, cross = x.mean[..., 0], x.covariance[..., 0, 0], x.cross[..., 0, 0]
    a, b = jnp.asarray(A)[:, 0, 0], jnp.asarray(B)[:, 0]
    each = []
    for k in range(2):
        off = (m[:, 1:] - a[k] * m[:, :-1] - b[k]) ** 2 + V[:, 1:] - 2 * a[k] * cross + a[k] ** 2 * V[:, :-1]
        each.append(jnp.concatenate([jnp.zeros_like(m[:, :1]), -off / 2 / 0.3**2], 1))
    chain = messages.HMM(jnp.log(jnp.array([0.6, 0.4])), jnp.log(jnp.asarray(STAY)))
    states = jax.vmap(lambda l: messages.hmm_smoother(chain, l))(jnp.stack(each, 2))
    np.testing.assert_allclose(q.labels, states.marginals, atol=1e-9)


def test_single_precision_stays_single_and_says_the_same():
    single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    q, exact = posterior(single(known()), single(HINTS), WHOLE, 1e-6), posterior(known(), HINTS)
    assert {x.dtype for x in jax.tree.leaves(q._replace(stats=0.0))[:-1]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(q.labels, exact.labels, atol=1e-4)
    np.testing.assert_allclose(q.kl, exact.kl, rtol=1e-4)


def test_frames_beyond_the_end_change_nothing():
    one, three = jnp.full(SEQUENCES, 1), jnp.full(SEQUENCES, 3)
    within = jnp.arange(FRAMES)[None, :, None] < 3
    other = jax.tree.map(lambda x: jnp.where(within, x, 7.0), HINTS)
    q, same = (posterior(known(), hints, three) for hints in (HINTS, other))
    np.testing.assert_array_equal(q.kl, same.kl)
    np.testing.assert_array_equal(q.labels[:, :3], same.labels[:, :3])
    # the first x does not depend on its regime: there the evidence is that of a standard normal
    rows = Dirichlet.of(jnp.array([[0.5, 0.2], [0.3, 0.7]])).expected_statistics()
    statistics = known()._replace(transitions=rows)
    first = jax.tree.map(lambda x: x * (jnp.arange(FRAMES)[None, :, None] < 1), HINTS)
    J, h = HINTS.J[:, 0, 0], HINTS.h[:, 0, 0]
    found = bound(posterior(statistics, HINTS, one), first)
    np.testing.assert_allclose(found, h**2 / (1 + J) / 2 - jnp.log(1 + J) / 2, rtol=1e-12)


def slope(adjoint, **settings):
    """Of bounds and of something made of paths, by statistics and potentials."""

    def objective(inputs, weights, max_steps):
        q = SLDS.posterior(*inputs, adjoint=adjoint, rtol=1e-11, max_steps=max_steps)
        return jnp.sum(jnp.sin(q.mean) * weights) + jnp.sum(bound(q, inputs[1])), q

    return jax.jit(jax.grad(objective, has_aux=True), **settings)


@pytest.fixture(scope="module")
def implicit():
    """Compiled for any number of rounds."""
    return slope(Implicit()).lower((known(), HINTS), HINTS.h, 500).compile()


def test_where_it_has_settled_labels_and_paths_are_the_best_for_each_other(implicit):
    """The gradient of the bound by expected statistics, at its maximum, is what labels and paths count."""
    (counts, _), q = implicit((known(), HINTS), 0 * HINTS.h, jnp.array(500))
    assert (q.stats.status == Status.CONVERGED).all() and q.stats.steps.max() > 5
    np.testing.assert_allclose(counts.initial.alpha, q.labels[:, 0].sum(0), atol=1e-9)
    np.testing.assert_allclose(counts.transitions.alpha.sum(0), q.labels[:, 1:].sum((0, 1)), atol=1e-9)
    np.testing.assert_allclose(counts.transitions.alpha.sum(1), q.labels[:, :-1].sum((0, 1)), atol=1e-9)
    np.testing.assert_allclose(counts.components.steps.nu, q.labels[:, 1:].sum((0, 1)), atol=1e-9)
    squares = q.mean[:, 1:, 0] ** 2 + q.covariance[:, 1:, 0, 0]
    seen = jnp.einsum("st,stk->k", squares, q.labels[:, 1:])
    np.testing.assert_allclose(counts.components.steps.yy[:, 0, 0], seen, rtol=1e-7)


def test_the_implicit_gradient_is_the_unrolled_one_in_memory_that_does_not_grow(implicit):
    given = (known(), HINTS), jax.random.normal(KEYS[3], HINTS.h.shape)
    unrolled, short = (slope(Unrolled(), static_argnums=2).lower(*given, n).compile() for n in (2000, 20))
    memory = lambda compiled: compiled.memory_analysis().temp_size_in_bytes
    assert memory(unrolled) > 5 * memory(short) and memory(implicit) < 1.5 * memory(short)
    a, b = ravel_pytree(implicit(*given, jnp.array(500))[0])[0], ravel_pytree(unrolled(*given)[0])[0]
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * float(jnp.abs(b).max()))


def simulated(key, sequences, frames):
    """Paths that keep their sign or change it, and which of the two they do."""
    change, noise, eyes = jax.random.split(key, 3)
    regimes = jnp.cumsum(jax.random.bernoulli(change, 0.08, (sequences, frames)), 1) % 2
    pushes = 0.3 * jax.random.normal(noise, (frames, sequences))

    def step(x, given):
        regime, push = given
        x = jnp.where(regime == 0, 0.9, -0.9) * x + push
        return x, x

    path = jax.lax.scan(step, jnp.zeros(sequences), (regimes.T, pushes))[1].T
    return (path + 0.05 * jax.random.normal(eyes, path.shape))[..., None], regimes


def test_training_finds_the_regimes():
    y, regimes = simulated(KEYS[4], 10, 50)
    prior = SLDS.prior(2, 1, dynamics=jnp.zeros((1, 1)), noise=0.3, sticky=5.0)
    seen = lambda y: Potentials(jnp.full_like(y, 400.0), 400.0 * y)
    svae = SVAE(
        prior, seen, lambda x: x, data=len(y), likelihood=Normal(0.05), rho=0.5, inference={"rtol": 1e-6}
    )
    state = svae.init(KEYS[5], y, prior.scattered(KEYS[5]))
    step, bounds = jax.jit(svae.step), []
    for _ in range(25):
        state, metrics = step(state, y)
        bounds.append(metrics.elbo)
        assert metrics.unsettled == 0
    found = jnp.sort(state.model.components.coefficients()[0][:, 0, 0])
    np.testing.assert_allclose(found, [-0.9, 0.9], atol=0.1)
    kinds = jax.jit(svae.infer)(state, y).labels.argmax(-1)
    right = float(jnp.mean(kinds == regimes))
    assert max(right, 1 - right) > 0.9 and bounds[-1] > bounds[0] + 10
