"""Every way to differentiate a solution: against closed forms and dense solves, in each mode it has."""

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
    NewtonCG,
    OneStep,
    Picard,
    Status,
    Unrolled,
    argmin,
    fixed_point,
    root,
)
from chainrule.core.testing import check_derivatives, compilations

pytestmark = pytest.mark.slow  # compiles derivatives of derivatives

# Exact in the limit of tight tolerances; the first few stand for all where little depends on which.
EXACT = [Implicit(), Implicit(BiCGStab()), Neumann()]
ALL_EXACT = [*EXACT, *(Implicit(s) for s in (Anderson(), GMRES(), Dense())), Neumann(Anderson())]


def descent(a, x):
    """The talk's square root of a, by gradient descent."""
    return x - 0.05 * (x**2 - a)


def coupled(a, x):
    """A map of two leaves that contracts, whose Jacobian is not symmetric."""
    W, b = a["W"], a["b"]
    y = jnp.tanh(W @ jnp.concatenate([x["u"], x["v"]]) + b)
    return {"u": y[:3], "v": y[3:]}


def coupled_problem():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(5, 5))
    a = {"W": jnp.asarray(0.8 * W / np.linalg.norm(W, 2)), "b": jnp.asarray(rng.normal(size=5))}
    return a, {"u": jnp.zeros(3), "v": jnp.zeros(2)}


