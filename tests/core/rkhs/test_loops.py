"""Functions that a loop can carry: over a fixed dictionary, and with a buffer of atoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chainrule.core import rkhs
from chainrule.core.rkhs import BufferedFun, Dictionary, RKHSFun, grad, inner, norm_sq
from chainrule.core.testing import compilations

rng = np.random.default_rng(0)
K = rkhs.Matern32(1.1)
X, Z, W = (jnp.asarray(rng.normal(size=(n, 2))) for n in (5, 4, 20))
Y, A = jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=5))
D = Dictionary(K, Z)
F = RKHSFun(K, X, A)
KZ = np.asarray(K.gram(Z))


def loss(f, X, Y):
    return jnp.sum((f(X) - Y) ** 2) + 0.3 * norm_sq(f)


# Dictionary ---------------------------------------------------------------------------------------


def test_the_projection_is_the_nearest_function_of_the_span():
    p = Dictionary(K, Z, jitter=0.0).project(F)
    np.testing.assert_allclose(p.coefficients, np.linalg.solve(KZ, F(Z)), rtol=1e-11)
    for z in Z:  # what is left is orthogonal to the span
        np.testing.assert_allclose((F - p.function)(z), 0, atol=1e-12)
    np.testing.assert_allclose(D.project(F).coefficients, p.coefficients, rtol=1e-8)  # with jitter


def test_atoms_of_the_dictionary_stay_exactly():
    with_others = RKHSFun(K, jnp.concatenate([Z[2:], X, Z[2:3]]), jnp.arange(8.0))
    without = RKHSFun(K, X, jnp.arange(2.0, 7.0))
    for project in (D.project, jax.jit(D.project)):
        np.testing.assert_array_equal(project(D.function(A[:4])).coefficients, A[:4])
        np.testing.assert_array_equal(project(RKHSFun(K, Z[::-1] + 0, A[:4])).coefficients, A[:4][::-1])
        added = project(with_others).coefficients - project(without).coefficients
        np.testing.assert_allclose(added, [0, 0, 7, 1], atol=1e-13)


def test_the_gradient_over_a_dictionary_is_the_projected_gradient():
    f = D.function(A[:4])
    g = grad(loss)(f, X, Y)
    np.testing.assert_allclose(
        g.coefficients, D.project(grad(loss)(f.function, X, Y)).coefficients, rtol=1e-13
    )
    # K times it is the ordinary gradient with respect to the coefficients: it is the natural one
    ordinary = jax.grad(lambda c: loss(D.function(c), X, Y))(f.coefficients)
    np.testing.assert_allclose(KZ @ g.coefficients, ordinary, rtol=1e-8)
    at_z = grad(lambda f: f(Z) @ Y[:4])(f)
    np.testing.assert_array_equal(at_z.coefficients, Y[:4])


def test_a_dictionary_function_is_the_carry_of_scan():
    def step(f, _):
        return f - 0.1 * grad(loss)(f, X, Y), loss(f, X, Y)

    f, losses = jax.jit(lambda f: lax.scan(step, f, None, length=300))(D.zero())
    exact = np.asarray(K.gram(Z, X)), np.asarray(Y)
    best = np.linalg.solve(exact[0] @ exact[0].T + 0.3 * KZ, exact[0] @ exact[1])
    assert (np.diff(losses[:100]) < 0).all()
    np.testing.assert_allclose(f(W), D.function(best)(W), atol=1e-6)
    eager = D.zero()
    for _ in range(3):
        eager, _ = step(eager, None)
    np.testing.assert_allclose(loss(eager, X, Y), losses[3], rtol=1e-12)


def test_dictionary_functions_are_a_vector_space():
    f, g = D.function(A[:4]), D.function(Y[:4])
    h = 2.0 * f - g / 2.0 + sum([f, g])
    np.testing.assert_allclose(h(W), 3 * f(W) + 0.5 * g(W), rtol=1e-12)
    np.testing.assert_allclose(inner(h, g), 3 * inner(f, g) + 0.5 * norm_sq(g), rtol=1e-12)
    again = Dictionary(K, Z + 0).function(A[:4])
    np.testing.assert_allclose((f + again).coefficients, 2 * A[:4])
    np.testing.assert_allclose(jax.jit(lambda f, g: f + g)(f, again).coefficients, 2 * A[:4])
    other = Dictionary(K, Z + 1).function(A[:4])
    assert np.isnan(jax.jit(lambda f, g: f + g)(f, other).coefficients).all()
    with pytest.raises(ValueError, match="different dictionaries"):
        f + other


def test_derivatives_of_a_projection_with_respect_to_the_kernel():
    def closed(l):
        k = rkhs.Matern32(l)
        return jnp.linalg.solve(k.gram(Z), k.gram(Z, X) @ A) @ Y[:4]

    def ours(l):
        k = rkhs.Matern32(l)
        return Dictionary(k, Z, jitter=0.0).project(RKHSFun(k, X, A)).coefficients @ Y[:4]

    np.testing.assert_allclose(jax.jit(jax.grad(ours))(1.1), jax.jit(jax.grad(closed))(1.1), rtol=1e-9)


@pytest.mark.parametrize(
    "take_in", [D.project, lambda f: BufferedFun.zero(K, 2, 8) + f], ids=["project", "add"]
)
def test_kernels_that_are_traced_must_turn_out_equal(take_in):
    run = jax.jit(lambda f: take_in(f).coefficients)
    assert np.isfinite(run(F)).all()
    assert np.isnan(run(RKHSFun(rkhs.Matern32(1.2), X, A))).all()
    assert np.isnan(run(RKHSFun(rkhs.Matern32(1.2), Z, A[:4]))).all()


def test_points_that_coincide_make_nan_without_jitter():
    twice = jnp.concatenate([Z, Z])
    assert np.isnan(
        Dictionary(rkhs.Linear(), twice, jitter=0.0).project(RKHSFun(rkhs.Linear(), X, A)).coefficients
    ).all()
    assert np.isfinite(Dictionary(K, twice).project(F).coefficients).all()


# Buffer -------------------------------------------------------------------------------------------


def test_a_buffer_gathers_new_atoms_and_adds_to_those_it_has():
    f = BufferedFun.zero(K, dim=2, capacity=8)
    f = (
        f
        + F
        - 0.5 * RKHSFun(K, X[::-1], A)
        + RKHSFun(K, jnp.concatenate([Z[:1], X[1:2], Z[:1]]), jnp.ones(3))
    )
    assert f.count == 6 and not f.overflowed
    np.testing.assert_array_equal(f.points[:6], jnp.concatenate([X, Z[:1]]))
    change = np.array([0, 1, 0, 0, 0])
    np.testing.assert_allclose(f.coefficients[:5], A - 0.5 * A[::-1] + change, rtol=1e-13)
    np.testing.assert_array_equal(f.coefficients[5:], [2, 0, 0])


def test_free_places_are_no_atoms_at_the_origin():
    origin = RKHSFun(K, jnp.zeros((1, 2)), jnp.ones(1))
    f = BufferedFun.zero(K, 2, 3) + origin
    assert f.count == 1
    f = f + origin + RKHSFun(K, X[:1], A[:1])
    assert f.count == 2 and f.coefficients[0] == 2
    g = BufferedFun.zero(K, 2, 2) + RKHSFun(K, X[:1], A[:1])
    h = g + (BufferedFun.zero(K, 2, 5) + RKHSFun(K, X[1:2], A[1:2]))  # its free places are none either
    assert h.count == 2 and not h.overflowed


@pytest.mark.parametrize("transform", [lambda add: add, jax.jit], ids=["eager", "jit"])
def test_an_atom_at_the_origin_takes_its_place(transform):
    """The points of free places are zero as well."""
    add, origin = transform(lambda f, g: f + g), RKHSFun(K, jnp.zeros((1, 2)), jnp.ones(1))
    zero = BufferedFun.zero(K, 2, 1)
    f = add(zero, origin)
    assert f.count == 1 and add(zero, f).count == 1
    assert add(f, RKHSFun(K, X[:1], A[:1])).overflowed


def test_the_free_places_of_another_function_are_not_taken_in():
    """Momentum: m has other points than f, whose norm has a derivative at each place of f."""
    no_room_to_spare = BufferedFun.zero(K, 2, 5)

    def step(state, _):
        f, m = state
        m = 0.9 * m - 0.01 * grad(loss)(f, X, Y)
        return (f + m, m), loss(f, X, Y)

    (f, m), losses = jax.jit(lambda state: lax.scan(step, state, None, 50))((no_room_to_spare,) * 2)
    assert f.count == m.count == 5 and not (f.overflowed | m.overflowed)
    assert losses[-1] < 0.5 * losses[0]
    eager, _ = step(step((no_room_to_spare,) * 2, None)[0], None)
    np.testing.assert_allclose(loss(eager[0], X, Y), losses[2], rtol=1e-12)


def test_a_sum_with_what_overflowed_has_overflowed():
    f = BufferedFun.zero(K, 2, 5) + (BufferedFun.zero(K, 2, 4) + F)
    assert f.overflowed and np.isnan(f.coefficients).all()


@pytest.mark.parametrize("capacity, fits", [(5, True), (4, False)])
def test_an_overflow_is_marked_and_nan_for_good(capacity, fits):
    f = jax.jit(lambda f: f + F)(BufferedFun.zero(K, 2, capacity))
    assert f.overflowed == (not fits) and np.isfinite(f(W)).all() == fits
    f = 0.0 * (f + RKHSFun(K, X[:1], A[:1]))
    assert f.overflowed == (not fits) and np.isfinite(f(W)).all() == fits and f.count == capacity


def test_a_buffered_function_is_the_carry_of_scan():
    """Each step sees other data, and some of them again."""
    rows = jnp.array([[0, 1], [1, 2], [3, 0], [2, 3], [0, 1], [2, 1]])

    def step(f, row):
        return f - 0.1 * grad(loss)(f, X[row], Y[row]), f.count

    with compilations() as compiled:
        run = jax.jit(lambda f, rows: lax.scan(step, f, rows))
        f, counts = run(BufferedFun.zero(K, 2, 4), rows)
    assert compiled["<lambda>"] == 1
    assert list(counts) == [0, 2, 3, 4, 4, 4] and not f.overflowed
    g = RKHSFun(K)
    for row in rows:
        g = rkhs.merge(g - 0.1 * grad(loss)(g, X[row], Y[row]))
    np.testing.assert_allclose(f(W), g(W), rtol=1e-12)


def test_derivatives_flow_through_a_buffer():
    """To a coefficient, also where it is zero."""

    def value(a):
        f = BufferedFun.zero(K, 2, 5) + RKHSFun(K, X[:2], a) + RKHSFun(K, X[1:3], a)
        return f(W[0])

    k = K.gram(W[:1], X[:3])[0]
    np.testing.assert_allclose(jax.jit(jax.grad(value))(jnp.zeros(2)), [k[0] + k[1], k[1] + k[2]], rtol=1e-12)


def test_single_precision_stays_single():
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), tree)
    f = BufferedFun.zero(rkhs.Matern32(1.0), 2, 6, jnp.float32)
    d = Dictionary(rkhs.Matern32(1.0), single(Z)).zero()
    for start in (f, d):
        end = start - 0.1 * grad(loss)(start, single(X), single(Y))
        assert end.coefficients.dtype == jnp.float32 and np.isfinite(end.coefficients).all()


MISTAKES = {
    "capacity": (ValueError, "capacity must be at least 1, got 0", lambda: BufferedFun.zero(K, 2, 0)),
    "points": (ValueError, r"points must have shape \(m, dim\), got \(4,\)", lambda: Dictionary(K, Z[:, 0])),
    "coefficients": (ValueError, r"4 points, got coefficients of shape \(5,\)", lambda: D.function(A)),
    "other kernel": (ValueError, "different spaces", lambda: D.project(RKHSFun(rkhs.Linear(), X, A))),
    "other kernel in a buffer": (
        ValueError,
        "different spaces",
        lambda: BufferedFun.zero(rkhs.Linear(), 2, 5) + F,
    ),
    "wider numbers": (
        TypeError,
        "holds float32, and cannot take in points of float64",
        lambda: BufferedFun.zero(K, 2, 5, jnp.float32) + F,
    ),
    "not of the span": (TypeError, r"dictionary.project\(f\)", lambda: D.zero() + F),
}


@pytest.mark.parametrize("error, message, make", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(error, message, make):
    with pytest.raises(error, match=message):
        make()
