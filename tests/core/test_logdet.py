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


def test_single_precision_errs_within_the_standard_error():
    """Double precision: see the next test."""
    A = kernel(0.1, dtype=np.float32)
    logdet = estimate(A)
    assert logdet.value.dtype == np.float32 and logdet.status == Status.CONVERGED
    assert abs(logdet.value - np.linalg.slogdet(np.float64(A))[1]) < 3 * logdet.standard_error
    assert logdet.standard_error < 0.1 * abs(logdet.value)


def test_standard_errors_are_calibrated():
    """Over 30 keys, errors over standard errors are spread like a t distribution, 1.04 for 30 probes."""
    A = kernel(0.1)
    logdets = [estimate(A, key) for key in jax.random.split(jax.random.key(1), 30)]
    value, standard_error = np.array([(float(l.value), float(l.standard_error)) for l in logdets]).T
    z = (value - np.linalg.slogdet(A)[1]) / standard_error
    assert 0.75 < np.std(z) < 1.35 and abs(np.mean(z)) < 0.55
    # The variance is that of a sum over random signs: of what log A has off its diagonal.
    eigenvalues, Q = np.linalg.eigh(A)
    log = (Q * np.log(eigenvalues)) @ Q.T
    variance = 2 / 30 * (np.sum(log**2) - np.sum(np.diag(log) ** 2))
    assert np.mean(standard_error**2) == pytest.approx(variance, rel=0.2)


def test_a_diagonal_matrix_takes_one_look():
    d = jnp.linspace(1.0, 2.0, 50)
    logdet = logdet_slq(KEY, lambda v: d * v, d, probes=2, steps=25)
    np.testing.assert_allclose(logdet.value, jnp.sum(jnp.log(d)), rtol=1e-13)
    assert logdet.standard_error < 1e-12 and logdet.status == Status.CONVERGED


@pytest.mark.parametrize("n", [1, 5])
def test_small_matrices_are_exact_to_the_probes(n):
    """As many steps as rows: no truncation, whatever the quadratures with fewer say."""
    A = kernel(0.3, n=n)
    logdet = estimate(A, probes=400)
    assert logdet.status == Status.CONVERGED and logdet.truncation < 1e-12
    assert abs(logdet.value - np.linalg.slogdet(A)[1]) <= 4 * logdet.standard_error + 1e-12


def test_too_few_steps_are_told():
    """The spread of the probes does not know of the truncation, but the status does; the slope is NaN."""
    d = jnp.geomspace(1e-2, 1.0, 1000)

    @functools.partial(jax.jit, static_argnums=1)
    def error_and_slope(t, steps):
        def f(t):
            logdet = logdet_slq(KEY, lambda v: t * d * v, d, probes=2, steps=steps)
            return logdet.value, logdet.status

        (value, status), slope = jax.value_and_grad(f, has_aux=True)(t)
        return abs(value / jnp.sum(jnp.log(t * d)) - 1), status, slope

    error, status, slope = error_and_slope(0.5, 8)
    assert error > 1e-4 and status == Status.MAX_STEPS and np.isnan(slope)
    error, status, slope = error_and_slope(0.5, 60)
    assert error < 1e-8 and status == Status.CONVERGED and slope == pytest.approx(1000 / 0.5, rel=1e-4)


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

    @jax.jit
    def f(t, swap, key):
        logdet = logdet_slq(key, lambda v: t**2 * v[swap][swap], jnp.zeros(4), probes=2)
        return logdet.value + jnp.array([0.0, 1.0]) * (logdet.standard_error + logdet.truncation)

    slopes = jax.jacrev(f)(3.0, jnp.array([1, 0, 2, 3]), KEY)
    np.testing.assert_allclose(slopes, [8 / 3, 8 / 3], rtol=1e-12)  # none flows through the errors


def test_unfit_settings_are_refused():
    A = kernel(0.1, n=5)
    with pytest.raises(ValueError, match="probes must be at least 2, to have a standard error, got 1"):
        estimate(A, probes=1)
    with pytest.raises(ValueError, match="steps must be at least 3"):
        estimate(A, steps=2)
    with pytest.raises(TypeError, match="floating or complex"):
        logdet_slq(KEY, lambda v: v, jnp.arange(3))


def test_devices_may_have_matrices_of_their_own():
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec("devices")

    def of_device(d):
        value = lambda d: logdet_slq(KEY, lambda v: d[0] * v, jnp.ones(4), probes=2, steps=4).value
        return jnp.full(1, value(d)), jax.grad(value)(d), jax.jvp(value, (d,), (d,))[1][None]

    d = jnp.arange(1.0, 5.0)[None]
    value, gradient, slope = jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=P, out_specs=P))(d)
    np.testing.assert_allclose(value, np.log(24), rtol=1e-12)
    np.testing.assert_allclose(gradient, 1 / d, rtol=1e-9)
    np.testing.assert_allclose(slope, 4, rtol=1e-9)
