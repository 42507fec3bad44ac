"""Functions as values: the vector space, inner products, and which atoms are put together."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import rkhs
from chainrule.core.rkhs import RKHSFun, inner, merge, norm_sq
from chainrule.core.testing import compilations

rng = np.random.default_rng(0)
K = rkhs.Matern52(0.8)
P, Q, X = (jnp.asarray(rng.normal(size=(n, 2))) for n in (3, 4, 5))
A, B = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=4))
F, G = RKHSFun(K, P, A), RKHSFun(K, Q, B)


def sizes(f):
    return [len(block.points) for block in f.blocks]


def test_values_are_sums_over_atoms():
    values = np.asarray(K.gram(X, P)) @ np.asarray(A)
    np.testing.assert_allclose(F(X), values, rtol=1e-13)
    np.testing.assert_allclose(F(X[0]), values[0], rtol=1e-13)
    np.testing.assert_allclose(F(X.reshape(5, 1, 2)), values[:, None], rtol=1e-13)
    np.testing.assert_allclose(jax.jit(jax.vmap(F))(X), values, rtol=1e-13)
    assert F(jnp.zeros((0, 2))).shape == (0,)


def test_sums_and_multiples_are_taken_point_by_point():
    h = 2.0 * F - G / 4.0 + -F + np.float64(0.5) * G + sum([F, G])
    np.testing.assert_allclose(h(X), 2 * F(X) + 1.25 * G(X), rtol=1e-13)
    assert sizes(h) == [3, 4]
    np.testing.assert_array_equal((F - F)(X), 0)


def test_inner_products_are_bilinear_forms_of_the_gram_matrix():
    np.testing.assert_allclose(inner(F, G), np.asarray(A @ K.gram(P, Q) @ B), rtol=1e-13)
    np.testing.assert_allclose(norm_sq(F + G), norm_sq(F) + 2 * inner(G, F) + norm_sq(G), rtol=1e-13)
    assert norm_sq(F) > 0


def test_the_kernel_reproduces():
    atom = RKHSFun(K, X[:1], jnp.ones(1))
    np.testing.assert_allclose(inner(atom, F), F(X[0]), rtol=1e-13)


@pytest.mark.parametrize("zero", [RKHSFun(K), RKHSFun.zero(K, 2)])
def test_the_zero_function_has_no_atoms(zero):
    assert sizes(zero) == [] and zero.points.shape[0] == 0 == len(zero.coefficients)
    np.testing.assert_array_equal(zero(X), np.zeros(5))
    assert norm_sq(zero) == inner(zero, F) == 0 and sizes(zero + F) == [3]
    assert zero(X.astype("float32")).dtype == jnp.float32
    assert merge(3.0 * zero).blocks == ()


def test_derivatives_with_respect_to_point_kernel_and_atoms():
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=np.shape(leaf))), (F, X[0]))

    @jax.jit
    def along(t):
        f, x = jax.tree.map(lambda a, d: a + t * d, (F, X[0]), direction)
        return f(x) + norm_sq(f)

    h = 1e-3
    values = np.array([along(j * h) for j in (-2, -1, 1, 2)])
    np.testing.assert_allclose(jax.grad(along)(0.0), values @ [1, -8, 8, -1] / (12 * h), rtol=1e-7)


def test_second_derivative_at_an_atom():
    f = RKHSFun(rkhs.Matern32(0.5), P, A)
    others = RKHSFun(f.kernel, P[1:], A[1:])
    own = -3 / 0.5**2 * A[0] * np.eye(2)
    np.testing.assert_allclose(jax.hessian(f)(P[0]), own + jax.hessian(others)(P[0]), rtol=1e-12)


# Which atoms are put together ---------------------------------------------------------------------


def test_outside_jit_blocks_of_equal_points_are_added():
    h = F + RKHSFun(K, np.array(P), B[:3])  # another array with the same values
    assert sizes(h) == [3]
    np.testing.assert_allclose(h.coefficients, A + B[:3])
    assert sizes(F + RKHSFun(K, P + 1e-15, A)) == [3, 3]
    assert sizes(F + RKHSFun(K, P.astype("float32"), A)) == [3, 3]
    zeros = RKHSFun(K, jnp.zeros((1, 2)), A[:1])
    assert sizes(zeros + RKHSFun(K, -jnp.zeros((1, 2)), A[:1])) == [1]  # 0 == -0
    nowhere = RKHSFun(K, jnp.full((1, 2), jnp.nan), A[:1])
    assert sizes(nowhere + nowhere) == [1] and sizes(nowhere + RKHSFun(K, nowhere.points + 0, A[:1])) == [
        1,
        1,
    ]


def test_within_jit_blocks_of_one_array_are_added():
    @jax.jit
    def total(p, q):
        f = RKHSFun(K, p, A) + RKHSFun(K, q, A)
        return f + 2.0 * RKHSFun(K, p, A) + f

    h = total(P, P)  # two arguments: equal, but it cannot know
    assert sizes(h) == [3, 3]
    np.testing.assert_allclose(h(X), 6 * F(X), rtol=1e-13)
    assert sizes(h + 0.0 * h) == [3] and sizes(merge(h)) == [3]  # outside, it can


def test_merge_keeps_the_order_and_the_function():
    h = RKHSFun(K, P[jnp.array([1, 0, 1, 2, 0])], jnp.arange(1.0, 6.0)) + F
    merged = merge(h)
    np.testing.assert_array_equal(merged.points, P[jnp.array([1, 0, 2])])  # sorted, it would be 2, 0, 1
    np.testing.assert_allclose(merged.coefficients - A[jnp.array([1, 0, 2])], [4.0, 7.0, 4.0])
    np.testing.assert_allclose(merged(X), h(X), rtol=1e-13)
    gradient = jax.grad(lambda a: merge(RKHSFun(K, jnp.concatenate([P, P]), a))(X[0]))(jnp.zeros(6))
    np.testing.assert_allclose(gradient, np.tile(K.gram(X[:1], P)[0], 2), rtol=1e-13)


def test_functions_go_through_jit_and_new_values_compile_nothing():
    @jax.jit
    def doubled_at(f, x):
        return (f + f)(x)

    with compilations() as compiled:
        for c in (1.0, 2.0):
            np.testing.assert_allclose(doubled_at(c * F, X), 2 * c * F(X), rtol=1e-13)
    assert compiled["doubled_at"] == 1


def test_kernels_that_are_traced_must_turn_out_equal():
    add_and_multiply = jax.jit(lambda f, g: (f + g, inner(f, g)))
    total, product = add_and_multiply(F, G)
    np.testing.assert_allclose(total(X), F(X) + G(X), rtol=1e-13)
    np.testing.assert_allclose(product, inner(F, G), rtol=1e-13)
    total, product = add_and_multiply(F, RKHSFun(rkhs.Matern52(0.9), Q, B))
    assert np.isnan(total(X)).all() and np.isnan(product)


def test_derivatives_flow_to_the_kernels_of_both_terms():
    def value(l, again):
        return (RKHSFun(rkhs.Matern52(l), P, A) + RKHSFun(rkhs.Matern52(again(l)), Q, B))(X[0])

    one_tracer, two_tracers = lambda l: l, lambda l: jnp.exp(jnp.log(l))
    np.testing.assert_allclose(
        jax.grad(value)(1.0, two_tracers), jax.grad(value)(1.0, one_tracer), rtol=1e-12
    )


def test_vmap_over_functions():
    families = jax.vmap(lambda c: c * F + G)(jnp.arange(3.0))
    np.testing.assert_allclose(
        jax.vmap(lambda f: f(X))(families), np.arange(3)[:, None] * F(X)[None] + G(X)[None], rtol=1e-12
    )
    with pytest.raises(ValueError, match=r"a batch of functions.*jax.vmap"):
        families(X)
    np.testing.assert_allclose(jax.tree.map(lambda leaf: leaf[2], families)(X), 2 * F(X) + G(X), rtol=1e-12)


def test_single_precision_stays_single():
    f = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), F)
    values = (0.5 * f + f)(X.astype("float32"))
    assert values.dtype == inner(f, f).dtype == merge(f).coefficients.dtype == jnp.float32
    np.testing.assert_allclose(values, 1.5 * F(X), rtol=1e-5)


def unchecked(*args):
    """RKHSFun(*args) as a user calls it, without the tests' own checks of annotations."""
    inspect.unwrap(RKHSFun.__init__)(object.__new__(RKHSFun), *args)


