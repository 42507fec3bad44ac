"""Linear dynamical systems with unknown parameters: local inference against the joint Gaussian of a path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae.expfam import MNIW, NIW, join_columns, natural_step
from chainrule.svae.lds import LDS, LDSMixture
from chainrule.svae.messages import Potentials

FRAMES, LATENTS = 5, 2


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def hints(seed=1):
    J = jax.random.uniform(jax.random.key(seed), (FRAMES, LATENTS))
    return Potentials(J, jax.random.normal(jax.random.key(seed + 1), (FRAMES, LATENTS)))


def posterior_of(model, statistics, potentials, **given):
    """Of one sequence."""
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], (potentials, given))
    found = jax.jit(model.posterior)(statistics, batch[0], **batch[1])
    return jax.tree.map(lambda x: x[0], found)


def paired(statistics, *sums):
    return sum(
        jnp.sum(a * b) for a, b in zip(jax.tree.leaves(statistics), jax.tree.leaves(sums), strict=True)
    )


def by_brute_force(statistics, potentials, actions=None, length=FRAMES):
    """Mean and covariance of all frames together, log of their normaliser, E_q <potentials, x> less it."""

    def log_joint(flat):
        x = flat.reshape(FRAMES, LATENTS)
        steps = MNIW.statistics(join_columns(x[: length - 1], actions, bias=True), x[1:length])
        sums = jax.tree.map(lambda s: jnp.sum(s, 0), steps)
        log_p = paired(statistics, NIW.statistics(x[0]), sums) - length * LATENTS / 2 * jnp.log(2 * jnp.pi)
        beyond = -jnp.sum(x[length:] ** 2) / 2 - (FRAMES - length) * LATENTS / 2 * jnp.log(2 * jnp.pi)
        hinted = jnp.sum(potentials.h * x) - jnp.sum(potentials.J * x**2) / 2
        return log_p + beyond + hinted, hinted

    at = jnp.zeros(FRAMES * LATENTS)
    value = lambda x: log_joint(x)[0]
    precision = -jax.hessian(value)(at)
    mean = jnp.linalg.solve(precision, jax.grad(value)(at))
    covariance = jnp.linalg.inv(precision)
    log_normaliser = value(mean) + (jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]) / 2
    hint = lambda x: log_joint(x)[1]
    hinted = hint(mean) + jnp.sum(jax.hessian(hint)(at) * covariance) / 2
    return mean.reshape(FRAMES, LATENTS), covariance, log_normaliser, hinted - log_normaliser


def frame_of(covariance, t):
    at = slice(LATENTS * t, LATENTS * (t + 1))
    return covariance[at, at]


@pytest.mark.parametrize("actions", [0, 1])
def test_a_path_is_that_of_the_joint_gaussian(actions):
    u = jax.random.normal(jax.random.key(7), (FRAMES - 1, actions)) if actions else None
    statistics = LDS.prior(LATENTS, actions=actions, worth=5.0, noise=0.3).expected_statistics()
    mean, covariance, evidence, kl = by_brute_force(statistics, hints(), u)
    found = posterior_of(LDS, statistics, hints(), **({} if u is None else {"actions": u}))
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.covariance[2], frame_of(covariance, 2), atol=1e-12)
    np.testing.assert_allclose([found.kl, found.evidence], [kl, evidence], rtol=1e-11)


def test_frames_beyond_the_end_change_nothing():
    statistics = LDS.prior(LATENTS, worth=5.0, noise=0.3).expected_statistics()
    seen = Potentials(*(jnp.where(jnp.arange(FRAMES)[:, None] < 3, x, 0) for x in hints()[:2]))
    mean, _, _, kl = by_brute_force(statistics, seen, length=3)
    found = posterior_of(LDS, statistics, seen, lengths=3)
    np.testing.assert_allclose(found.mean[:3], mean[:3], atol=1e-12)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-11)


def test_paths_are_drawn_from_it():
    statistics = LDS.prior(LATENTS, worth=5.0, noise=0.3).expected_statistics()
    found = posterior_of(LDS, statistics, hints())
    paths = found.sample(jax.random.key(3), 20_000)
    size = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(paths.mean(0) - found.mean) < 4.5 * size / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(paths[:, 2].T), found.covariance[2], atol=0.05 * size.max() ** 2)


def test_which_system_is_bayes_theorem():
    mixture = LDSMixture.of(LDS.oscillating(jnp.array([[4.0], [9.0], [20.0]])), concentration=2.0)
    statistics = mixture.expected_statistics()
    found = posterior_of(LDSMixture, statistics, hints())
    each = [
        by_brute_force(jax.tree.map(lambda x, k=k: x[k], statistics.components), hints()) for k in range(3)
    ]
    joint = statistics.weights.alpha + jnp.array([evidence for _, _, evidence, _ in each])
    weights = jax.nn.softmax(joint)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-9)
    np.testing.assert_allclose(found.paths.mean[1], each[1][0], atol=1e-12)
    # and so E <potentials, x> - KL is the evidence
    hinted = weights @ jnp.array([evidence + kl for _, _, evidence, kl in each])
    np.testing.assert_allclose(hinted - found.kl, jax.nn.logsumexp(joint), rtol=1e-10)


def test_derivatives_by_expected_statistics_are_smoothed_statistics():
    """So one natural step of size one adds to the prior what the path would add if it were seen."""
    prior = LDS.prior(LATENTS, worth=5.0, noise=0.3)
    whole = lambda seen: Potentials(jnp.full((1, FRAMES, LATENTS), 1e9), seen[None])
    evidence = lambda statistics: -LDS.posterior(statistics, whole(seen)).kl[0]
    x = jax.random.normal(jax.random.key(5), (FRAMES, LATENTS))
    seen = 1e9 * x
    added = jax.jit(jax.grad(evidence))(prior.expected_statistics())
    target = jax.tree.map(jnp.add, prior, added)
    after, _ = natural_step(prior, target, 1.0)
    steps = MNIW.statistics(join_columns(x[:-1], bias=True), x[1:])
    np.testing.assert_allclose(after.steps.xy, prior.steps.xy + steps.xy.sum(0), atol=1e-5)
    np.testing.assert_allclose(after.steps.nu, prior.steps.nu + FRAMES - 1, rtol=1e-9)
    np.testing.assert_allclose(after.first.xx, prior.first.xx + jnp.outer(x[0], x[0]), atol=1e-5)


def test_oscillators_turn_once_in_a_period():
    A, _, b = LDS.oscillating(jnp.array([5.0, 12.0])).coefficients()
    turned = jnp.linalg.matrix_power(A, 5)
    np.testing.assert_allclose(turned[:2, :2], jnp.eye(2), atol=1e-9)
    assert np.abs(turned[2:, 2:] - jnp.eye(2)).max() > 0.5
    np.testing.assert_allclose(b, 0)
    np.testing.assert_allclose(LDS.oscillating(jnp.array([5.0, 12.0])).spectral_radius(), 1)


def test_dynamics_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"dynamics are \(3, 3\).*end in \(2, 2\)"):
        LDS.prior(2, dynamics=jnp.eye(3))
