"""A change of units changes nothing: neither in the problem, nor in the solution, nor in a derivative."""

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
    Implicit,
    Neumann,
    Newton,
    Picard,
    Status,
    argmin,
    fixed_point,
    root,
)

SCALES = jnp.array([1e-24, 1.0, 1e22], "float32")
A = jnp.array([0.3, 0.5, 1.0], "float32")
ADJOINTS = [*(Implicit(s) for s in (Picard(), Anderson(), CG(), GMRES(), BiCGStab(), Dense())), Neumann()]


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=repr)
def test_a_derivative_is_as_large_as_what_asks_for_it(adjoint):
    solve = lambda a, c: (
        c * fixed_point(lambda a, x: 0.9 * x + 0.1 * a, a, jnp.float32(0), adjoint=adjoint).value
    )
    gradients = jax.jit(jax.vmap(jax.grad(solve), (None, 0)))(jnp.float32(1), SCALES)
    np.testing.assert_allclose(gradients / SCALES, 1, rtol=1e-3)


@pytest.mark.parametrize("linear_solver", [GMRES(), BiCGStab(), Dense()], ids=repr)
def test_a_root_is_where_it_is_whatever_the_size_of_the_function(linear_solver):
    f = lambda s: root(
        lambda a, x: s * (x**3 + x - a), A, jnp.zeros(3, "float32"), solver=Newton(linear_solver)
    )
    found = jax.jit(jax.vmap(f))(SCALES)
    assert (found.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(found.value**3 + found.value, np.tile(A, (3, 1)), rtol=1e-5)


def test_a_minimum_is_where_it_is_whatever_the_size_of_the_objective():
    f = lambda s: argmin(lambda a, x: s * jnp.sum((x - a) ** 4 + (x - a) ** 2), A, jnp.zeros(3, "float32"))
    found = jax.jit(jax.vmap(f))(jnp.array([1e-24, 1e-12, 1.0, 1e12], "float32"))
    assert (found.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(found.value, np.tile(A, (4, 1)), rtol=1e-4)


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=repr)
def test_a_small_solution_is_as_good_as_any(solver):
    f = lambda a: fixed_point(lambda a, x: 0.5 * x + 0.5 * a, a, 0 * a, solver=solver).value
    a = jnp.array([1e-30, 1e-20, 1.0, 1e30], "float32")
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(a), a, rtol=1e-4)


def test_the_last_steps_of_newton_are_as_good_as_the_first():
    """Residuals there are tiny, and no zero yet."""
    f = lambda a: root(lambda a, x: jnp.arctan(x - a), a, 50.0)
    assert jax.jit(f)(jnp.float32(1)).stats.status == Status.CONVERGED
    f = lambda a: root(lambda a, x: x - 0.5 * jnp.tanh(x) - a, a, jnp.zeros(3)).stats
    assert jax.jit(f)(jnp.linspace(0.2, 0.9, 3)).status == Status.CONVERGED


def test_a_conjugate_is_linear_over_real_numbers_only():
    a = jnp.array([1 + 2j, 3.0])
    solve = lambda a: root(lambda a, x: jnp.conj(x) * (1 + 0.5j) - a, a, jnp.ones(2, complex)).value
    np.testing.assert_allclose(jax.jit(solve)(a), np.conj(a / (1 + 0.5j)), rtol=1e-12)


@pytest.mark.parametrize("linear_solver", [CG(), GMRES(1), BiCGStab()], ids=repr)
def test_a_linear_solve_that_runs_out_of_steps_is_nan(linear_solver):
    """The start is the solution, so that two steps are enough to find it, but not its derivative."""
    J = jnp.diag(jnp.linspace(-0.9, 0.9, 50))
    b = jnp.ones(50)
    x = b / (1 - jnp.diag(J))

    def solve(b, max_steps):
        adjoint = Implicit(linear_solver)
        return fixed_point(
            lambda b, x: J @ x + b, b, x, adjoint=adjoint, rtol=1e-9, max_steps=max_steps
        ).value

    gradient = jax.jit(jax.grad(lambda b, max_steps: jnp.sum(solve(b, max_steps))))
    assert np.isnan(gradient(b, 2)).all()
    np.testing.assert_allclose(gradient(b, 5000), x, rtol=1e-6)


def test_nothing_to_solve_for_is_solved():
    empty = jnp.zeros(0)
    for solve, f in ((fixed_point, lambda a, x: x / 2), (root, lambda a, x: x - a)):
        assert solve(f, empty, empty).stats.status == Status.CONVERGED


def test_a_count_beyond_what_float32_counts_ends():
    spin = lambda a, n: fixed_point(lambda a, x: a - x, a, jnp.float32(0), max_steps=n).stats
    stats = jax.jit(spin)(jnp.float32(1), 2**24 + 4)
    assert stats.steps == 2**24 and stats.status == Status.MAX_STEPS
