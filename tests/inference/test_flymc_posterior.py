"""The chain's law: posteriors of three data by quadrature, and a Gaussian."""

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
    firefly,
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


def simulated(name, kernel, chains, steps, capacity=3):
    """Means over chains of means over steps, their standard errors, and whether room ever ran out."""
    theta = jnp.zeros((2, 1) if name == "softmax" else 2)

    def chain(key):
        def advance(carry, t):
            state, totals = carry
            state, info = kernel.step(jax.random.fold_in(key, t), state)
            flat = state.position.ravel()
            # Brightness and theta after a step: a draw from the joint distribution.
            seen = jnp.concatenate([flat, jnp.outer(flat, flat).ravel(), state.bright.mask(3)])
            return (state, totals + (t >= WARM) * seen), (info.overflow, info.violations > 0)

        start = kernel.init(key, theta, capacity=capacity), jnp.zeros(9)
        (_, totals), bad = lax.scan(advance, start, jnp.arange(WARM + steps))
        return totals / steps, jax.tree.map(jnp.any, bad)

    means, (overflow, violated) = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains))
    assert not violated.any()
    return np.asarray(means.mean(0)), np.asarray(means.std(0) / chains**0.5), overflow.any()


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
    kernel = Firefly(log_prior, bound, move=move, brightness=update, step_size=step_size)
    found, error, overflow = simulated(name, kernel, *SIZES[name])
    assert not overflow and error.max() < 0.02
    off = np.abs(found - expected)
    assert off.max() < 0.02 and (off < 4 * error + 0.0005).all()  # golden values have three decimals


def test_posterior_is_another_where_overflow_is_ignored(monkeypatch):
    """Room for one of three: the chain goes on with the bright point that found room."""
    monkeypatch.setattr(firefly, "_nan_if", lambda bad, tree: tree)
    bound, log_prior, expected = GOLDEN["student_t"]
    kernel = Firefly(log_prior, bound, move=RandomWalk(), brightness=Implicit(0.3), step_size=1.5)
    found, error, overflow = simulated("student_t", kernel, 250, 1000, capacity=1)
    assert overflow
    moments = np.abs(found - expected)[:6]  # of theta
    assert (moments / error[:6]).max() > 8 and moments.max() > 0.1


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
