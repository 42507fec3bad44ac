"""Linear dynamical systems in single precision, beside themselves in double, where noise is extreme."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae.messages import LDS, lds_filter, lds_smoother, observe

T, D = 300, 4
# process noise, observation noise, contraction of the dynamics
ROWS = [(0.1, 0.5, 0.98), (0.1, 1e-6, 0.98), (1e-6, 0.5, 0.999), (1e-10, 0.5, 0.999), (1e-8, 0.01, 1.0)]
EXTREMES = [(q, r, 0.99) for q, r in itertools.product([1e-10, 1.0, 1e4], [1e-8, 1e-3, 1e4])]


@partial(jax.jit, static_argnames="method")
def smooth(lds, y, R, mask, method="sequential"):
    return lds_smoother(lds, observe(y, None, R), mask=mask, method=method)


def problem(q, r, contraction, T=T, D=D, seed=0):
    rng = np.random.default_rng(seed)
    A = contraction * np.linalg.qr(rng.normal(size=(D, D)))[0]
    W = rng.normal(size=(D, D))
    R = r * (np.eye(D) + 0.3 * W @ W.T / D)
    x, states = rng.normal(size=D), []
    kicks = np.sqrt(q) * rng.normal(size=(T, D))
    for kick in kicks:
        states.append(x)
        x = A @ x + kick
    y = np.array(states) + rng.normal(size=(T, D)) @ np.linalg.cholesky(R).T
    return LDS(np.zeros(D), np.eye(D), A, q * np.eye(D)), y, R


def check(args, mask=None, method="sequential"):
    mask = jnp.ones(len(args[1]), bool) if mask is None else mask
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), args)
    double = jax.tree.map(lambda x: x.astype(jnp.float64), single)  # the same problem, rounded
    found, exact = smooth(*single, mask, method=method), smooth(*double, mask)
    sd = np.sqrt(np.diagonal(exact.covariance, axis1=1, axis2=2))
    size = np.abs(exact.covariance).max((1, 2))
    cov = np.asarray(found.covariance, np.float64)
    # a mean of 100 is a number in steps of 8e-6, however well it is known
    steps = np.spacing(np.abs(np.asarray(found.mean)))
    assert (np.abs(found.mean - exact.mean) <= 0.01 * sd + steps).all()
    assert (np.abs(cov - exact.covariance).max((1, 2)) <= 0.01 * size).all()
    assert (np.abs(found.cross - exact.cross).max((1, 2)) <= 0.01 * size[:-1]).all()
    np.testing.assert_array_equal(cov, cov.swapaxes(1, 2))
    assert (np.linalg.eigvalsh(cov) > 0).all()
    np.testing.assert_allclose(found.log_normaliser, exact.log_normaliser, rtol=1e-4)


@pytest.mark.parametrize("case", ROWS + EXTREMES, ids=str)
def test_small_and_large_noise(case):
    check(problem(*case))


@pytest.mark.parametrize("D", [2, 8, 16])
@pytest.mark.parametrize("case", [ROWS[3], (1e4, 1e-8, 0.99)], ids=str)
def test_small_and_large_noise_in_other_dimensions(case, D):
    check(problem(*case, D=D))


@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize("method", ["chunked", "associative"])
def test_small_noise_in_parallel(case, method):
    check(problem(*case), method=method)


@pytest.mark.parametrize("q", [1e-10, 1.0, 1e4])
def test_all_frames_missing(q):
    check(problem(q, 1.0, 0.99), mask=jnp.zeros(T, bool))


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_first_half_missing(case):
    check(problem(*case), mask=jnp.arange(T) >= T // 2)


@pytest.mark.parametrize("case", ROWS[1::2], ids=str)
def test_one_frame(case):
    check(problem(*case, T=1))


@pytest.mark.parametrize("case", [ROWS[0], ROWS[3]], ids=str)
def test_a_hundred_thousand_frames(case):
    check(problem(*case, T=100_000))


def test_an_indefinite_noise_is_nan_everywhere():
    lds, y, R = problem(*ROWS[0], T=5)
    lds, y, R = jax.tree.map(jnp.asarray, (lds._replace(Q=-np.eye(D)), y, R))
    found = jax.jit(lds_filter)(lds, observe(y, None, R))
    assert jnp.isnan(found.mean[1:]).all() and jnp.isnan(found.log_normalisers[1:]).all()


@pytest.mark.parametrize("D", [2, 6, 10])
def test_what_rounding_leaves_of_a_direction_that_is_not_seen_is_right_or_nan(D):
    """One direction is seen, as precisely as float32 can hold beside the others, and then much more so."""
    lds, y, _ = problem(*ROWS[0], T=20, D=D)
    C = np.random.default_rng(1).normal(size=(1, D))
    f = jax.jit(lambda lds, y, R: lds_smoother(lds, observe(y, jnp.asarray(C, y.dtype), R)))
    for r, is_right in ((1e-3, True), (1e-9, False)):
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (lds, y[:, :1], np.array([r])))
        exact = f(*jax.tree.map(lambda x: x.astype(jnp.float64), single))
        found = f(*single)
        error = np.abs(found.covariance - exact.covariance).max() / np.abs(exact.covariance).max()
        assert error < 0.01 if is_right else jnp.isnan(found.covariance).any()
        assert is_right or (jnp.isnan(found.log_normaliser) and jnp.isnan(found.mean).any())
