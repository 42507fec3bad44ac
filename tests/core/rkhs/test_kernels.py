"""Kernels: values against sklearn, derivatives also where points coincide, and what is no kernel."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import kernels as oracle

from chainrule.core import rkhs
from chainrule.core.testing import compilations

rng = np.random.default_rng(0)
X, Y = jnp.asarray(rng.normal(size=(2, 6, 2)))
ARD = np.array([0.7, 1.3])

CASES = {
    "SquaredExponential": (rkhs.SquaredExponential(0.7), oracle.RBF(0.7)),
    "ARD": (rkhs.SquaredExponential(ARD), oracle.RBF(ARD)),
    "Matern12": (rkhs.Matern12(0.7), oracle.Matern(0.7, nu=0.5)),
    "Matern32": (rkhs.Matern32(0.7), oracle.Matern(0.7, nu=1.5)),
    "Matern52": (rkhs.Matern52(ARD), oracle.Matern(ARD, nu=2.5)),
    "RationalQuadratic": (rkhs.RationalQuadratic(0.7, 1.7), oracle.RationalQuadratic(0.7, 1.7)),
    "Linear": (rkhs.Linear(2.0), 0.25 * oracle.DotProduct(0.0)),
    "Polynomial": (rkhs.Polynomial(3, 0.5), oracle.DotProduct(0.5**0.5) ** 3),
    "Constant": (rkhs.Constant(1.7), oracle.ConstantKernel(1.7)),
    "sum": (rkhs.Linear() + rkhs.Matern32(0.7), oracle.DotProduct(0.0) + oracle.Matern(0.7, nu=1.5)),
    "product": (rkhs.Linear() * rkhs.Matern32(0.7), oracle.DotProduct(0.0) * oracle.Matern(0.7, nu=1.5)),
    "multiple": (np.float64(2.0) * rkhs.SquaredExponential(0.7), 2.0 * oracle.RBF(0.7)),
}
STATIONARY = {  # minus the second derivative at distance zero, for lengthscale one
    rkhs.SquaredExponential: 1.0,
    rkhs.Matern32: 3.0,
    rkhs.Matern52: 5 / 3,
    rkhs.RationalQuadratic: 1.0,
}


@pytest.mark.parametrize("ours, theirs", CASES.values(), ids=CASES)
def test_values_agree_with_sklearn(ours, theirs):
    x, y = np.asarray(X), np.asarray(Y)
    diagonal, one = jax.jit(lambda kernel: (kernel.diagonal(X), kernel(X[0], Y[1])))(ours)
    np.testing.assert_allclose(ours.gram(X, Y), theirs(x, y), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(diagonal, theirs.diag(x), rtol=1e-12)
    np.testing.assert_allclose(one, theirs(x, y)[0, 1], rtol=1e-12, atol=1e-14)


def test_periodic_agrees_with_sklearn_in_each_dimension():
    x, y = np.asarray(X), np.asarray(Y)
    theirs = [oracle.ExpSineSquared(0.7, period)(x[:, [d]], y[:, [d]]) for d, period in enumerate((1.3, 2.1))]
    np.testing.assert_allclose(rkhs.Periodic(0.7, np.array([1.3, 2.1])).gram(X, Y), theirs[0] * theirs[1])


@pytest.mark.parametrize("kernel", [*(ours for ours, _ in CASES.values()), rkhs.Periodic(0.7, 1.3)])
def test_gram_matrices_are_positive_semidefinite(kernel):
    gram = kernel.gram(X)
    np.testing.assert_array_equal(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() >= -1e-12 * np.trace(gram)


def test_two_derivatives_of_every_kernel_agree_with_differences():
    """Of the sum of all, along a random direction in the space of hyperparameters and points."""
    k = sum((kernel for kernel, _ in list(CASES.values())[1:]), CASES["SquaredExponential"][0])
    leaves, tree = jax.tree.flatten((k + rkhs.Periodic(0.7, 1.3) * rkhs.Constant(0.4), X[0], Y[0]))
    direction = [jnp.asarray(rng.normal(size=np.shape(leaf))) for leaf in leaves]

    @jax.jit
    def along(t):
        kernel, x, y = jax.tree.unflatten(tree, [a + t * d for a, d in zip(leaves, direction, strict=True)])
        return kernel(x, y)

    first, second = jax.jit(lambda t: (jax.grad(along)(t), jax.grad(jax.grad(along))(t)))(0.0)
    h = 1e-3  # differences of fourth order err by h^4 of the fifth derivative
    values = np.array([along(j * h) for j in range(-2, 3)])
    np.testing.assert_allclose(first, values @ [1, -8, 0, 8, -1] / (12 * h), rtol=1e-7)
    np.testing.assert_allclose(second, values @ [-1, 16, -30, 16, -1] / (12 * h**2), rtol=1e-6)


@pytest.mark.parametrize("family, curvature", STATIONARY.items())
def test_derivatives_are_right_where_points_coincide(family, curvature):
    value = lambda k, x, y: k(x, y)

    @jax.jit
    def derivatives(k, x):
        return {
            "x": jax.grad(value, 1)(k, x, x),
            "xx": jax.hessian(value, 1)(k, x, x),
            "xy": jax.jacrev(jax.grad(value, 1), 2)(k, x, x),
            "l": (jax.grad(value)(k, x, x), jax.hessian(value)(k, x, x)),
            "xxl": jax.grad(lambda k: jax.hessian(value, 1)(k, x, x)[0, 0])(k).lengthscale,
        }

    found = derivatives(family(ARD), X[0])
    hessian = -curvature * np.diag(ARD**-2.0)
    np.testing.assert_array_equal(found["x"], 0)
    np.testing.assert_allclose(found["xx"], hessian, rtol=1e-14)
    np.testing.assert_allclose(found["xy"], -hessian, rtol=1e-14)
    for leaf in jax.tree.leaves(found["l"]):
        np.testing.assert_array_equal(leaf, 0)  # k(x, x) = 1 for every lengthscale
    np.testing.assert_allclose(found["xxl"], [2 * curvature * ARD[0] ** -3.0, 0], rtol=1e-13)


def test_matern12_takes_the_mean_of_both_sides_of_its_kink():
    k, x = rkhs.Matern12(ARD), X[0]
    np.testing.assert_array_equal(jax.grad(lambda x: k(x, X[0]))(x), 0)
    assert np.isfinite(jax.jit(jax.hessian(lambda x: k(x, X[0])))(x)).all()
    np.testing.assert_array_equal(jax.grad(lambda k: k(x, x))(k).lengthscale, 0)


@pytest.mark.parametrize("family", [*STATIONARY, rkhs.Matern12, rkhs.Periodic])
def test_far_from_the_origin_no_digits_are_lost(family):
    near = rng.normal(size=(5, 2)).astype("float32") + np.float32(1e4)  # a float32 step there is 1e-3
    gram = family(0.7).gram(jnp.asarray(near))
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, family(0.7).gram(near.astype("float64")), atol=3e-6)


def test_new_hyperparameters_compile_nothing():
    @jax.jit
    def trace_of(kernel):
        return jnp.trace(kernel.gram(X))

    with compilations() as compiled:
        values = [trace_of(a * rkhs.Matern32(l)) for a, l in ((1.0, 2.0), (3.0, 0.1))]
    assert compiled["trace_of"] == 1
    np.testing.assert_allclose(values, [6.0, 18.0])


def test_a_derivative_with_respect_to_a_kernel_is_a_kernel():
    gradient = jax.grad(lambda k: k(X[0], Y[0]))(2.0 * rkhs.SquaredExponential(0.7))
    assert isinstance(gradient, rkhs.Scaled) and isinstance(gradient.kernel, rkhs.SquaredExponential)
    np.testing.assert_allclose(gradient.factor, rkhs.SquaredExponential(0.7)(X[0], Y[0]))
    smaller = jax.tree.map(jnp.subtract, 2.0 * rkhs.SquaredExponential(0.7), gradient)
    assert isinstance(smaller, rkhs.Scaled)  # one step of descent, whatever the signs


def test_a_kernel_of_ones_own():
    @rkhs.register
    class Cosine(rkhs.Kernel):
        period: Any = 1.0

        def __call__(self, x, y):
            return jnp.cos(2 * jnp.pi * (x - y)[0] / self.period)

    f = rkhs.RKHSFun(2.0 * Cosine(3.0), X[:, :1], jnp.ones(6))
    np.testing.assert_allclose(f(jnp.zeros(1)), 2 * np.cos(2 * np.pi * X[:, 0] / 3).sum(), rtol=1e-12)


def test_a_degree_is_any_integer():
    assert type(rkhs.Polynomial(np.int64(3)).degree) is int
    with pytest.raises(ValueError, match="must be a whole number from 1 on, got 2"):
        inspect.unwrap(rkhs.Polynomial.__init__)(object.__new__(rkhs.Polynomial), 2.0)


def test_python_sums_kernels():
    k = sum([rkhs.Linear(), rkhs.Matern32()])
    assert k(X[0], Y[0]) == rkhs.Linear()(X[0], Y[0]) + rkhs.Matern32()(X[0], Y[0])


MISTAKES = {
    "zero lengthscale": (lambda: rkhs.Matern32(0.0), "Matern32: lengthscale must be positive, got 0.0"),
    "negative ARD": (lambda: rkhs.Linear([1.0, -1.0]), "Linear: lengthscale must be positive, got .*-1"),
    "NaN": (lambda: rkhs.RationalQuadratic(1.0, float("nan")), "alpha must be positive, got nan"),
    "negative multiple": (lambda: -1.0 * rkhs.Linear(), "Scaled: factor must be at least 0, got -1.0"),
    "many multiples": (lambda: np.ones(2) * rkhs.Linear(), r"one number, got shape \(2,\)"),
    "no degree": (lambda: rkhs.Polynomial(0), "degree must be a whole number from 1 on, got 0"),
    "other dimension": (lambda: rkhs.Linear(np.ones(3)).gram(X), r"has shape \(3,\), but points have \(2,\)"),
    "points of two dimensions": (lambda: rkhs.Matern12().gram(X, Y[:, :1]), r"got \(2,\) and \(1,\).*k.gram"),
    "a number": (
        lambda: (2.0 * rkhs.Linear())(X[0], X[0, 0]),
        r"Scaled: .*shape \(dim,\), got \(2,\) and \(\)",
    ),
    "numbers": (lambda: rkhs.Constant().diagonal(X[:, 0]), r"got \(\) and \(\)"),
}


@pytest.mark.parametrize("make, message", MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_kernel_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
