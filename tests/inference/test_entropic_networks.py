"""What a step does to the volume around a neural network, estimated without its Hessian."""

import functools
import itertools
import math

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from chainrule.inference.entropic import Gaussian, choose_stopping, log_volume, run, run_ensemble

pytestmark = pytest.mark.slow

KEY = jax.random.key(5)


def predict(weights, inputs):
    for W, b in weights:
        z = inputs @ W + b[None]
        inputs = jnp.tanh(z)
    return z[:, 0]


def log_likelihood(weights, data):
    inputs, targets = data
    return -jnp.sum((predict(weights, inputs) - targets) ** 2) / 2


def zeros(*widths, dtype=jnp.float64):
    pairs = itertools.pairwise(widths)
    return [(jnp.zeros((m, n), dtype), jnp.zeros(n, dtype)) for m, n in pairs]


def data_of(rows, columns, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    return jnp.asarray(x, dtype), jnp.asarray(np.sin(x.sum(1)), dtype)


@pytest.fixture(scope="module")
def hessian():
    """That of the loss of a small network at a draw: 113 eigenvalues of both signs."""
    data = data_of(30, 5)
    weights = Gaussian(zeros(5, 16, 1), 0.5).sample(KEY)
    flat, unravel = ravel_pytree(weights)
    loss = lambda flat: -log_likelihood(unravel(flat), data)
    H = jax.jit(jax.hessian(loss))(flat)
    assert flat.size == 113 and np.linalg.eigvalsh(H)[0] < -0.1
    return H


@functools.partial(jax.jit, static_argnames=("method", "probes"))
def estimate(H, rate, **settings):
    return log_volume(KEY, lambda v: H @ v, H[0], rate, **settings)


def volume_of(H, a_lambda, **settings):
    """log_volume at the step size that makes the largest eigenvalue of a H what is asked for."""
    rate = a_lambda / np.linalg.eigvalsh(H)[-1]
    return estimate(H, rate, **settings), rate


@pytest.mark.parametrize("a_lambda", [0.3, 0.9, 1.5])
def test_lanczos_quadrature_is_within_two_percent_of_exact(hessian, a_lambda):
    """Beyond 1, too, where I - a H is not definite. 400 probes leave an error of about 1%."""
    volume, rate = volume_of(hessian, a_lambda, probes=400)
    exact, _ = volume_of(hessian, a_lambda, method="exact")
    np.testing.assert_allclose(exact.log_det, np.linalg.slogdet(np.eye(113) - rate * hessian)[1], rtol=1e-10)
    assert abs(volume.log_det - exact.log_det) < 0.02 * abs(exact.log_det) + 2 * volume.standard_error
    assert abs(volume.log_det - exact.log_det) < 4 * volume.standard_error
    np.testing.assert_allclose(volume.a_lambda_max, a_lambda, rtol=0.02)


def test_bound_is_unbiased_for_the_parabola(hessian):
    volume, rate = volume_of(hessian, 0.6, method="bound", probes=1000)
    aH = rate * hessian
    assert abs(volume.log_det + np.trace(aH) + np.sum(aH**2)) < 4 * volume.standard_error
    assert volume.log_det < np.linalg.slogdet(np.eye(113) - aH)[1]


def test_one_product_gives_the_number_that_the_paper_takes_two_for(hessian):
    aH = np.asarray(0.1 * hessian)
    r0 = np.random.default_rng(1).normal(size=113)
    r1 = r0 - aH @ r0
    r2 = r1 - aH @ r1
    np.testing.assert_allclose(r0 @ (-2 * r0 + 3 * r1 - r2), -r0 @ aH @ r0 - (aH @ r0) @ (aH @ r0), rtol=1e-9)


def sizes(jaxpr):
    """How many numbers each array in a program has, those inside of its loops and branches included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(out.aval.shape) for out in equation.outvars if hasattr(out.aval, "shape"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


@pytest.mark.parametrize("method", ["slq", "bound"])
def test_hundred_thousand_parameters_need_no_square_matrix(method):
    like = zeros(100, 980, 1, dtype=jnp.float32)
    count = sum(leaf.size for leaf in jax.tree.leaves(like))
    assert count > 99_900
    data = data_of(20, 100, jnp.float32)
    settings = dict(step_size=1e-3, steps=1, data=data, method=method, lanczos_steps=5, watch_steps=5)
    train = jax.jit(lambda key: run(key, log_likelihood, Gaussian(like, 0.05), **settings))
    # Two probes of five Lanczos vectors each are the most.
    assert max(sizes(jax.make_jaxpr(train)(KEY).jaxpr)) <= 10 * count
    compiled = train.lower(KEY).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 100 * count < 4 * count**2 / 100
    state, trace = compiled(KEY)
    assert np.all(np.isfinite(trace.elbo)) and trace.entropy[1] < trace.entropy[0]
    assert state.params[0][0].dtype == trace.elbo.dtype == jnp.float32


def test_an_ensemble_peaks_where_its_mean_does_and_predicts_better_than_its_members():
    like, noise = zeros(1, 8, 1), 0.2
    x = jnp.linspace(-2, 2, 30)[:, None]
    y = jnp.sin(2 * x[:, 0]) + noise * jax.random.normal(KEY, (30,))
    fit = lambda w, data: jnp.sum(jax.scipy.stats.norm.logpdf(data[1], predict(w, data[0]), noise))
    error = lambda w: jnp.mean((predict(w, x) - jnp.sin(2 * x[:, 0])) ** 2)
    settings = dict(method="bound", watch_steps=0, step_size=5e-4, steps=40, record_every=2)
    settings |= dict(data=(x, y), monitor=error)
    train = jax.jit(lambda key: run_ensemble(key, 6, fit, Gaussian(like, 1.0), **settings))
    states, trace = train(KEY)
    stopping = choose_stopping(trace, flagged=True)  # nobody watches
    assert trace.elbo.shape == trace.monitored.shape == (6, 21)
    assert stopping.elbo == pytest.approx(float(trace.elbo.mean(0)[stopping.record]))
    mean = jax.vmap(lambda w: predict(w, x))(states.params).mean(0)
    together = jnp.mean((mean - jnp.sin(2 * x[:, 0])) ** 2)
    assert together < trace.monitored[:, -1].mean()