def dense_gradient(a, loss_bar):
    """Of <loss_bar, x*>, by a dense implicit solve."""
    W, b = (np.asarray(a[name]) for name in "Wb")
    x = np.zeros(5)
    for _ in range(500):
        x = np.tanh(W @ x + b)
    slope = 1 - x**2
    u = slope * np.linalg.solve(np.eye(5) - (slope[:, None] * W).T, loss_bar)
    return {"W": np.outer(u, x), "b": u}


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Newton(Dense()), Picard(0.7)], ids=repr)
@pytest.mark.parametrize("adjoint", [Implicit(), Neumann()], ids=repr)
def test_the_gradient_agrees_with_a_dense_solve_after_any_solver(adjoint, solver):
    a, x0 = coupled_problem()
    bar = np.arange(1.0, 6.0)

    def loss(a):
        x = fixed_point(coupled, a, x0, solver=solver, adjoint=adjoint, rtol=1e-12).value
        return bar @ jnp.concatenate([x["u"], x["v"]])

    gradient, exact = jax.jit(jax.grad(loss))(a), dense_gradient(a, bar)
    for name in "Wb":
        np.testing.assert_allclose(gradient[name], exact[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("adjoint", ALL_EXACT, ids=repr)
def test_two_orders_by_every_exact_adjoint(adjoint):
    a, x0 = coupled_problem()
    v = jnp.arange(5.0)

    @jax.jit
    def loss(b):
        x = fixed_point(coupled, a | {"b": b}, x0, adjoint=adjoint, rtol=1e-13).value
        return jnp.sum(x["u"] ** 2) + jnp.prod(x["v"])

    gradient = jax.jit(jax.grad(loss))
    reverse_over_reverse = jax.grad(lambda b: v @ jax.grad(loss)(b))
    forward_over_reverse = lambda b: jax.jvp(jax.grad(loss), (b,), (v,))[1]
    second = jax.jit(reverse_over_reverse if isinstance(adjoint, Neumann) else forward_over_reverse)
    along = lambda f, h: (f(a["b"] + h * v) - f(a["b"] - h * v)) / (2 * h)
    np.testing.assert_allclose(gradient(a["b"]) @ v, along(loss, 1e-5), rtol=1e-7)
    np.testing.assert_allclose(second(a["b"]), along(gradient, 1e-5), rtol=1e-6)


@pytest.mark.parametrize("adjoint", EXACT, ids=repr)
def test_gradients_under_vmap_inside_and_out(adjoint):
    a = jnp.array([0.5, 2.0, 9.0])
    root = lambda a, rtol: fixed_point(descent, a, 1.0, adjoint=adjoint, rtol=rtol).value
    outside = jax.jit(jax.vmap(jax.grad(root)))(a, jnp.array([1e-12, 1e-13, 1e-12]))
    total = lambda a: jnp.sum(jax.vmap(root)(a, jnp.array([1e-12, 1e-13, 1e-12])))
    inside = jax.jit(jax.grad(total))(a)
    np.testing.assert_allclose(outside, a**-0.5 / 2, rtol=1e-9)
    np.testing.assert_allclose(inside, outside, rtol=1e-12)


@pytest.mark.parametrize("adjoint", EXACT, ids=repr)
def test_a_failed_lane_is_nan_and_spoils_no_other(adjoint):
    """Diverged; not a number; and 1, where x = x^2 / 2 + a / 2 has a singular I - J."""
    solve = lambda a: fixed_point(lambda a, x: (x**2 + a) / 2, a, 0.0, adjoint=adjoint, max_steps=300).value
    a = jnp.array([0.5, 3.0, jnp.nan, 1.0])
    gradient = jax.jit(jax.vmap(jax.grad(solve)))(a)
    np.testing.assert_allclose(gradient[0], 1 / (2 * np.sqrt(0.5)), rtol=1e-9)
    assert np.isnan(gradient[1:]).all()


@pytest.mark.parametrize("adjoint", ALL_EXACT, ids=repr)
def test_a_singular_system_at_a_solution_is_nan(adjoint):
    """The value is there, x0 itself, and has no derivative: I - J is zero."""

    def solve(a):
        solution = fixed_point(lambda a, x: x + a, a, 1.0, adjoint=adjoint)
        return solution.value, solution.stats.status

    (value, status), gradient = jax.jit(jax.value_and_grad(solve, has_aux=True))(0.0)
    assert status == Status.CONVERGED and value == 1.0
    assert np.isnan(gradient)


@pytest.mark.parametrize("adjoint", [*EXACT, OneStep()], ids=repr)
def test_what_f_closes_over_is_differentiated(adjoint):
    def solve(a, scale):
        state = jnp.stack([a, scale])  # a traced array that f does not get as an argument
        key = jax.random.key(0)  # and one without derivative
        f = lambda _, x: 0.5 * jnp.cos(x) * state[1] + state[0] + 0 * jax.random.normal(key)
        return fixed_point(f, None, 0.0, adjoint=adjoint, rtol=1e-13).value

    x, gradient = jax.jit(jax.value_and_grad(solve, argnums=(0, 1)))(0.3, 0.9)
    one_minus_J = 1 + 0.45 * np.sin(x)
    expected = np.array([1, 0.5 * np.cos(x)]) / (1 if isinstance(adjoint, OneStep) else one_minus_J)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)
    lanes = jax.jit(jax.vmap(jax.grad(solve), (0, None)))(jnp.array([0.3, 0.4]), 0.9)
    np.testing.assert_allclose(lanes[0], gradient[0], rtol=1e-10)


@pytest.mark.parametrize("adjoint", [*EXACT, OneStep(), Unrolled(200)], ids=repr)
def test_integers_and_keys_in_the_state_ride_along(adjoint):
    """Two centres and the nearest of them for each of four points: integers that change, and settle."""
    points = jnp.array([0.0, 1.0, 10.0, 12.0])

    def assign_and_average(a, state):
        nearest = jnp.argmin(jnp.abs(points[:, None] - state["centres"][None]), axis=1)
        member = jax.nn.one_hot(nearest, 2)
        mean = (member.T @ (a * points)) / jnp.maximum(member.sum(0), 1)
        centres = 0.5 * state["centres"] + 0.5 * mean
        return {"centres": centres, "nearest": nearest, "key": state["key"], "count": state["count"]}

    state = {
        "centres": jnp.array([0.0, 1.0]),
        "nearest": jnp.array([1, 0, 1, 0]),
        "key": jax.random.key(1),
        "count": jnp.int8(3),
    }
    solve = lambda a: fixed_point(assign_and_average, a, state, adjoint=adjoint, rtol=1e-13, max_steps=200)
    solution = jax.jit(solve)(1.0)
    assert solution.stats.status == Status.CONVERGED
    assert solution.value["nearest"].tolist() == [0, 0, 1, 1] and solution.value["count"].dtype == jnp.int8
    np.testing.assert_allclose(solution.value["centres"], [0.5, 11.0], rtol=1e-11)
    jacobian = jax.jit(jax.jacrev(lambda a: solve(a).value["centres"]))(1.0)
    np.testing.assert_allclose(jacobian, [0.25, 5.5] if adjoint == OneStep() else [0.5, 11.0], rtol=1e-9)


def test_an_integer_that_never_settles_is_no_fixed_point():
    counts = lambda a, x: {"x": x["x"] / 2 + a, "n": x["n"] + 1}
    solution = fixed_point(counts, 1.0, {"x": 0.0, "n": 0}, max_steps=100)
    assert solution.stats.status == Status.MAX_STEPS and np.isnan(solution.value["x"])
    assert solution.value["n"].dtype == int


def test_neumann_has_no_forward_mode_and_says_so():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda a: fixed_point(descent, a, 1.0, adjoint=Neumann()).value, (2.0,), (1.0,))


