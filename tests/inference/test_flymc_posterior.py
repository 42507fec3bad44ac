"""The chain's law: posteriors of three data by quadrature, a Gaussian, simulation-based calibration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

from chainrule.inference.flymc import (
    HMC,
    MALA,
    Explicit,
    Firefly,
    FullData,
    Implicit,
    RandomWalk,
    Slice,
    logistic_bound,
    softmax_bound,
    student_t_bound,
)

pytestmark = pytest.mark.slow

# Means, second moments and probabilities of being bright, by quadrature: from the authors' tests.
GOLDEN = {
    "logistic": (
        logistic_bound(np.array([[2.2, 1.7], [-1.5, 2.9], [1.4, -1.2]]), np.array([1, 0, 1]), touching=2.0),
        lambda theta: -jnp.sum(theta**2) / 2 / 1.2**2,
        [1.323, -0.374, 2.439, -0.460, -0.460, 0.749, 0.152, 0.227, 0.088],
    ),
    "student_t": (
        student_t_bound(
            np.array([[-0.7, -0.8], [-1.1, 1.5], [-0.2, -0.2]]), np.array([0.5, 1.6, -3.0]), touching=0.5
        ),
        lambda theta: -jnp.sum(jnp.abs(theta)) / 2.2,
        [-0.559, 0.474, 1.181, 0.010, 0.010, 0.775, 0.102, 0.113, 0.893],
    ),
    "softmax": (
        softmax_bound(np.array([[0.4], [1.7], [-0.6]]), np.array([0, 0, 1]), touching=2.4),
        lambda theta: -jnp.sum(theta**2) / 2 / 1.1**2,
        [0.740, -0.740, 1.479, -0.269, -0.269, 1.479, 0.185, 0.205, 0.148],
    ),
}
WARM = 200
SIZES = {"logistic": (600, 4000), "student_t": (250, 2000), "softmax": (250, 2000)}  # chains, steps


@pytest.mark.parametrize(
    ("name", "move", "step_size", "update"),
    [
        ("logistic", RandomWalk(), 1.2, Implicit(0.2)),
        ("logistic", MALA(), 0.8, Explicit(0.5)),
        ("student_t", Slice(), 2.0, Implicit(0.3)),
        ("softmax", HMC(3), 0.6, Implicit(0.1)),
    ],
)
def test_posterior_of_three_data_is_that_of_quadrature(name, move, step_size, update):
    bound, log_prior, expected = GOLDEN[name]
    chains, steps = SIZES[name]
    kernel = Firefly(log_prior, bound, move=move, brightness=update, step_size=step_size)
    theta = jnp.zeros((2, 1) if name == "softmax" else 2)

    def chain(key):
        def advance(carry, t):
            state, totals = carry
            state, info = kernel.step(jax.random.fold_in(key, t), state)
            flat = state.position.ravel()
            # Brightness and theta after a step: a draw from the joint distribution.
            seen = jnp.concatenate([flat, jnp.outer(flat, flat).ravel(), state.bright.mask(3)])
            return (state, totals + (t >= WARM) * seen), info.overflow | (info.violations > 0)

        start = kernel.init(key, theta, capacity=3), jnp.zeros(9)
        (_, totals), bad = lax.scan(advance, start, jnp.arange(WARM + steps))
        return totals / steps, bad.any()

    found, bad = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains))
    assert not bad.any()
    error = np.asarray(found.std(0) / chains**0.5)
    assert error.max() < 0.02
    off = np.abs(np.asarray(found.mean(0)) - expected)
    assert off.max() < 0.02 and (off < 4 * error + 0.0005).all()  # golden values have three decimals


@pytest.mark.parametrize("move", [RandomWalk(), MALA(), HMC(4), Slice()], ids=lambda m: type(m).__name__)
def test_moves_keep_a_gaussian_as_it_is(move):
    """One datum that says nothing: the posterior is the prior, a correlated Gaussian."""
    covariance = np.array([[1.0, 0.6], [0.6, 0.5]])
    precision = jnp.asarray(np.linalg.inv(covariance))
    scale = jnp.asarray(np.linalg.cholesky(covariance))
    nothing = student_t_bound(np.zeros((1, 2)), np.zeros(1))
    step = move.first_step_size(2) * 0.7
    kernel = FullData(
        lambda theta: -theta @ precision @ theta / 2, nothing, move=move, step_size=step, scale=scale
    )

    def chain(key):
        start_key, key = jax.random.split(key)
        state = kernel.init(key, scale @ jax.random.normal(start_key, 2))
        advance = lambda state, key: (kernel.step(key, state)[0], None)
        return lax.scan(advance, state, jax.random.split(key, 4))[0].position

    ends = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), 20_000)))
    whitened = np.linalg.solve(np.asarray(scale), ends.T)
    # Started in the distribution and four steps on: still standard normal, by Kolmogorov and Smirnov.
    assert min(stats.kstest(row, "norm").pvalue for row in whitened) > 1e-4
    assert abs(np.corrcoef(whitened)[0, 1]) < 5 / np.sqrt(20_000)


def _ranks(kernel_of, simulations=200, draws=15, thin=8):
    """Rank of the true theta among draws of its posterior, for theta and data from their joint law."""
    x = jax.random.normal(jax.random.key(5), (20, 2))

    def one(key):
        theta_key, data_key, start_key, key = jax.random.split(key, 4)
        truth = jax.random.normal(theta_key, 2)
        positive = jax.random.uniform(data_key, 20) < jax.nn.sigmoid(x @ truth)
        kernel = kernel_of(x * jnp.where(positive, 1, -1)[:, None])
        # Started in the truth, which is a draw of the posterior as well.
        state = kernel.init(start_key, truth, capacity=20)
        advance = lambda state, key: (lambda s: (s, s.position))(kernel.step(key, state)[0])
        _, positions = lax.scan(advance, state, jax.random.split(key, draws * thin))
        return jnp.sum(positions[thin - 1 :: thin] < truth[None], 0)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(7), simulations)))


def _uniform(ranks):
    counts = np.array([np.bincount(r // 4, minlength=4) for r in ranks.T])
    return min(stats.chisquare(c).pvalue for c in counts)


def test_simulation_based_calibration_of_the_random_walk():
    template = logistic_bound(np.zeros((20, 2)), np.arange(20) % 2)

    def kernel_of(signed):
        a = jnp.tanh(0.75) / 6.0  # of the bound that touches at 1.5
        bound = dataclasses.replace(
            template, signed=signed, linear=signed.sum(0) / 2, quadratic=a * signed.T @ signed
        )
        return Firefly(
            lambda theta: -jnp.sum(theta**2) / 2,
            bound,
            move=RandomWalk(),
            brightness=Implicit(0.3),
            step_size=0.8,
        )

    assert _uniform(_ranks(kernel_of)) > 1e-3

    def overconfident(signed):
        right = kernel_of(signed)
        return dataclasses.replace(right, log_prior=lambda theta: -2 * jnp.sum(theta**2))

    assert _uniform(_ranks(overconfident)) < 1e-3
