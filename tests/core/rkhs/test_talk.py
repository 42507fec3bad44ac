"""The talk's regression runs as on its slide, and its function keeps the five atoms that the data have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import rkhs
from chainrule.core.rkhs import RKHSFun, grad, merge, norm_sq
from chainrule.core.testing import compilations

sq_exp_kernel = rkhs.SquaredExponential()
X = jnp.arange(5.0)[:, None]
Y = jnp.array([1.0, 2.0, 3.0, 2.0, 1.0])
DATA = list(zip(X, Y, strict=True))


def logprob(f, data):
    loglik = -sum((f(x) - y) ** 2 for x, y in data)
    logprior = -norm_sq(f)
    return loglik + logprior


def of_arrays(f, data):
    return -jnp.sum((f(data[0]) - data[1]) ** 2) - norm_sq(f)


def of_scan(f, data):
    terms = lambda total, each: (total - (f(each[0]) - each[1]) ** 2, None)
    return jax.lax.scan(terms, 0.0, data)[0] - norm_sq(f)


def of_slices(f, data):
    return logprob(f, list(zip(*data, strict=True)))


def train(logprob, data, steps=30):
    f = RKHSFun(sq_exp_kernel)
    for _ in range(steps):
        f = f + 0.01 * grad(logprob)(f, data)
    return f


def coefficients(steps, f=0.0):
    """The same recursion for the coefficients: a <- a - 0.02 (K a - y) - 0.02 a."""
    K, a = np.asarray(sq_exp_kernel.gram(X)), np.zeros(5) + f
    for _ in range(steps):
        a = a - 0.02 * (K @ a - np.asarray(Y)) - 0.02 * a
    return a


def sizes(f):
    return [len(block.points) for block in f.blocks]


def test_the_slide_runs_as_written():
    f = train(logprob, DATA)
    np.testing.assert_array_equal(f.points, X)
    np.testing.assert_allclose(f.coefficients, coefficients(30), rtol=1e-13)


@pytest.mark.parametrize("logprob", [of_arrays, of_scan, of_slices])
def test_however_the_data_are_gone_through(logprob):
    f = train(logprob, (X, Y), steps=4)
    np.testing.assert_array_equal(f.points, X)
    np.testing.assert_allclose(f.coefficients, coefficients(4), rtol=1e-13)


@pytest.mark.parametrize(
    "logprob, data",
    [(logprob, DATA), (of_arrays, (X, Y)), (of_scan, (X, Y)), (of_slices, (X, Y)), (of_slices, (X * 1, Y))],
)
def test_unrolled_within_jit(logprob, data):
    f = jax.jit(lambda data: train(logprob, data, steps=3))(data)
    assert sum(sizes(f)) == 5
    np.testing.assert_allclose(f.coefficients, coefficients(3), rtol=1e-13)


def test_unrolled_within_jit_over_constant_data():
    f = jax.jit(lambda y: train(of_slices, (X, y), steps=3))(Y)
    assert sum(sizes(f)) == 5
    np.testing.assert_allclose(f.coefficients, coefficients(3), rtol=1e-13)


def test_unrolled_within_jit_at_points_that_the_loss_names():
    loss = lambda f, _: f(jnp.array([7.0])) ** 2 + f(np.array([3.0])) - norm_sq(f)
    assert sizes(jax.jit(lambda: train(loss, None, steps=3))()) == [1, 1]


def test_from_a_function_with_atoms_of_its_own():
    start = RKHSFun(sq_exp_kernel, jnp.array([[0.5], [7.0]]), jnp.ones(2))
    f = start
    for _ in range(3):
        f = f + 0.01 * grad(of_arrays)(f, (X, Y))
    assert sizes(f) == [2, 5]
    np.testing.assert_allclose(f.coefficients[:2], 0.98**3, rtol=1e-13)  # of the norm alone


def test_a_jitted_gradient_compiles_twice():
    """Once for the zero function, once for that with five atoms; the sum outside recognises the points."""

    @jax.jit
    def gradient(f, data):
        return grad(of_arrays)(f, data)

    f = RKHSFun(sq_exp_kernel, X[:0], Y[:0])
    with compilations() as compiled:
        for _ in range(5):
            f = f + 0.01 * gradient(f, (X, Y))
    assert compiled["gradient"] == 2 and sum(sizes(f)) == 5
    np.testing.assert_allclose(merge(f).coefficients, coefficients(5), rtol=1e-13)


def test_a_jitted_step_compiles_twice_if_merged():
    @jax.jit
    def step(f, data):
        return f + 0.01 * grad(of_arrays)(f, data)

    f = RKHSFun(sq_exp_kernel)
    with compilations() as compiled:
        for _ in range(5):
            f = merge(step(f, (X, Y)))
    assert compiled["step"] == 2 and sizes(f) == [5]
    np.testing.assert_allclose(f.coefficients, coefficients(5), rtol=1e-13)


def test_minibatches_keep_to_the_points_there_are():
    f = RKHSFun(sq_exp_kernel)
    for rows in ([0, 1, 2], [2, 3, 4], [4, 0, 1]):
        f = merge(f + 0.01 * grad(of_arrays)(f, (X[jnp.array(rows)], Y[jnp.array(rows)])))
    np.testing.assert_array_equal(f.points, X)


def test_single_precision():
    single = lambda x: jnp.asarray(x, "float32")
    f = train(of_arrays, (single(X), single(Y)), steps=10)
    assert f.coefficients.dtype == jnp.float32 and sizes(f) == [5]
    np.testing.assert_allclose(f.coefficients, coefficients(10), rtol=1e-5)
