"""Linear dynamical systems, beside the joint Gaussian of all states, conditioned by brute force in
float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.testing import check_derivatives
from chainrule.svae.messages import (
    LDS,
    Potentials,
    lds_filter,
    lds_forecast,
    lds_log_normaliser,
    lds_sample,
    observe,
)
from chainrule.svae.messages import lds_smoother as smoother

lds_smoother = jax.jit(smoother, static_argnames="method")

T, D = 7, 3
CLOSE = dict(rtol=1e-9, atol=1e-9)


def covariance(rng, n, *leading):
    W = rng.normal(size=(*leading, n, n))
    return jnp.asarray(W @ np.swapaxes(W, -1, -2) / n + 0.1 * np.eye(n))


def system(seed=0, varying=False, T=T, D=D, actions=0):
    rng = np.random.default_rng(seed)
    leading = (T - 1,) if varying else ()
    A = 0.9 * np.linalg.qr(rng.normal(size=(*leading, D, D)))[0]
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    B = draw(*leading, D, actions) if actions else None
    return LDS(
        draw(D), covariance(rng, D), jnp.asarray(A), covariance(rng, D, *leading), draw(*leading, D), B
    )


def potentials_of(seed=1, T=T, D=D, diagonal=False, centred=True):
    rng = np.random.default_rng(seed)
    J = jnp.asarray(rng.gamma(1.0, size=(T, D))) if diagonal else covariance(rng, D, T)
    extra = (jnp.asarray(rng.normal(size=(T, D))), jnp.asarray(rng.normal(size=T))) if centred else ()
    return Potentials(J, jnp.asarray(rng.normal(size=(T, D))), *extra)


def joint(lds, T, actions=None):
    """Mean and covariance of all states before anything is seen."""
    D = lds.m.size
    at = lambda x, t, n: np.asarray(x if x.ndim == n else x[t])
    mean, root = [np.asarray(lds.m)], np.zeros((T * D, T * D))  # states are root times white noise
    root[:D, :D] = np.linalg.cholesky(lds.P)
    for t in range(T - 1):
        A, here, ahead = at(lds.A, t, 2), slice(t * D, t * D + D), slice(t * D + D, t * D + 2 * D)
        b = 0.0 if lds.b is None else at(lds.b, t, 1)
        b = b if lds.B is None else b + at(lds.B, t, 2) @ actions[t]
        mean.append(A @ mean[-1] + b)
        root[ahead] = A @ root[here]
        root[ahead, ahead] = np.linalg.cholesky(at(lds.Q, t, 2))
    return np.concatenate(mean), root @ root.T


def oracle(lds, potentials, actions=None):
    """Mean, covariance and log normaliser of all states as one Gaussian."""
    J, h, centre, log_scale = potentials
    T, D = h.shape
    mean, cov = joint(lds, T, actions)
    precision = np.zeros((T * D, T * D))
    for t in range(T):
        precision[t * D : t * D + D, t * D : t * D + D] = np.diag(J[t]) if J.ndim == 2 else J[t]
    c = np.zeros(T * D) if centre is None else np.ravel(centre)
    s = 0.0 if log_scale is None else np.sum(log_scale)
    total = np.linalg.inv(cov) + precision
    posterior = np.linalg.inv(total)
    off = mean - c
    pull = np.ravel(h) - precision @ off
    logdet = np.linalg.slogdet(np.eye(T * D) + cov @ precision)[1]
    log_z = s + np.ravel(h) @ off - off @ precision @ off / 2 + pull @ posterior @ pull / 2 - logdet / 2
    return (mean + posterior @ pull).reshape(T, D), posterior.reshape(T, D, T, D), log_z


def check_smoothed(found, expected):
    mean, cov, log_z = expected
    t = np.arange(len(mean))
    np.testing.assert_allclose(found.mean, mean, **CLOSE)
    np.testing.assert_allclose(found.covariance, cov[t, :, t], **CLOSE)
    np.testing.assert_allclose(found.cross, cov[t[:-1], :, t[1:]], **CLOSE)
    np.testing.assert_allclose(found.log_normaliser, log_z, **CLOSE)


CASES = [
    dict(),
    dict(varying=True),
    dict(diagonal=True),
    dict(centred=False),
    dict(T=1),
    dict(D=1),
    dict(D=6, T=5),
    dict(D=6, T=5, diagonal=True, varying=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_smoother_is_the_conditioned_joint_gaussian(case):
    size = {k: v for k, v in case.items() if k in "TD"}
    lds = system(varying=case.get("varying", False), **size)
    potentials = potentials_of(
        diagonal=case.get("diagonal", False), centred=case.get("centred", True), **size
    )
    check_smoothed(lds_smoother(lds, potentials), oracle(lds, potentials))


@pytest.mark.parametrize("method", ["chunked", "associative"])
@pytest.mark.parametrize("case", [dict(varying=True), dict(T=1), dict(D=6, T=5, diagonal=True)], ids=str)
def test_parallel_smoothers_are_the_conditioned_joint_gaussian(method, case):
    size = {k: v for k, v in case.items() if k in "TD"}
    lds = system(varying=case.get("varying", False), **size)
    potentials = potentials_of(diagonal=case.get("diagonal", False), **size)
    check_smoothed(lds_smoother(lds, potentials, method=method), oracle(lds, potentials))


@pytest.mark.parametrize("method", ["chunked", "associative"])
def test_parallel_samples_and_gradients_are_the_sequential_ones(method):
    lds, potentials = system(), potentials_of()
    mask = jnp.arange(T) != 2
    draw = jax.jit(
        lambda method: lds_sample(jax.random.key(0), lds, potentials, 2, mask=mask, method=method),
        static_argnums=0,
    )
    np.testing.assert_allclose(draw(method), draw("sequential"), **CLOSE)
    slope = jax.jit(jax.grad(lambda *args: lds_log_normaliser(*args[:2], method=method), (0, 1)))
    expected = jax.jit(jax.grad(loss, (0, 1)))(lds, potentials)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), slope(lds, potentials), expected)


def test_actions_move_the_mean():
    lds = system(actions=2, varying=True)
    actions = jnp.asarray(np.random.default_rng(3).normal(size=(T - 1, 2)))
    found = lds_smoother(lds, potentials_of(), actions=actions)
    check_smoothed(found, oracle(lds, potentials_of(), np.asarray(actions)))


def test_filter_is_the_smoother_of_the_frames_so_far():
    lds, potentials = system(), potentials_of()
    found = jax.jit(lds_filter)(lds, potentials)
    for t in range(T):
        seen = jnp.arange(T) <= t
        past = lds_smoother(lds, potentials, mask=seen)
        np.testing.assert_allclose(found.mean[t], past.mean[t], **CLOSE)
        np.testing.assert_allclose(found.covariance[t], past.covariance[t], **CLOSE)
        np.testing.assert_allclose(jnp.sum(found.log_normalisers[: t + 1]), past.log_normaliser, **CLOSE)
        if t + 1 < T:
            np.testing.assert_allclose(found.predicted_mean[t + 1], past.mean[t + 1], **CLOSE)
            np.testing.assert_allclose(found.predicted_covariance[t + 1], past.covariance[t + 1], **CLOSE)


def test_a_forecast_is_masked_frames():
    lds, actions = system(actions=2), jnp.ones((T - 1, 2))
    seen = 4
    late = lds_smoother(lds, potentials_of(), actions=actions, mask=jnp.arange(T) < seen)
    first = Potentials(*(x[:seen] for x in potentials_of()))
    found = lds_forecast(lds, first, T - seen, actions=actions)
    np.testing.assert_allclose(found.mean, late.mean[seen:], **CLOSE)
    np.testing.assert_allclose(found.covariance, late.covariance[seen:], **CLOSE)


def test_without_potentials_the_prior_comes_out():
    lds = system(varying=True)
    found = lds_smoother(lds, potentials_of(), mask=jnp.zeros(T, bool))
    mean, cov = joint(lds, T)
    check_smoothed(found, (mean.reshape(T, D), cov.reshape(T, D, T, D), 0.0))


def test_masked_frames_may_be_nan():
    lds, potentials = system(), potentials_of()
    mask = jnp.arange(T) != 2
    spoiled = Potentials(*(x.at[2].set(jnp.nan) for x in potentials))
    found, expected = (lds_smoother(lds, p, mask=mask) for p in (spoiled, potentials))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, expected)
    slope = jax.jit(jax.grad(lambda p: lds_log_normaliser(lds, p, mask=mask)))(spoiled)
    assert all(jnp.isfinite(x).all() for x in slope)


def loss(lds, potentials):
    return lds_log_normaliser(lds, potentials)


@pytest.mark.parametrize("diagonal", [True, False])
def test_derivatives_of_the_log_normaliser_in_both_modes(diagonal):
    symmetric = lambda p: p._replace(J=(p.J + p.J.swapaxes(-1, -2)) / 2) if not diagonal else p
    f = lambda lds, p: lds_log_normaliser(lds, symmetric(p))
    check_derivatives(
        jax.jit(f), (system(T=4, D=2, varying=diagonal), potentials_of(T=4, D=2, diagonal=diagonal))
    )


def test_gradient_is_the_expected_statistics():
    lds, potentials = system(varying=True), potentials_of(centred=False)
    by_lds, by_potentials = jax.jit(jax.grad(loss, (0, 1)))(lds, potentials)
    found = lds_smoother(lds, potentials)
    second = found.covariance + found.mean[:, :, None] * found.mean[:, None, :]
    np.testing.assert_allclose(by_potentials.h, found.mean, **CLOSE)
    np.testing.assert_allclose(by_potentials.J, -second / 2, **CLOSE)
    forward = jax.jit(jax.jacfwd(loss, (0, 1)))(lds, potentials)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), forward, (by_lds, by_potentials))


@pytest.mark.parametrize("D", [2, 4, 10])
def test_the_gradient_by_dynamics_alone_is_that_part_of_the_whole(D):
    """What only the noise's derivative needs is then left out."""
    lds, potentials = system(T=6, D=D), potentials_of(T=6, D=D)
    by_A = jax.grad(lambda A, potentials: loss(lds._replace(A=A), potentials))
    whole = jax.jit(jax.grad(loss))(lds, potentials).A
    np.testing.assert_allclose(jax.jit(by_A)(lds.A, potentials), whole, **CLOSE)
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), potentials)
    in_batch = jax.jit(jax.vmap(by_A, (None, 0)))(lds.A, pair)
    np.testing.assert_allclose(in_batch, jnp.stack([whole, whole]), **CLOSE)


