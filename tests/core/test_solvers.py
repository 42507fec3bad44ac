"""How solvers iterate: their steps, where they converge, what they keep of units, dtypes and lanes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import (
    CG,
    GMRES,
    Anderson,
    BiCGStab,
    Dense,
    Newton,
    NewtonCG,
    Picard,
    Status,
    argmin,
    fixed_point,
    root,
)
from chainrule.core.testing import compilations

as_users_call_it = inspect.unwrap(fixed_point)  # without the tests' own checks of annotations


def descent(a, x):
    """The talk's square root of a, by gradient descent."""
    return x - 0.05 * (x**2 - a)


def tanh_map(a, x):
    W, b = a
    return jnp.tanh(W @ x + b)


def symmetric_problem(n=100, norm=0.98):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(n, n))
    W = W + W.T
    return W * norm / np.linalg.norm(W, 2), 0.01 * rng.normal(size=n)


def ridge_problem(rows=600, n=300, penalty=0.1):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, n)) / np.sqrt(rows)
    y = rng.normal(size=rows)
    largest = np.linalg.norm(X, 2) ** 2 + penalty
    return (X, y, penalty), 1 / largest, np.linalg.solve(X.T @ X + penalty * np.eye(n), X.T @ y)


def ridge(a, x):
    X, y, penalty = a
    return (jnp.sum((X @ x - y) ** 2) + penalty * jnp.sum(x**2)) / 2


SLOW_MAPS = {  # a map, its parameters and start, rtol; Anderson's steps at most: part of Picard's, or so many
    "symmetric, rho 0.98": (tanh_map, symmetric_problem(), np.zeros(100), 1e-10, 0.40),
    "the talk's square root": (descent, 2.0, 3.0, 1e-12, 20),
    "ridge, d = 300": (
        lambda a, x: x - a[1] * jax.grad(lambda x: ridge(a[0], x))(x),
        ridge_problem()[:2],
        np.zeros(300),
        1e-9,
        0.30,
    ),
}


@pytest.mark.parametrize("f, a, x0, rtol, limit", SLOW_MAPS.values(), ids=SLOW_MAPS)
def test_anderson_takes_a_fraction_of_the_steps_to_the_same_solution(f, a, x0, rtol, limit):
    plain, fast = (
        jax.jit(lambda a, solver=solver: fixed_point(f, a, x0, solver=solver, rtol=rtol))(a)
        for solver in (Picard(), Anderson(5))
    )
    assert plain.stats.status == fast.stats.status == Status.CONVERGED
    assert fast.stats.steps <= (limit if limit > 1 else limit * plain.stats.steps)
    # rho / (1 - rho) = 49 steps of error, and the slowest direction of ridge is slower than that
    np.testing.assert_allclose(
        fast.value, plain.value, rtol=200 * rtol, atol=200 * rtol * np.max(np.abs(plain.value))
    )


