"""Fewer atoms: the bound of the error holds, is sharp, and the choice of atoms is a good one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import rkhs
from chainrule.core.rkhs import RKHSFun, compress, norm_sq

rng = np.random.default_rng(0)
X = jnp.asarray(rng.uniform(-3, 3, size=(40, 1)))
F = RKHSFun(rkhs.Matern52(1.0), X, jnp.asarray(rng.normal(size=40)))
NORM = float(jnp.sqrt(norm_sq(F)))


def true_error(f, g):
    """|f - g|, in extended precision."""
    double = lambda x: np.asarray(x, float)
    points = np.concatenate([double(f.points), double(g.points)])
    e = np.concatenate([double(f.coefficients), -double(g.coefficients)]).astype(np.longdouble)
    r = np.sqrt(5) * np.abs(points - points.T).astype(np.longdouble) / double(f.kernel.lengthscale)
    return float(np.sqrt(np.maximum(e @ ((1 + r + r**2 / 3) * np.exp(-r)) @ e, 0)))


@pytest.mark.parametrize("budget", [3, 20])  # the same sizes throughout: each is compiled
def test_the_bound_of_the_error_holds_and_is_sharp(budget):
    short = compress(F, budget=budget)
    error = true_error(F, short.function)
    assert len(short.function.points) == budget
    assert error <= short.error <= error + 1e-5 * NORM
    assert error < 0.98 * NORM
    x = jnp.linspace(-4, 4, 50)[:, None]
    assert (jnp.abs(F(x) - short.function(x)) <= short.error).all()  # k(x, x) = 1


def test_more_atoms_leave_less():
    assert compress(F, budget=20).error < 0.1 * compress(F, budget=3).error


def test_it_is_the_projection_onto_the_atoms_chosen():
    short = compress(F, budget=20).function
    np.testing.assert_allclose(short(short.points), F(short.points), rtol=1e-7)
    best = rkhs.Dictionary(F.kernel, short.points, jitter=0.0).project(F)
    np.testing.assert_allclose(short.coefficients, best.coefficients, rtol=1e-7)


def test_the_greedy_choice_is_the_best_for_one_atom_and_near_it_for_three():
    f = RKHSFun(F.kernel, X[:8], F.coefficients[:8])
    K, a = np.asarray(f.kernel.gram(f.points)), np.asarray(f.coefficients)

    def error(rows):
        rows = list(rows)
        residual = K - K[:, rows] @ np.linalg.solve(K[np.ix_(rows, rows)], K[rows])
        return np.sqrt(a @ residual @ a)

    best = lambda size: min(map(error, itertools.combinations(range(8), size)))
    np.testing.assert_allclose(compress(f, budget=1).error, best(1), rtol=1e-6)
    assert compress(f, budget=3).error <= 1.5 * best(3)


def test_as_few_atoms_as_a_tolerance_needs():
    short = compress(F, tolerance=0.1 * NORM)
    assert true_error(F, short.function) <= short.error <= 0.1 * NORM
    rows = [int(np.flatnonzero(X[:, 0] == x)[0]) for x in short.function.points[:-1, 0]]
    fewer = rkhs.Dictionary(F.kernel, X[np.array(rows)], 0.0).project(F).function
    assert true_error(F, fewer) > 0.1 * NORM


def test_a_tolerance_that_rounding_does_not_allow_gives_f_itself():
    short = compress(F, tolerance=1e-12)
    assert short.error == 0 and len(short.function.points) == 40
    np.testing.assert_array_equal(short.function.coefficients, F.coefficients)


def test_a_budget_has_the_last_word():
    short = compress(F, budget=3, tolerance=1e-3)
    assert len(short.function.points) == 3 and short.error > 1e-3


def test_onto_given_points():
    z = jnp.linspace(-3, 3, 9)[:, None]
    short = compress(F, onto=z)
    error = true_error(F, short.function)
    np.testing.assert_array_equal(short.function.points, z)
    assert error <= short.error <= error + 1e-5 * NORM < NORM


def test_atoms_that_come_twice_are_chosen_once():
    twice = RKHSFun(F.kernel, jnp.concatenate([X[:5], X[:5]]), jnp.ones(10))
    short = compress(twice, budget=7)
    assert true_error(twice, short.function) <= short.error <= 1e-6
    assert np.count_nonzero(short.function.coefficients) == 5


def test_within_jit_and_in_single_precision():
    f = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), F)
    short = jax.jit(lambda f: compress(f, budget=8))(f)
    error = true_error(f, short.function)
    assert short.error.dtype == jnp.float32
    assert error <= short.error <= error + 0.02 * NORM


@pytest.mark.parametrize("unit", [2.0**90, 2.0**-90])  # nothing is rounded
@pytest.mark.parametrize(
    "settings",
    [dict(budget=8), dict(tolerance=0.1 * NORM), dict(onto=X[:3])],
    ids=["budget", "tolerance", "onto"],
)
def test_the_unit_of_f_does_not_matter(unit, settings):
    """Also where its squares overflow, or vanish, in single precision."""
    f = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), F)
    settings = {name: x.astype("float32") if name == "onto" else x for name, x in settings.items()}
    in_units = {name: unit * x if name == "tolerance" else x for name, x in settings.items()}
    one, scaled = compress(f, **settings), compress(unit * f, **in_units)
    np.testing.assert_array_equal(scaled.function.coefficients, unit * one.function.coefficients)
    np.testing.assert_array_equal(scaled.error, unit * one.error)
    assert scaled.error > 0


@pytest.mark.parametrize("zero", [RKHSFun(F.kernel), RKHSFun.zero(F.kernel, 1)], ids=["any", "of numbers"])
@pytest.mark.parametrize(
    "settings", [dict(budget=3), dict(tolerance=0.1), dict(onto=X[:2])], ids=["budget", "tolerance", "onto"]
)
def test_the_zero_function(zero, settings):
    short = compress(zero, **settings)
    assert short.error == 0 and norm_sq(short.function) == 0
    np.testing.assert_allclose((short.function + F)(X[:1]), F(X[:1]), rtol=1e-14)


MISTAKES = {
    "nothing": (TypeError, "give a budget, a tolerance or both", lambda: compress(F)),
    "too much": (TypeError, "or else points", lambda: compress(F, budget=3, onto=X)),
    "no atoms": (ValueError, "budget must be at least 1, got 0", lambda: compress(F, budget=0)),
    "no tolerance": (
        ValueError,
        "tolerance must be at least 0, got -1.0",
        lambda: compress(F, tolerance=-1.0),
    ),
    "tolerance in jit": (
        TypeError,
        "Way out: a budget",
        lambda: jax.jit(lambda f: compress(f, tolerance=0.1))(F),
    ),
}


@pytest.mark.parametrize("error, message, make", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(error, message, make):
    with pytest.raises(error, match=message):
        make()
