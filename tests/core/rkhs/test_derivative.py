"""The gradient with respect to a function: closed forms, its definition, and all that a loss may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chainrule.core import rkhs
from chainrule.core.rkhs import RKHSFun, grad, inner, norm_sq, value_and_grad
from chainrule.core.testing import compilations

rng = np.random.default_rng(0)
K = rkhs.SquaredExponential(0.8)
X = jnp.asarray(rng.normal(size=(4, 2)))
Y = jnp.asarray(rng.normal(size=4))
Z = jnp.asarray(rng.normal(size=(20, 2)))  # where functions are compared
F = RKHSFun(K, jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=3)))
G = RKHSFun(K, jnp.asarray(rng.normal(size=(2, 2))), jnp.asarray(rng.normal(size=2)))


def sizes(f):
    return [len(block.points) for block in f.blocks]


def assert_same_function(f, g, rtol=1e-12):
    np.testing.assert_allclose(f(Z), g(Z), rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(g(Z)))))


def scanned(f, X, Y):
    return lax.scan(lambda total, each: (total + (f(each[0]) - each[1]) ** 2, None), 0.0, (X, Y))[0]


def scanned_twice(f, X, Y):
    rows = X.reshape(2, 2, 2), Y.reshape(2, 2)
    return lax.scan(lambda total, row: (total + scanned(f, *row), None), 0.0, rows)[0]


def scanned_backwards(f, X, Y):
    step = lambda i, each: (i - 1, (f(each) - Y[i]) ** 2)
    return jnp.sum(lax.scan(step, len(X) - 1, X, reverse=True)[1])


def branching(f, X, Y):
    other_branch = lambda x, y: (f(x + 100) + 2 * f(x) - y) ** 2  # with other sites
    square = lambda x, y: (f(x) - y) ** 2
    return sum(lax.cond(x[0] > -100, square, other_branch, x, y) for x, y in zip(X, Y, strict=True))


def with_checkpoint(f, X, Y):
    return jax.checkpoint(lambda f, X: jnp.sum((f(X) - Y) ** 2))(f, X)


def squares(f, X, Y):
    return jnp.sum((f(X) - Y) ** 2)


LOSSES = {  # and the blocks of atoms that the gradient should have
    "batch": (squares, [4]),
    "higher batch": (lambda f, X, Y: jnp.sum((f(X.reshape(2, 2, 2)) - Y.reshape(2, 2)) ** 2), [4]),
    "python loop": (lambda f, X, Y: sum((f(x) - y) ** 2 for x, y in zip(X, Y, strict=True)), [1] * 4),
    "vmap": (lambda f, X, Y: jnp.sum((jax.vmap(f)(X) - Y) ** 2), [4]),
    "vmap of another axis": (lambda f, X, Y: jnp.sum((jax.vmap(f, 1)(X.T) - Y) ** 2), [4]),
    "vmap of f as well": (lambda f, X, Y: jnp.sum(jax.vmap(squares, (None, 0, 0))(f, X, Y)), [4]),
    "jit": (jax.jit(squares), [4]),
    "jit that returns f": (lambda f, X, Y: squares(jax.jit(lambda f: 2 * f)(f) / 2.0, X, Y), [4]),
    "scan": (scanned, [4]),
    "scan in scan": (scanned_twice, [4]),
    "scan backwards": (scanned_backwards, [4]),
    "scan in jit in vmap": (lambda f, X, Y: jax.vmap(lambda X: jax.jit(scanned)(f, X, Y))(X[None])[0], [4]),
    "fori_loop": (lambda f, X, Y: lax.fori_loop(0, 4, lambda i, s: s + (f(X[i]) - Y[i]) ** 2, 0.0), [4]),
    "cond": (branching, [1] * 5),  # what was not taken has coefficient zero, at zero
    "checkpoint": (with_checkpoint, [4]),
    "sum": (lambda f, X, Y: squares(f - G, X, Y - G(X)), [4]),
    "multiple": (lambda f, X, Y: squares(0.5 * f + f / 2.0 + f - f, X, Y), [4]),
    "custom derivatives of values": (lambda f, X, Y: jnp.sum(jax.nn.relu((f(X) - Y) ** 2)), [4]),
}


@pytest.mark.parametrize("loss, blocks", LOSSES.values(), ids=LOSSES)
def test_squares_have_the_gradient_of_the_closed_form(loss, blocks):
    value, g = value_and_grad(loss)(F, X, Y)
    exact = RKHSFun(K, X, 2 * (F(X) - Y))
    np.testing.assert_allclose(value, squares(F, X, Y), rtol=1e-13)
    assert sizes(g) == blocks
    assert_same_function(g, exact)


def test_inner_products_and_norms_have_their_own_pullbacks():
    assert_same_function(grad(lambda f: inner(f, G))(F), G)
    assert_same_function(grad(lambda f: inner(G, f))(F), G)
    assert_same_function(grad(norm_sq)(F), 2 * F)
    assert_same_function(grad(lambda f: jnp.sin(norm_sq(3 * f - G)))(F), grad_of_sine())
    twice = grad(lambda f: lax.scan(lambda s, _: (s + norm_sq(f), None), 0.0, None, length=2)[0])
    assert_same_function(twice(F), 4 * F)


def grad_of_sine():
    h = 3 * F - G
    return 6 * jnp.cos(norm_sq(h)) * h


# <grad L(f), g> = d/dt L(f + t g) --------------------------------------------------------------


def conditional_walk(f, x):
    step = lambda x, _: (lax.cond(f(x) > 0, lambda: x + f(x), lambda: jnp.sin(x) * f(X[0])), f(x))
    return lax.scan(step, x, None, 3)[1] @ Y[:3]


CURIOUS = {
    "at f of f": lambda f: f(jnp.stack([f(X[0]), f(X[1]) ** 2])) + f(X[2]),
    "scaled by itself": lambda f: (f(X[0]) * f + norm_sq(f) * G)(X[1]) * norm_sq(f(X[2]) * f - G),
    "points carried by scan": lambda f: (
        lax.scan(lambda x, _: (jnp.sin(x) + f(x), f(x)), X[0], None, 3)[1] @ Y[:3]
    ),
    "branch chosen by f": lambda f: lax.cond(f(X[0]) > 0, lambda: f(X[1]) ** 3, lambda: norm_sq(f) * f(X[2])),
    "switch": lambda f: sum(
        lax.switch(i, [lambda: f(X[0]), lambda: 2.0, lambda: f(X) @ Y]) ** 2 for i in range(3)
    ),
    "cond under vmap": lambda f: jnp.sum(
        jax.vmap(lambda x: lax.cond(f(x) > 0, lambda: f(x) ** 2 * f(Z[0]), lambda: norm_sq(f) * f(2 * x)))(X)
    ),
    "cond within scan within cond under vmap": lambda f: jnp.sum(
        jax.vmap(lambda x: lax.cond(x[1] > 0, lambda: conditional_walk(f, x), lambda: f(x)))(X)
    ),
    "held fixed by a cond under vmap": lambda f: jnp.sum(
        jax.vmap(lambda x: lax.cond(x[0] > 0, lambda f: f, lax.stop_gradient, f)(x) ** 2)(X)
    ),
    "attention": lambda f: jax.nn.softmax(f(X)) @ jnp.exp(f(X.reshape(2, 2, 2))).reshape(4),
    "its own gradient": lambda f: norm_sq(grad(lambda f: jnp.sum(f(X) ** 4) + norm_sq(f) * f(Z[0]))(f)),
    "the argument of another gradient": lambda f: norm_sq(
        grad(lambda g: squares(g, X, f(X)) + inner(g, G) * f(X[0]))(2 * G)
    ),
    "a step of its own": lambda f: squares(f - 0.3 * grad(squares)(f, X[:2], Y[:2]), X[2:], Y[2:]),
}


@pytest.mark.parametrize("loss", CURIOUS.values(), ids=CURIOUS)
def test_the_inner_product_with_the_gradient_is_the_directional_derivative(loss):
    value, slope = jax.jit(lambda: jax.jvp(lambda t: loss(F + t * G), (0.0,), (1.0,)))()
    found, g = jax.jit(lambda: value_and_grad(loss)(F))()
    np.testing.assert_allclose(found, value, rtol=1e-12)
    np.testing.assert_allclose(inner(g, G), slope, rtol=1e-11)


# Around the gradient ------------------------------------------------------------------------------


def test_within_jit_new_values_compile_nothing():
    step = jax.jit(lambda f, X, Y: grad(lambda f: squares(f, X, Y) + norm_sq(f))(f))
    with compilations() as compiled:
        for c in (1.0, 2.0):
            assert_same_function(step(c * F, X, c * Y), 2 * RKHSFun(K, X, c * F(X) - c * Y) + 2 * c * F)
    assert compiled["<lambda>"] == 1


def test_within_vmap_over_arguments_and_over_functions():
    targets = jnp.stack([Y, 2 * Y])
    several = jax.vmap(lambda c, y: grad(squares)(c * F, X, y))(jnp.array([1.0, 3.0]), targets)
    for i, c in enumerate((1.0, 3.0)):
        assert_same_function(jax.tree.map(lambda leaf: leaf[i], several), grad(squares)(c * F, X, targets[i]))  # noqa: B023


def test_within_scan():
    values = lax.scan(lambda _, y: (None, grad(squares)(F, X, y)(Z)), None, jnp.stack([Y, 2 * Y]))[1]
    np.testing.assert_allclose(values[1], grad(squares)(F, X, 2 * Y)(Z), rtol=1e-12)


def test_derivatives_of_the_gradient_with_respect_to_other_arguments():
    """|2 sum_i (f(x_i) - y_i) k(x_i, .)|^2 = 4 r^T K r."""

    def closed(l, X, Y):
        kernel = rkhs.SquaredExponential(l)
        r = RKHSFun(kernel, F.points, F.coefficients)(X) - Y
        return 4 * r @ kernel.gram(X) @ r

    def by_gradient(l, X, Y):
        f = RKHSFun(rkhs.SquaredExponential(l), F.points, F.coefficients)
        return norm_sq(grad(squares)(f, X, Y))

    for a, b in zip(
        jax.jit(jax.grad(by_gradient, (0, 1, 2)))(0.8, X, Y),
        jax.jit(jax.grad(closed, (0, 1, 2)))(0.8, X, Y),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_several_functions_at_once():
    loss = lambda f, c, others: (
        f(X[0]) * others["g"](X[1]) + inner(f, others["g"]) * c + norm_sq(f - others["g"])
    )
    of_f, others = grad(loss, argnums=(0, -1))(F, 3.0, {"g": G})
    atom = lambda x: RKHSFun(K, x[None], jnp.ones(1))
    assert_same_function(of_f, G(X[1]) * atom(X[0]) + 3 * G + 2 * (F - G))
    assert_same_function(others["g"], F(X[0]) * atom(X[1]) + 3 * F + 2 * (G - F))


def test_aux_comes_back_with_f_in_place_and_without_atoms():
    def loss(f, X):
        return jnp.sum(f(X)), {"f": f, "twice": 2 * f + G, "elsewhere": f(Z), "norm": norm_sq(f)}

    (value, aux), g = value_and_grad(loss, has_aux=True)(F, X)
    assert sizes(g) == [4] and value == jnp.sum(F(X))
    assert_same_function(aux["f"], F)
    assert_same_function(aux["twice"], 2 * F + G)
    np.testing.assert_array_equal(aux["elsewhere"], F(Z))
    of_jitted, _ = grad(jax.jit(loss), has_aux=True)(F, X)
    assert sizes(of_jitted) == [4]


def test_stop_gradient_stops():
    """With a function that is held fixed, as the target of another."""
    loss = lambda f: jnp.sum((f(X) - lax.stop_gradient(f + G)(Z[:4])) ** 2) + inner(f, lax.stop_gradient(f))
    g = grad(loss)(F)
    assert sizes(g) == [4, 3]
    assert_same_function(g, RKHSFun(K, X, 2 * (F(X) - (F + G)(Z[:4]))) + F)


def test_a_branch_not_taken_has_atoms_with_coefficient_zero():
    g = grad(lambda f, x: lax.cond(x[0] > 0, lambda: f(x), lambda: jnp.sum(f(X))))(F, jnp.ones(2))
    assert sizes(g) == [4, 1] or sizes(g) == [1, 4]
    np.testing.assert_array_equal(np.sort(g.coefficients), [0, 0, 0, 0, 1])
    assert_same_function(g, RKHSFun(K, jnp.ones((1, 2)), jnp.ones(1)))


def test_a_loss_without_f_has_gradient_zero():
    value, g = value_and_grad(lambda f, c: c**2)(F, 3.0)
    assert value == 9.0 and sizes(g) == []


def test_a_loss_of_the_zero_function():
    zero = RKHSFun(K)
    g = grad(lambda f: squares(f, X, Y) + norm_sq(f))(zero)
    assert sizes(g) == [4] and g.dim == 2
    assert_same_function(g, RKHSFun(K, X, -2 * Y))


def test_single_precision_stays_single():
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), tree)
    with jax.numpy_dtype_promotion("strict"):
        g = grad(lambda f, X, Y: squares(f, X, Y) + norm_sq(f))(single(F), single(X), single(Y))
    assert {leaf.dtype for leaf in jax.tree.leaves(g)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(g(single(Z)), (RKHSFun(K, X, 2 * (F(X) - Y)) + 2 * F)(Z), rtol=1e-4, atol=1e-5)


def test_sites_of_a_wider_dtype_than_f():
    f = RKHSFun(rkhs.SquaredExponential(0.8), F.points.astype("float32"), F.coefficients.astype("float32"))
    g = grad(squares)(f, X, Y)
    assert f.dtype == jnp.float32 and g.dtype == jnp.float64
    assert_same_function(g, RKHSFun(K, X, 2 * (f(X) - Y)))
