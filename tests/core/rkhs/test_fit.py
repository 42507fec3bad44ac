"""Kernel ridge regression: the closed form, its derivatives, rival libraries, and failures that show."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as oracle
from sklearn.kernel_ridge import KernelRidge

from chainrule.core import Status, fixed_point, rkhs
from chainrule.core.rkhs import RKHSFun, fit, grad, norm_sq
from chainrule.core.testing import compilations

rng = np.random.default_rng(0)


def problem(n):
    X = rng.normal(size=(n, 2))
    return jnp.asarray(X), jnp.asarray(np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n))


X, Y = problem(300)
V, TRUTH = problem(50)


def closed(kernel, X, y, noise):
    K = kernel.gram(X)
    return RKHSFun(kernel, X, jnp.linalg.solve(K + noise * jnp.eye(len(y)), y))


@pytest.mark.parametrize(
    "n, kernel, noise",
    [
        (300, rkhs.SquaredExponential(0.7), 0.1),
        (300, rkhs.Matern32(0.7), 1e-3),
        (2000, rkhs.Matern52(1.0), 0.1),
    ],
)
def test_it_is_the_closed_form(n, kernel, noise):
    X, y = problem(n)
    f, stats = (found := fit(kernel, X, y, noise)).function, found.stats
    K = np.asarray(kernel.gram(X))
    exact = np.linalg.solve(K + noise * np.eye(n), y)
    assert stats.status == Status.CONVERGED and stats.steps > 0
    np.testing.assert_allclose(kernel.gram(V, X) @ f.coefficients, kernel.gram(V, X) @ exact, atol=1e-8)
    np.testing.assert_allclose(f.coefficients, exact, atol=1e-8 * np.abs(exact).max())


def test_it_is_the_posterior_mean_of_sklearn():
    f = fit(2.0 * rkhs.SquaredExponential(0.7), X, Y, 0.1).function
    kernel = 2.0 * oracle.RBF(0.7)
    gp = GaussianProcessRegressor(kernel, alpha=0.1, optimizer=None).fit(X, Y)
    np.testing.assert_allclose(f(V), gp.predict(np.asarray(V)), atol=1e-9)
    ridge = KernelRidge(kernel=lambda x, y: kernel(x[None], y[None])[0, 0], alpha=0.1).fit(X[:50], Y[:50])
    of_fifty = fit(2.0 * rkhs.SquaredExponential(0.7), X[:50], Y[:50], 0.1).function
    np.testing.assert_allclose(of_fifty(V), ridge.predict(np.asarray(V)), atol=1e-9)


def validation(found):
    return lambda log_lengthscale, log_noise, y: jnp.mean(
        (found(rkhs.SquaredExponential(jnp.exp(log_lengthscale)), X, y, jnp.exp(log_noise))(V) - TRUTH) ** 2
    )


def test_hypergradients_and_second_derivatives_are_those_of_the_closed_form():
    ours, exact = (validation(f) for f in (lambda *args: fit(*args).function, closed))
    gradient = jax.jit(jax.grad(exact, (0, 1, 2)))
    for a, b in zip(jax.jit(jax.grad(ours, (0, 1, 2)))(-0.4, -2.0, Y), gradient(-0.4, -2.0, Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)
    h = 1e-5
    second = (gradient(-0.4 + h, -2.0, Y)[0] - gradient(-0.4 - h, -2.0, Y)[0]) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.hessian(ours))(-0.4, -2.0, Y), second, rtol=1e-6)  # both modes


def test_it_is_where_the_functional_gradient_is_zero():
    noise, f = 0.1, fit(rkhs.Matern32(), X[:20], Y[:20], 0.1).function
    logprob = lambda f: -jnp.sum((f(X[:20]) - Y[:20]) ** 2) - noise * norm_sq(f)
    np.testing.assert_allclose(grad(logprob)(f).coefficients, 0, atol=1e-10)


def test_it_is_the_fixed_point_of_gradient_ascent_as_are_its_derivatives():
    """f = f + step grad(logprob)(f), solved as such, on the coefficients."""
    x, y, step = X[:6], Y[:6], 0.1

    def logprob(f, noise):
        return -jnp.sum((f(x) - y) ** 2) - noise * norm_sq(f)

    def ascend(a, coefficients):
        kernel, noise = a
        f = RKHSFun(kernel, x, coefficients)
        return (f + step * grad(logprob)(f, noise)).coefficients

    def ascended(l, noise):
        kernel = rkhs.SquaredExponential(l)
        return RKHSFun(kernel, x, fixed_point(ascend, (kernel, noise), jnp.zeros(6), rtol=1e-13).value)(V[0])

    def fitted(l, noise):
        return fit(rkhs.SquaredExponential(l), x, y, noise).function(V[0])

    both = [jax.jit(jax.value_and_grad(f, (0, 1)))(0.7, 0.5) for f in (ascended, fitted)]
    np.testing.assert_allclose(*map(lambda x: jnp.stack(jax.tree.leaves(x)), both), rtol=1e-9)


# Failures -----------------------------------------------------------------------------------------


def test_what_does_not_converge_is_nan_in_value_and_derivative():
    value = lambda noise, **settings: fit(rkhs.Matern32(), X, Y, noise, **settings).function(V[0])
    few = fit(rkhs.Matern32(), X, Y, 0.01, max_steps=3)
    assert few.stats.status == Status.MAX_STEPS and few.stats.steps == 3 and few.stats.residual > 1e-3
    assert np.isnan(few.function(V)).all()
    enough = int(fit(rkhs.Matern32(), X, Y, 0.01).stats.steps)
    assert fit(rkhs.Matern32(), X, Y, 0.01, max_steps=enough - 1).stats.status == Status.MAX_STEPS
    assert np.isnan(jax.jit(jax.grad(lambda noise: value(noise, max_steps=3)))(0.01))
    assert np.isfinite(value(0.01, max_steps=3, on_failure="ignore"))


def test_each_lane_fails_by_itself():
    noise = jnp.array([1.0, jnp.nan, 1e-4])
    found = jax.jit(jax.vmap(lambda noise: fit(rkhs.Matern32(), X[:50], Y[:50], noise, max_steps=60)))(noise)
    status = [Status(int(code)).name for code in found.stats.status]
    assert status == ["CONVERGED", "NONFINITE", "MAX_STEPS"]
    lanes = np.isnan(jax.vmap(lambda f: f(V[0]))(found.function))
    np.testing.assert_array_equal(lanes, [False, True, True])


def test_raise_raises_in_value_and_derivative():
    value = lambda noise: fit(rkhs.Matern32(), X, Y, noise, max_steps=3, on_failure="raise").function(V[0])
    for call in (value, jax.jit(jax.grad(value))):
        with pytest.raises(
            (RuntimeError, ValueError), match=r"MAX_STEPS after 3 steps.*Way out: raise max_steps"
        ):
            jax.block_until_ready(call(0.01))


def test_the_residual_that_counts_is_the_true_one():
    """So ill-conditioned that the residual that the recurrence carries along is another."""
    x, y = X.astype("float32"), Y.astype("float32")
    found = fit(rkhs.SquaredExponential(1.0), x, y, 1e-5, on_failure="ignore")  # 3100 steps
    K, a = np.asarray(found.function.kernel.gram(x), float), np.asarray(found.function.coefficients, float)
    np.testing.assert_allclose(found.stats.residual, np.linalg.norm(y - K @ a - 1e-5 * a), rtol=1e-2)
    assert found.stats.status == Status.MAX_STEPS


def test_rounding_alone_is_no_failure_while_it_is_small():
    kernel = rkhs.SquaredExponential(1.0)
    hard = fit(kernel, X, Y, 1e-3)
    assert hard.stats.status == Status.CONVERGED and hard.stats.residual > 2e-12 * np.linalg.norm(Y)
    np.testing.assert_allclose(hard.function(X), closed(kernel, X, Y, 1e-3)(X), atol=1e-8)
    too_hard = fit(kernel, X.astype("float32"), Y.astype("float32"), 1e-5)
    assert too_hard.stats.status == Status.MAX_STEPS and np.isnan(too_hard.function(X)).all()


def test_new_hyperparameters_compile_nothing():
    run = jax.jit(lambda l, noise, y: fit(rkhs.Matern32(l), X, y, noise).function(V))
    with compilations() as compiled:
        for l in (0.5, 1.0):
            run(l, 0.2 * l, l * Y)
    assert compiled["<lambda>"] == 1


def test_single_precision():
    single = lambda x: jnp.asarray(x, "float32")
    found = fit(rkhs.Matern32(0.7), single(X), single(Y), 0.1)
    assert found.stats.status == Status.CONVERGED and found.function.coefficients.dtype == jnp.float32
    np.testing.assert_allclose(found.function(single(V)), closed(rkhs.Matern32(0.7), X, Y, 0.1)(V), atol=1e-3)


def test_the_unit_of_y_does_not_matter():
    """Also where its squares overflow, or vanish, in single precision."""
    x, y, noise = X[:20].astype("float32"), Y[:20].astype("float32"), jnp.float32(0.1)
    found = jax.jit(lambda unit: fit(rkhs.Matern32(0.7), x, unit * y, noise, on_failure="raise"))
    weighted = jax.jit(
        jax.grad(lambda y, unit: unit * jnp.sum(fit(rkhs.Matern32(0.7), x, y, noise).function.coefficients))
    )
    one, gradient = found(jnp.float32(1)), weighted(y, jnp.float32(1))
    for unit in np.float32([2.0**100, 2.0**-100]):  # powers of two, so that nothing is rounded
        scaled = found(unit)
        assert scaled.stats.steps == one.stats.steps > 0
        np.testing.assert_array_equal(scaled.function.coefficients, unit * one.function.coefficients)
        np.testing.assert_array_equal(scaled.stats.residual, unit * one.stats.residual)
        np.testing.assert_array_equal(weighted(y, unit), unit * gradient)


@pytest.mark.parametrize("unit", [1e25, 1e-25])
def test_the_unit_of_the_kernel_does_not_matter(unit):
    x, y = X[:20].astype("float32"), Y[:20].astype("float32")
    one, scaled = (fit(c * rkhs.Matern32(0.7), x, y, 0.1 * c) for c in (1.0, unit))
    assert scaled.stats.status == Status.CONVERGED
    np.testing.assert_allclose(unit * scaled.function.coefficients, one.function.coefficients, rtol=1e-3)


def test_an_infinite_y_is_no_success():
    assert fit(rkhs.Matern32(), X, Y.at[1].set(jnp.inf), 0.1).stats.status == Status.NONFINITE


MISTAKES = {
    "X": (r"got \(300,\) and \(300,\)", dict(X=X[:, 0])),
    "y": (r"got \(300, 2\) and \(299,\)", dict(y=Y[1:])),
    "noise": ("noise must be positive, got 0.0", dict(noise=0.0)),
    "many noises": (r"one number, got shape \(300,\)", dict(noise=Y)),
    "on_failure": ("on_failure must be one of .*got 'warn'", dict(on_failure="warn")),
    "max_steps": ("max_steps must be at least 1, got 0", dict(max_steps=0)),
}


@pytest.mark.parametrize("message, arguments", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(message, arguments):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(fit)(**dict(kernel=rkhs.Linear(), X=X, y=Y, noise=0.1) | arguments)