OTHER = RKHSFun(rkhs.Matern52(0.9), P, A)
MISTAKES = {
    "no kernel": (TypeError, "kernel must be a Kernel, got 1.0", lambda: unchecked(1.0, P, A)),
    "half": (TypeError, "points and coefficients, or neither", lambda: RKHSFun(K, P)),
    "shapes": (ValueError, r"got \(3, 2\) and \(4,\)", lambda: RKHSFun(K, P, B)),
    "complex": (TypeError, "real, got complex128", lambda: RKHSFun(K, P + 1j, A)),
    "dimension": (ValueError, r"of 2 coordinates, got points of shape \(3,\)", lambda: F(jnp.ones(3))),
    "number": (ValueError, r"write f\(x\[..., None\]\)", lambda: F(1.0)),
    "sum": (ValueError, "different spaces.*lengthscale=0.8.*lengthscale=0.9", lambda: F + OTHER),
    "inner product": (ValueError, "different spaces", lambda: inner(F, OTHER)),
    "kind": (ValueError, "different spaces", lambda: F + RKHSFun(rkhs.Linear(0.8), P, A)),
    "dimensions": (ValueError, "of 2 and of 1 coordinates", lambda: F + RKHSFun(K, P[:, :1], A)),
    "product": (TypeError, "multiply their values", lambda: F * F),
    "vector": (ValueError, r"one number, got shape \(3,\)", lambda: A * F),
    "no function": (TypeError, "expected a function", lambda: norm_sq(A)),
    "add": (TypeError, "unsupported operand", lambda: F + 1.0),
    "traced merge": (TypeError, "outside of jit", lambda: jax.jit(merge)(F)),
}


@pytest.mark.parametrize("error, message, make", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(error, message, make):
    with pytest.raises(error, match=message):
        make()