def test_anderson_on_an_affine_map_is_done_after_as_many_steps_as_unknowns():
    """Within its history it is GMRES: exact after n + 1 evaluations, whatever the eigenvalues."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(4, 4)), rng.normal(size=4)  # of norm 3: no contraction
    solution = fixed_point(lambda a, x: A @ x + a, b, jnp.zeros(4), solver=Anderson(6), rtol=1e-9)
    assert solution.stats.status == Status.CONVERGED and solution.stats.steps <= 4 + 3
    np.testing.assert_allclose(solution.value, np.linalg.solve(np.eye(4) - A, b), rtol=1e-8)


@pytest.mark.parametrize("unit", [1e-120, 1.0, 1e120])
def test_anderson_knows_no_units(unit):
    f = lambda a, x: jnp.cos(x / unit + jnp.arange(3)) * a
    solution = fixed_point(f, 0.9 * unit, unit * jnp.ones(3), solver=Anderson())
    alone = fixed_point(lambda a, x: jnp.cos(x + jnp.arange(3)) * a, 0.9, jnp.ones(3), solver=Anderson())
    assert solution.stats.steps == alone.stats.steps
    np.testing.assert_allclose(solution.value / unit, alone.value, rtol=1e-11)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Newton(BiCGStab()), Newton(Dense())], ids=repr)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex128"])
def test_dtype_and_structure_follow_the_input(solver, dtype):
    """In a process with x64 on, as all tests here."""
    if dtype == "bfloat16" and isinstance(solver, Newton):
        pytest.skip("JAX's linear solvers know no bfloat16")
    a = {"u": jnp.asarray([2.0, 3.0], dtype), "v": (jnp.asarray(5.0, dtype),)}
    x0 = jax.tree.map(jnp.ones_like, a)
    solution = jax.jit(lambda a: fixed_point(lambda a, x: jax.tree.map(descent, a, x), a, x0, solver=solver))(
        a
    )
    assert solution.stats.status == Status.CONVERGED
    for leaf, square in zip(jax.tree.leaves(solution.value), jax.tree.leaves(a), strict=True):
        assert (leaf.dtype, leaf.shape) == (square.dtype, square.shape)
        tolerance = 20 * float(jnp.finfo(dtype).eps) ** 0.75
        np.testing.assert_allclose(leaf.astype(complex), np.sqrt(square.astype(complex)), rtol=tolerance)


@pytest.mark.parametrize("solver", [Anderson(), Newton(Dense())], ids=repr)
def test_each_lane_stops_by_itself(solver):
    solve = jax.jit(lambda a: fixed_point(descent, a, 1.0, solver=solver))
    a = jnp.array([1.1, 9.0, -1.0, jnp.nan])  # easy, harder, without solution, not a number
    lanes = jax.vmap(solve)(a)
    for lane, each in enumerate(a):
        alone = solve(each)
        assert lanes.stats.steps[lane] == alone.stats.steps
        assert lanes.stats.status[lane] == alone.stats.status
        np.testing.assert_allclose(lanes.value[lane], alone.value, rtol=1e-13)
    assert np.isnan(lanes.value[2:]).all() and lanes.stats.steps[0] != lanes.stats.steps[1]


def test_damping_makes_a_growing_map_contract():
    grows = lambda a, x: -3 * x + a  # solution a / 4; damped by a third: x <- -x/3 + a/3
    assert fixed_point(grows, 1.0, 0.0).stats.status == Status.DIVERGED
    root = lambda a: fixed_point(grows, a, 0.0, solver=Picard(1 / 3)).value
    np.testing.assert_allclose([root(1.0), jax.grad(root)(1.0)], [0.25, 0.25], rtol=1e-11)


def test_new_numbers_of_a_solver_compile_nothing():
    @jax.jit
    def solve_damped(damping, ridge):
        steps = fixed_point(descent, 2.0, 1.0, solver=Picard(damping)).stats.steps
        return steps, fixed_point(descent, 2.0, 1.0, solver=Anderson(3, damping, ridge)).stats.steps

    with compilations() as compiled:
        few, many = solve_damped(1.0, 10.0), solve_damped(0.5, 1.0)
    assert compiled["solve_damped"] == 1
    assert few[0] < many[0]


def test_newton_squares_the_error():
    steps = root(lambda a, x: x**2 - a, 2.0, 1.0).stats.steps
    assert steps <= 6  # 1, 1.5, 1.417, 1.414216, 1.41421356237, ...


@pytest.mark.parametrize("linear_solver", [GMRES(), Dense()], ids=repr)
def test_newton_steps_back_where_a_full_step_overshoots(linear_solver):
    """From 3 the full steps for arctan(x) = 0 grow without end."""
    solution = root(
        lambda a, x: jnp.arctan(x - a), jnp.array([0.0, 1.0]), 3 * jnp.ones(2), solver=Newton(linear_solver)
    )
    assert solution.stats.status == Status.CONVERGED
    np.testing.assert_allclose(solution.value, [0.0, 1.0], atol=1e-11)


@pytest.mark.parametrize("linear_solver", [GMRES(), CG(), BiCGStab(), Dense()], ids=repr)
def test_newton_without_a_root_says_so(linear_solver):
    """The parabola's slope vanishes at zero, where a linear solver may return a step of zero."""
    for start in (0.0, 1.0, jnp.nan):
        solution = root(lambda a, x: x**2 + a, 1.0, start, solver=Newton(linear_solver), max_steps=50)
        assert solution.stats.status != Status.CONVERGED and np.isnan(solution.value)


@pytest.mark.parametrize("solver", [NewtonCG(), Anderson(), Picard()], ids=repr)
def test_an_objective_that_is_not_a_number_has_no_minimum(solver):
    solution = argmin(lambda a, x: a * jnp.sum(x**2), jnp.nan, jnp.ones(2), solver=solver)
    assert solution.stats.status == Status.NONFINITE and np.isnan(solution.value).all()