def test_three_orders_of_the_talk_s_own_adjoint():
    f = lambda a: fixed_point(descent, a, 1.0, adjoint=Neumann(), rtol=1e-14).value
    for truth in (2.0**-0.5 / 2, -(2.0**-1.5) / 4, 3 * 2.0**-2.5 / 8):
        f = jax.grad(f)
        np.testing.assert_allclose(jax.jit(f)(2.0), truth, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_error_of_the_last_steps_is_the_contraction_rate_to_their_power(steps):
    gradient = jax.grad(lambda a: fixed_point(descent, a, 1.0, adjoint=OneStep(steps)).value)(2.0)
    rho = 1 - 0.1 * np.sqrt(2)
    np.testing.assert_allclose(gradient, (1 - rho**steps) * 2**-0.5 / 2, rtol=1e-9)


def test_one_step_of_newton_s_map_is_exact():
    newton = lambda a, x: (x + a / x) / 2
    solve = lambda a: fixed_point(newton, a, 1.0, adjoint=OneStep()).value
    for gradient in (jax.grad(solve)(2.0), jax.jvp(solve, (2.0,), (1.0,))[1]):
        np.testing.assert_allclose(gradient, 2**-0.5 / 2, rtol=1e-12)


@pytest.mark.parametrize("solver", [Picard(), Anderson(1)], ids=repr)
def test_unrolled_is_the_derivative_of_the_steps(solver):
    loop = {"adjoint": Unrolled(), "solver": solver, "rtol": 0.0, "on_failure": "ignore", "max_steps": 4}
    iterate = lambda a: fixed_point(descent, a, 1.0, **loop).value
    check_derivatives(iterate, (2.0,), order=1)
    if solver == Picard():
        python = lambda a: descent(a, descent(a, descent(a, descent(a, 1.0))))
        np.testing.assert_allclose(jax.grad(iterate)(2.0), jax.grad(python)(2.0), rtol=1e-13)


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=repr)
def test_unrolled_gives_the_same_value_and_in_the_end_the_same_gradient(solver):
    settings = {"solver": solver, "rtol": 1e-13, "max_steps": 300}
    unrolled = lambda a: fixed_point(descent, a, 1.0, adjoint=Unrolled(), **settings)
    reference = jax.vmap(lambda a: fixed_point(descent, a, 1.0, **settings))(jnp.array([2.0, -1.0]))
    solution = jax.jit(jax.vmap(unrolled))(jnp.array([2.0, -1.0]))
    np.testing.assert_array_equal(solution.stats.steps, reference.stats.steps)
    np.testing.assert_array_equal(solution.stats.status, reference.stats.status)
    np.testing.assert_allclose(solution.value, reference.value, rtol=1e-14)
    gradient = jax.jit(jax.vmap(jax.grad(lambda a: unrolled(a).value)))(jnp.array([2.0, -1.0]))
    np.testing.assert_allclose(gradient[0], 2**-0.5 / 2, rtol=1e-8)
    assert np.isnan(gradient[1])


def test_unrolled_needs_to_know_how_many_steps():
    solve = lambda n, adjoint: fixed_point(descent, 2.0, 1.0, adjoint=adjoint, max_steps=n).value
    with pytest.raises(TypeError, match=r"max_steps is traced.*Unrolled\(max_steps=\.\.\.\)"):
        jax.jit(lambda n: solve(n, Unrolled()))(300)
    np.testing.assert_allclose(jax.jit(lambda n: solve(n, Unrolled(300)))(250), np.sqrt(2), rtol=1e-10)
    with pytest.raises(TypeError, match=r"those of Newton hold searches .* take Implicit\(\)"):
        fixed_point(descent, 2.0, 1.0, solver=Newton(), adjoint=Unrolled())
    for mistake in (lambda: Unrolled(0), lambda: OneStep(0)):
        with pytest.raises(ValueError, match="integer of at least 1, got 0"):
            mistake()


