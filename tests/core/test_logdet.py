"""Log-determinants against slogdet: errors are as large as they are said to be, derivatives are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.logdet import logdet_slq
from chainrule.core.status import Status

KEY = jax.random.key(0)


def kernel(scale, n=60, noise=0.1, dtype=np.float64):
    """A Gaussian-process covariance on a line."""
    x = jnp.linspace(0, 1, n, dtype=dtype)
    return jnp.exp(-((x[:, None] - x[None]) ** 2) / (2 * scale**2)) + noise * jnp.eye(n, dtype=dtype)


@functools.partial(jax.jit, static_argnames=("probes", "steps", "batch_size"))
def estimate(A, key=KEY, **settings):
    return logdet_slq(key, lambda v: A @ v, A[0], **settings)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_is_within_the_standard_error(dtype):
    A = kernel(0.1, dtype=dtype)
    logdet = estimate(A)
    assert logdet.value.dtype == dtype and logdet.status == Status.CONVERGED
    assert abs(logdet.value - np.linalg.slogdet(np.float64(A))[1]) < 3 * logdet.standard_error
    assert logdet.standard_error < 0.1 * abs(logdet.value)


def test_standard_errors_are_calibrated():
    """Over 30 keys, errors over standard errors are spread like a t distribution: about 1.1 for 8 probes."""
    A = kernel(0.1)
    keys = jax.random.split(jax.random.key(1), 30)
    logdet = jax.jit(jax.vmap(lambda key: estimate(A, key, probes=8)))(keys)
    value, standard_error = np.asarray(logdet.value), np.asarray(logdet.standard_error)
    z = (value - np.linalg.slogdet(A)[1]) / standard_error
    assert 0.7 < np.std(z) < 1.5 and abs(np.mean(z)) < 0.6
    assert np.std(value) == pytest.approx(np.mean(standard_error), rel=0.4)


def test_the_variance_is_that_of_the_logarithm_off_its_diagonal():
    A = kernel(0.1)
    eigenvalues, Q = np.linalg.eigh(A)
    log = (Q * np.log(eigenvalues)) @ Q.T
    expected = np.sqrt(2 / 400 * (np.sum(log**2) - np.sum(np.diag(log) ** 2)))
    assert estimate(A, probes=400).standard_error == pytest.approx(expected, rel=0.1)


def test_a_diagonal_matrix_takes_one_look():
    d = jnp.linspace(1.0, 2.0, 50)
    logdet = logdet_slq(KEY, lambda v: d * v, d, probes=2, steps=25)
    np.testing.assert_allclose(logdet.value, jnp.sum(jnp.log(d)), rtol=1e-13)
    assert logdet.standard_error < 1e-12 and logdet.status == Status.CONVERGED


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_matrices_are_exact_to_the_probes(n):
    """As many steps as rows: no truncation, whatever the quadratures with fewer say."""
    A = kernel(0.3, n=n)
    logdet = estimate(A, probes=400)
    assert logdet.status == Status.CONVERGED and logdet.truncation < 1e-12
    assert abs(logdet.value - np.linalg.slogdet(A)[1]) <= 4 * logdet.standard_error + 1e-12


def test_too_few_steps_are_told():
    """The spread of the probes does not know of the truncation; the status does."""
    d = jnp.geomspace(1e-2, 1.0, 1000)
    f = jax.jit(lambda d, steps: logdet_slq(KEY, lambda v: d * v, d, probes=2, steps=steps), static_argnums=1)
    errors = {steps: abs(f(d, steps).value / jnp.sum(jnp.log(d)) - 1) for steps in (10, 60)}
    assert errors[10] > 1e-4 and f(d, 10).status == Status.MAX_STEPS
    assert errors[60] < 1e-8 and f(d, 60).status == Status.CONVERGED


@pytest.mark.parametrize(
    "broken", [lambda A: A - jnp.eye(60), lambda A: A + jnp.triu(A), lambda A: A * jnp.nan, lambda A: 0 * A]
)
def test_what_has_no_logarithm_is_nan(broken):
    logdet = estimate(broken(kernel(0.1)))
    assert logdet.status == Status.NONFINITE
    assert np.isnan([logdet.value, logdet.standard_error, logdet.truncation]).all()
    assert np.isnan(jax.grad(lambda A: estimate(A).value)(broken(kernel(0.1)))).all()


def test_batches_of_probes_change_nothing():
    A = kernel(0.1)
    together, batched = estimate(A), estimate(A, batch_size=7)
    np.testing.assert_allclose(batched.value, together.value, rtol=1e-12)
    np.testing.assert_allclose(batched.standard_error, together.standard_error, rtol=1e-10)


def test_complex_matrices():
    rng = np.random.default_rng(0)
    M = rng.normal(size=(30, 30)) + 1j * rng.normal(size=(30, 30))
    A = M @ M.conj().T + 10 * np.eye(30)
    logdet = estimate(A, probes=100)
    assert logdet.value.dtype == float and logdet.status == Status.CONVERGED
    assert abs(logdet.value - np.linalg.slogdet(A)[1]) < 3 * logdet.standard_error


# Derivatives --------------------------------------------------------------------------------------


def test_derivatives_are_those_of_the_trace():
    """For the probes at hand: the mean of z^T A^-1 dA z, and its own derivative, in every order of modes."""
    z = jax.random.rademacher(KEY, (3, 5), float)

    def ours(scale):
        A = kernel(scale, n=5)
        return logdet_slq(KEY, lambda v: A @ v, A[0], probes=3).value

    def trace(scale):
        A, dA = jax.jvp(lambda scale: kernel(scale, n=5), (scale,), (1.0,))
        return jnp.mean(jnp.einsum("pi,ij,pj->p", z, jnp.linalg.solve(A, dA), z))

    @jax.jit
    def derivatives(scale):
        first, second = jax.grad(ours), jax.grad(jax.grad(jax.jit(ours)))
        both = lambda f: jax.jvp(f, (scale,), (1.0,))
        return [first(scale), both(ours)[1]], [second(scale), both(first)[1]], both(trace)

    first, second, (trace_at, its_derivative) = derivatives(0.2)
    np.testing.assert_allclose(first, trace_at, rtol=1e-10)
    np.testing.assert_allclose(second, its_derivative, rtol=1e-9)


def test_derivatives_of_a_jitted_estimate():
    """Where the trace of the estimate is over when it is differentiated; with integers in the matvec, too."""
    swap = jnp.array([1, 0, 2, 3])

    @jax.jit
    def f(t, swap, key):
        return logdet_slq(key, lambda v: t**2 * v[swap][swap], jnp.zeros(4)).value

    assert jax.grad(f)(3.0, swap, KEY) == pytest.approx(8 / 3)


def test_a_derivative_that_too_few_steps_cannot_tell_is_nan():
    d = jnp.geomspace(1e-6, 1.0, 500)
    f = jax.jit(lambda t: logdet_slq(KEY, lambda v: t * d * v, d, probes=2, steps=10).value)
    assert np.isfinite(f(1.0)) and np.isnan(jax.grad(f)(1.0))


def test_no_derivative_flows_through_the_errors():
    A = kernel(0.1, n=10)

    @jax.jit
    def of(t):
        logdet = logdet_slq(KEY, lambda v: t * (A @ v), A[0], probes=2)
        return logdet.value, logdet.standard_error, logdet.truncation

    slopes = jax.jit(jax.jacfwd(of))(1.0)
    np.testing.assert_allclose(slopes, [10.0, 0.0, 0.0], rtol=1e-12)  # log|t A| = n log t + log|A|


def test_unfit_settings_are_refused():
    A = kernel(0.1, n=5)
    with pytest.raises(ValueError, match="probes must be at least 2, to have a standard error, got 1"):
        estimate(A, probes=1)
    with pytest.raises(ValueError, match="steps must be at least 3"):
        estimate(A, steps=2)
    with pytest.raises(TypeError, match="floating or complex"):
        logdet_slq(KEY, lambda v: v, jnp.arange(3))