def test_newton_cg_goes_downhill_from_any_start():
    far = lambda a, x: jnp.sum(jnp.logaddexp(x - a, a - x))  # full Newton steps diverge beyond 1.09
    solution = argmin(far, jnp.array([0.0, 1.0, 2.0]), jnp.array([5.0, -7.0, 2.0]))
    assert solution.stats.status == Status.CONVERGED
    np.testing.assert_allclose(solution.value, [0.0, 1.0, 2.0], atol=1e-9)
    hill = argmin(lambda a, x: jnp.cos(x), None, 0.1)  # Newton's method would climb to the maximum at zero
    assert hill.stats.status == Status.CONVERGED
    np.testing.assert_allclose(abs(hill.value) % (2 * np.pi), np.pi, rtol=1e-10)


def test_newton_cg_takes_no_saddle_for_a_minimum():
    saddle = lambda a, x: x[0] ** 2 - x[1] ** 2
    solution = argmin(saddle, None, jnp.array([1.0, 1e-30]), max_steps=50)
    assert solution.stats.status != Status.CONVERGED and np.isnan(solution.value).all()


SOLVERS_OF_A_MINIMUM = {
    "Newton-CG": lambda step: NewtonCG(),
    "Newton, CG": lambda step: Newton(CG()),
    "Anderson": lambda step: Anderson(damping=step),
    "gradient descent": lambda step: Picard(step),
}


@pytest.mark.parametrize("solver", SOLVERS_OF_A_MINIMUM.values(), ids=SOLVERS_OF_A_MINIMUM)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ridge_regression_agrees_with_its_normal_equations(solver, dtype):
    (X, y, penalty), step, exact = ridge_problem(60, 20)
    a = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (X, y, penalty))
    rtol = 1e-10 if dtype == "float64" else 1e-6
    solution = jax.jit(lambda a: argmin(ridge, a, jnp.zeros(20, dtype), solver=solver(step), rtol=rtol))(a)
    assert solution.stats.status == Status.CONVERGED and solution.value.dtype == dtype
    np.testing.assert_allclose(solution.value, exact, rtol=100 * rtol, atol=100 * rtol)


def test_an_objective_on_a_tiny_scale_is_minimised_as_well():
    """Gradients of 1e-12 are no rounding error of x: the step size is applied before they are added."""
    tiny = lambda a, x: 1e-12 * jnp.sum((x - a) ** 2) / 2
    for solver in (NewtonCG(), Picard(1e12), Anderson(damping=1e12)):
        solution = argmin(tiny, jnp.float32(1.5), jnp.ones(3, "float32"), solver=solver)
        np.testing.assert_allclose(solution.value, 1.5, rtol=1e-6)


MISTAKES = {
    "no solver": (
        TypeError,
        "solver must be Picard.*got 'anderson'",
        lambda: as_users_call_it(descent, 2.0, 1.0, solver="anderson"),
    ),
    "no adjoint": (
        TypeError,
        "adjoint must be 'auto'.*got 'exact'",
        lambda: as_users_call_it(descent, 2.0, 1.0, adjoint="exact"),
    ),
    "no history": (ValueError, "history must be an integer of at least 1, got 0", lambda: Anderson(0)),
    "minimise a map": (
        TypeError,
        "use it with argmin",
        lambda: fixed_point(descent, 2.0, 1.0, solver=NewtonCG()),
    ),
    "integers in a root": (TypeError, "root: x0 is int64", lambda: root(lambda a, x: x, None, jnp.arange(2))),
    "a complex minimum": (TypeError, "real and imaginary", lambda: argmin(lambda a, x: abs(x), None, 1j)),
    "many objectives": (TypeError, "one real number", lambda: argmin(lambda a, x: x, None, jnp.ones(2))),
    "Newton on integers": (
        TypeError,
        r"Newton: x0\[1\] is int64",
        lambda: fixed_point(lambda a, x: x, None, (jnp.ones(2), jnp.arange(2)), solver=Newton()),
    ),
}


@pytest.mark.parametrize("error, message, mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(error, message, mistake):
    with pytest.raises(error, match=message):
        mistake()