@pytest.mark.parametrize("adjoint", [Implicit(), Neumann(), OneStep(), Unrolled()], ids=repr)
def test_what_f_returns_beside_its_value(adjoint):
    def f(a, x):
        return descent(a, x), {"slope": 2 * x * a, "code": jnp.int32(7)}

    def solve(a):
        solution = fixed_point(f, a, 1.0, has_aux=True, adjoint=adjoint, rtol=1e-13, max_steps=300)
        return solution.aux["slope"], solution

    (slope, solution), gradient = jax.jit(jax.value_and_grad(solve, has_aux=True))(2.0)
    np.testing.assert_allclose(slope, 2 * np.sqrt(2) * 2, rtol=1e-12)
    assert solution.aux["code"] == 7
    if adjoint != OneStep():
        np.testing.assert_allclose(gradient, 3 * np.sqrt(2), rtol=1e-8)  # d/da 2 a^1.5
    assert fixed_point(descent, 2.0, 1.0).aux is None
    with pytest.raises(TypeError, match=r"must return \(value, aux\) with has_aux=True"):
        fixed_point(descent, 2.0, 1.0, has_aux=True)


ROOTS = {
    "Newton": Newton(BiCGStab()),
    "Newton, dense": Newton(Dense()),
    "Anderson": Anderson(damping=0.1),
    "Picard": Picard(0.1),
}


@pytest.mark.parametrize("solver", ROOTS.values(), ids=ROOTS)
def test_derivatives_of_a_root(solver):
    """x^3 + B x = a with B far from symmetric: dx = (3 x^2 + B)^-1 da."""
    B = jnp.array([[1.0, 3.0], [-1.0, 2.0]])
    solve = lambda a: root(lambda a, x: x**3 + B @ x - a, a, jnp.ones(2), solver=solver, rtol=1e-12).value
    a = jnp.array([1.0, 2.0])
    exact = np.linalg.inv(np.diag(3 * solve(a) ** 2) + B)
    for jacobian in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(jacobian(solve))(a), exact, rtol=1e-9)


MINIMA = {
    "Newton-CG": NewtonCG(),
    "Newton": Newton(CG()),
    "Anderson": Anderson(damping=0.2),
    "descent": Picard(0.2),
}