def test_samples_have_the_moments_of_the_smoother():
    n = 20_000
    lds, potentials = system(), potentials_of()
    paths = np.asarray(jax.jit(lds_sample, static_argnums=3)(jax.random.key(0), lds, potentials, n)).reshape(
        n, -1
    )
    mean, cov, _ = oracle(lds, potentials)
    cov = cov.reshape(T * D, T * D)
    sd = np.sqrt(np.diag(cov))
    assert (np.abs(paths.mean(0) - mean.ravel()) < 4.5 * sd / np.sqrt(n)).all()
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / n)
    assert (np.abs(np.cov(paths.T) - cov) < 4.5 * error).all()


def dense_evidence(lds, y, C, R, d):
    """log p of the entries of y that are not NaN, C, R, d being the same in all frames."""
    mean, cov = joint(lds, len(y))
    big = np.kron(np.eye(len(y)), C)
    mean, cov = big @ mean + np.tile(d, len(y)), big @ cov @ big.T + np.kron(np.eye(len(y)), R)
    seen = ~np.isnan(y.ravel())
    off, cov = (y.ravel() - mean)[seen], cov[np.ix_(seen, seen)]
    return -(off @ np.linalg.solve(cov, off) + np.linalg.slogdet(2 * np.pi * cov)[1]) / 2


@pytest.mark.parametrize("kind", ["full", "variances", "identity"])
@pytest.mark.parametrize("missing", [False, True])
def test_observations_give_their_evidence(kind, missing):
    rng = np.random.default_rng(5)
    lds = system()
    seen = D if kind == "identity" else 2
    y, d = rng.normal(size=(T, seen)), rng.normal(size=seen)
    C = None if kind == "identity" else jnp.asarray(rng.normal(size=(seen, D)))
    R = covariance(rng, seen) if kind == "full" else jnp.asarray(rng.gamma(1.0, size=seen))
    if missing:
        y[2] = np.nan
        y[4, 1] = np.nan
    potentials = observe(jnp.asarray(y), C, R, d=jnp.asarray(d), mask="nan" if missing else None)
    assert potentials.J.ndim == (2 if kind == "identity" else 3)
    dense = np.eye(D) if C is None else np.asarray(C)
    expected = dense_evidence(lds, y, dense, np.diag(R) if R.ndim == 1 else R, d)
    np.testing.assert_allclose(jax.jit(loss)(lds, potentials), expected, **CLOSE)
    check_smoothed(lds_smoother(lds, potentials), oracle(lds, potentials))
