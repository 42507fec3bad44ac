"""Derivatives of fixed_point: against closed forms, a dense implicit solve, and differences; in all modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import fixed_point
from chainrule.core.testing import check_derivatives, check_vjp

pytestmark = pytest.mark.slow  # compiles derivatives of derivatives


def newton(a, x):
    return (x + a / x) / 2


def descent(a, x):
    """The talk's other square root: a gradient step on (x^2 - a)^2."""
    return x - 0.05 * (x**2 - a)


def tanh_map(a, x):
    W, b = a
    return jnp.tanh(W @ x + b)


def tanh_problem(n=100, lanes=64):
    """W of spectral norm 0.95, so that the tanh map contracts; one b per lane."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=(n, n))
    return W * 0.95 / np.linalg.norm(W, 2), rng.normal(size=(lanes, n))


def dense_gradient(W, b):
    """The gradient of sum(x*^2) / 2 with respect to W and b, by a dense implicit solve in float64."""
    x = np.zeros_like(b)
    for _ in range(2000):
        x = np.tanh(W @ x + b)
    slope = 1 - x**2
    u = np.linalg.solve(np.eye(b.size) - (slope[:, None] * W).T, x)
    return np.outer(slope * u, x), slope * u


def relative_error(gradient, exact):
    difference = sum(np.sum((np.asarray(g, float) - e) ** 2) for g, e in zip(gradient, exact, strict=True))
    return np.sqrt(difference / sum(np.sum(e**2) for e in exact))


# The step is within rtol of |x|, and the error within rtol / (1 - 0.95) of it at worst.
@pytest.mark.parametrize("dtype, rtol, allowed", [("float64", 1e-10, 1e-8), ("float32", 1e-6, 2e-6)])
@pytest.mark.parametrize("lanes", [1, 64])
def test_gradient_agrees_with_a_dense_implicit_solve(dtype, rtol, allowed, lanes):
    W, bs = tanh_problem(lanes=lanes)

    def loss(W, bs):
        solve = lambda b: fixed_point(tanh_map, (W, b), jnp.zeros_like(b), rtol=rtol).value
        return jnp.sum(jax.vmap(solve)(bs) ** 2) / 2

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(W.astype(dtype), bs.astype(dtype))
    assert [leaf.dtype for leaf in gradient] == [dtype] * 2
    exact = [dense_gradient(W, b) for b in bs]
    exact = sum(W_bar for W_bar, _ in exact), np.stack([b_bar for _, b_bar in exact])
    assert relative_error(gradient, exact) <= allowed


@pytest.mark.parametrize("f", [newton, descent])
def test_three_orders_of_the_square_root(f):
    root = lambda a: fixed_point(f, a, 1.0, rtol=1e-14).value
    truth = [2.0**0.5, 2.0**-0.5 / 2, -(2.0**-1.5) / 4, 3 * 2.0**-2.5 / 8]
    grad, forward = jax.grad, jax.jacfwd
    orders = [
        [root],
        [grad(root), forward(root)],
        [grad(grad(root)), forward(grad(root)), grad(forward(root))],
        [grad(grad(grad(root))), forward(jax.hessian(root))],
    ]
    for derivatives, value in zip(orders, truth, strict=True):
        for derivative in derivatives:
            np.testing.assert_allclose(jax.jit(derivative)(2.0), value, rtol=1e-11)


def test_a_state_and_parameters_of_many_leaves():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(4, 4))
    a = {"W": W * 0.5 / np.linalg.norm(W, 2), "b": (rng.normal(size=3), rng.normal(size=1))}

    def f(a, x):
        y = jnp.tanh(a["W"] @ jnp.concatenate([x["u"], x["v"]]))
        return {"u": y[:3] + a["b"][0], "v": jnp.sin(y[3:]) * a["b"][1]}

    def solve(a):
        return fixed_point(f, a, {"u": jnp.zeros(3), "v": jnp.zeros(1)}, rtol=1e-13).value

    check_derivatives(solve, (a,), order=1)


def test_the_pullback_is_the_adjoint_of_the_pushforward():
    W, bs = tanh_problem(n=30, lanes=2)
    solve = lambda W, bs: jax.vmap(lambda b: fixed_point(tanh_map, (W, b), jnp.zeros_like(b)).value)(bs)
    check_vjp(solve, (W, bs))


def test_derivatives_flow_to_what_f_closes_over():
    def through_argument(a):
        return fixed_point(newton, a, 1.0).value

    def through_closure(a):
        return fixed_point(lambda _, x: newton(a, x), None, 1.0).value

    for transform in (jax.grad, jax.hessian):
        derivative = jax.jit(transform(through_closure))(2.0)
        np.testing.assert_allclose(derivative, jax.jit(transform(through_argument))(2.0), rtol=1e-15)


def test_integers_and_keys_among_the_parameters():
    def f(a, x):
        noise = jax.random.normal(a["key"], x.shape)
        return 0.5 * x + a["b"][a["index"]] + noise

    def solve(b):
        a = {"b": b, "index": jnp.array([2, 0]), "key": jax.random.key(0)}
        return fixed_point(f, a, jnp.zeros(2)).value

    np.testing.assert_allclose(jax.jacrev(solve)(jnp.zeros(3)), [[0, 0, 2], [2, 0, 0]], atol=1e-10)
    np.testing.assert_allclose(jax.jacfwd(solve)(jnp.zeros(3)), [[0, 0, 2], [2, 0, 0]], atol=1e-10)


def test_the_start_has_no_derivative():
    solve = lambda x0: fixed_point(newton, 2.0, x0, max_steps=3, on_failure="ignore").value
    assert solve(1.0) != solve(3.0)  # three steps do not forget it, and still
    assert jax.grad(solve)(3.0) == 0.0
    assert jax.jvp(solve, (3.0,), (1.0,))[1] == 0.0


def test_a_warm_start_keeps_the_derivative():
    x = fixed_point(descent, 2.0, 1.0, rtol=1e-14).value
    again = lambda a: fixed_point(descent, a, x, rtol=1e-12)
    assert again(2.0).stats.steps == 1
    np.testing.assert_allclose(jax.grad(lambda a: again(a).value)(2.0), 2.0**-0.5 / 2, rtol=1e-10)


def test_statistics_have_no_derivative():
    residual = lambda a: fixed_point(descent, a, 1.0).stats.residual
    assert jax.grad(residual)(2.0) == 0.0


def test_a_tolerance_that_depends_on_the_parameter_has_no_derivative():
    root = lambda a: fixed_point(descent, a, 1.0, rtol=1e-13 * a).value
    np.testing.assert_allclose(jax.jit(jax.hessian(root))(2.0), -(2.0**-1.5) / 4, rtol=1e-11)


def test_a_zero_rtol_means_atol_only():
    root = lambda a: fixed_point(descent, a, 1.0, rtol=0.0, atol=1e-6, max_steps=200).value
    np.testing.assert_allclose(jax.grad(root)(2.0), 2.0**-0.5 / 2, rtol=1e-4)


def test_vmap_of_gradient_is_the_loop_of_gradients():
    a = jnp.array([0.1, 2.0, 9.0])
    gradient = jax.grad(lambda a: fixed_point(descent, a, 1.0).value)
    np.testing.assert_array_equal(jax.vmap(gradient)(a), [gradient(each) for each in a])


def test_a_fixed_point_within_a_fixed_point():
    """Bilevel: each step of the outer map solves for the square root of what it has."""
    root = lambda a: fixed_point(newton, a, 1.0, rtol=1e-14).value
    f = lambda a, x: 0.3 * (jnp.cos(x) + root(a + x**2))
    outer = jax.jit(lambda a: fixed_point(f, a, 1.0, rtol=1e-13).value)
    check_derivatives(outer, (2.0,), order=1)
    h = 1e-4
    twice = (outer(2.0 + h) - 2 * outer(2.0) + outer(2.0 - h)) / h**2
    np.testing.assert_allclose(jax.jit(jax.hessian(outer))(2.0), twice, rtol=1e-4)


def test_inside_scan():
    def trajectory(a):  # x_{t+1} = sqrt(a x_t) from 1 gives a^(1 - 2^-t)
        step = lambda x, _: (fixed_point(newton, a * x, 1.0).value, None)
        return jax.lax.scan(step, jnp.ones(()), None, length=3)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(trajectory))(2.0), 7 / 8 * 2 ** (-1 / 8), rtol=1e-10)


def test_under_checkpoint():
    root = jax.checkpoint(lambda a: fixed_point(newton, a, 1.0).value)
    np.testing.assert_allclose(jax.jit(jax.grad(root))(4.0), 0.25, rtol=1e-10)


@pytest.mark.parametrize("on_failure", ["nan", "raise", "ignore"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_narrow_gradients_in_a_double_process(dtype, on_failure):
    a = jnp.asarray(2.0, dtype)
    root = lambda a: fixed_point(newton, a, jnp.ones_like(a), on_failure=on_failure).value
    with jax.numpy_dtype_promotion("strict"):  # nothing passes through a wider type on the way
        for derivative in (jax.grad(root)(a), jax.jacfwd(root)(a)):
            assert derivative.dtype == dtype
            assert abs(float(derivative) - 2**-0.5 / 2) <= 2 * jnp.finfo(dtype).eps


def test_complex_gradient():
    a = jnp.asarray(-3.0 + 4.0j)
    gradient = jax.grad(lambda a: fixed_point(newton, a, 1.0 + 1.0j).value, holomorphic=True)(a)
    np.testing.assert_allclose(gradient, 1 / (2 * (1 + 2j)), rtol=1e-12)
    check_derivatives(lambda a: fixed_point(newton, a, 1.0 + 1.0j, rtol=1e-13).value, (a,), order=1)


def test_memory_is_that_of_a_few_states():
    """Neither a Jacobian nor the trajectory is kept: 200,000 unknowns, some 60 steps."""
    n = 200_000

    def loss(a):
        return jnp.sum(fixed_point(lambda a, x: 0.5 * jnp.cos(x) + a, a, jnp.zeros(n)).value ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(n)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 20 * n * 8
    a = jnp.linspace(0, 1, n)
    x = fixed_point(lambda a, x: 0.5 * jnp.cos(x) + a, a, jnp.zeros(n)).value
    np.testing.assert_allclose(compiled(a), 2 * x / (1 + 0.5 * jnp.sin(x)), rtol=1e-9, atol=1e-12)