@pytest.mark.parametrize("solver", MINIMA.values(), ids=MINIMA)
def test_derivatives_of_a_minimum(solver):
    """Hyperparameters of a penalised logistic regression, closed over, in a pytree of weights."""
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.integers(0, 2, 20))

    def weights(log_penalty):
        def loss(_, w):
            z = X @ w["w"] + w["b"]
            return jnp.mean(jnp.logaddexp(0, z) - y * z) + jnp.sum(jnp.exp(log_penalty) * w["w"] ** 2)

        return argmin(loss, None, {"w": jnp.zeros(3), "b": 0.0}, solver=solver, rtol=1e-13).value

    penalty = jnp.array([-2.0, -1.0, -3.0])
    w = jax.jit(weights)(penalty)
    design = np.column_stack([X, np.ones(20)])
    p = 1 / (1 + np.exp(-(X @ w["w"] + w["b"])))
    H = design.T @ ((p * (1 - p))[:, None] * design) / 20 + np.diag([*(2 * np.exp(penalty)), 0])
    exact = -np.linalg.solve(H, np.vstack([np.diag(2 * np.exp(penalty) * w["w"]), np.zeros(3)]))
    for derivative in (jax.jacrev, jax.jacfwd):
        jacobian = jax.jit(derivative(weights))(penalty)
        np.testing.assert_allclose(jnp.vstack([jacobian["w"], jacobian["b"]]), exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", [NewtonCG(), Anderson(damping=0.2)], ids=repr)
def test_second_derivatives_of_a_minimum(solver):
    """One leaf of the state depends on a, and one does not: a case of its own in JAX's linear solve."""

    def loss(a, x):
        return jnp.cosh(x["u"] - a) + x["u"] ** 2 + (x["v"] - 1) ** 2

    def solve(a):
        x = argmin(loss, a, {"u": 0.0, "v": 0.0}, solver=solver, rtol=1e-13).value
        return jnp.sin(x["u"]) * x["v"]

    gradient, hessian = jax.jit(jax.grad(solve)), jax.jit(jax.hessian(solve))
    np.testing.assert_allclose(hessian(0.7), (gradient(0.7 + 1e-5) - gradient(0.7 - 1e-5)) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("adjoint", EXACT, ids=repr)
@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=repr)
def test_float32_gradients_in_a_double_process(adjoint, solver):
    a, x0 = jax.tree.map(lambda leaf: leaf.astype("float32"), coupled_problem())
    bar = np.arange(1.0, 6.0, dtype="float32")

    def loss(a):
        x = fixed_point(coupled, a, x0, solver=solver, adjoint=adjoint, rtol=1e-6).value
        return bar @ jnp.concatenate([x["u"], x["v"]])

    gradient, exact = jax.jit(jax.grad(loss))(a), dense_gradient(a, bar)
    for name in "Wb":
        assert gradient[name].dtype == jnp.float32
        np.testing.assert_allclose(gradient[name], exact[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("adjoint", [Implicit(), Neumann()], ids=repr)
def test_complex_states(adjoint):
    """|x|^2 mixes x with its conjugate: the Jacobian is real-linear only."""
    f = lambda a, x: 0.3 * x * jnp.conj(x) + 0.2j * x + a
    loss = lambda a: jnp.abs(fixed_point(f, a, 0j, adjoint=adjoint, rtol=1e-13).value - 1) ** 2
    check_derivatives(loss, (jnp.asarray(0.4 - 0.3j),), order=1, modes=("rev",))


@pytest.mark.parametrize("adjoint", [Implicit(), Implicit(Anderson()), Neumann()], ids=repr)
def test_memory_of_the_backward_pass_is_that_of_a_few_states(adjoint):
    """Neither a Jacobian nor the trajectory is kept: 200,000 unknowns, whatever max_steps is."""
    n = 200_000

    def loss(a, max_steps):
        f = lambda a, x: 0.5 * jnp.cos(x) + a
        return jnp.sum(fixed_point(f, a, jnp.zeros(n), adjoint=adjoint, max_steps=max_steps).value ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(n), 1000).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 40 * n * 8
    a = jnp.linspace(0, 1, n)
    x = fixed_point(lambda a, x: 0.5 * jnp.cos(x) + a, a, jnp.zeros(n)).value
    np.testing.assert_allclose(compiled(a, 1000), 2 * x / (1 + 0.5 * jnp.sin(x)), rtol=1e-9, atol=1e-12)


def test_bilevel_with_several_solvers():
    """The derivative of a minimum, within the map of a fixed point, within a root."""
    inner = lambda b: argmin(lambda b, w: jnp.cosh(w - b) + w**2, b, 0.0, rtol=1e-13).value
    middle = lambda c: fixed_point(lambda c, x: 0.4 * inner(jnp.sin(x) + c), c, 0.0, solver=Anderson()).value
    above = Newton(Dense())
    outer = jax.jit(lambda d: root(lambda d, c: middle(c) + c - d, d, 0.0, solver=above).value)
    difference = (outer(0.1 + 1e-4) - outer(0.1 - 1e-4)) / 2e-4
    np.testing.assert_allclose(jax.jit(jax.grad(outer))(0.1), difference, rtol=1e-6)


def test_new_values_compile_nothing():
    @jax.jit
    def gradient_of(a, rtol, max_steps, damping):
        solve = lambda a: argmin(
            lambda a, x: jnp.cosh(x - a), a, 0.0, solver=Anderson(3, damping), rtol=rtol, max_steps=max_steps
        )
        return jax.grad(lambda a: solve(a).value)(a)

    with compilations() as compiled:
        gradients = [gradient_of(*v) for v in ((1.0, 1e-9, 100, 0.5), (2.0, 1e-12, 50, 0.7))]
    assert compiled["gradient_of"] == 1
    np.testing.assert_allclose(gradients, 1.0, rtol=1e-8)
