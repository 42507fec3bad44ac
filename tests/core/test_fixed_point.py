"""Values of fixed_point: where it stops, what it reports, which dtypes it keeps, what it refuses."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import Status, fixed_point
from chainrule.core.testing import compilations


def newton(a, x):
    """The talk's square root of a."""
    return (x + a / x) / 2


def affine(a, x):
    """x = 1 / (1 - a); the step shrinks by |a|."""
    return a * x + 1


def names(status):
    return [Status(int(code)).name for code in status]


def test_square_root():
    a = jnp.array([0.25, 2.0, 1e6])
    solution = jax.vmap(lambda a: fixed_point(newton, a, 1.0))(a)
    assert names(solution.stats.status) == ["CONVERGED"] * 3
    np.testing.assert_allclose(solution.value, np.sqrt(a), rtol=1e-15)


def test_any_pytree_agrees_with_a_dense_solve():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    A *= 0.9 / np.linalg.norm(A, 2)
    b = rng.normal(size=5)

    def f(a, x):
        y = a["A"] @ jnp.concatenate([x["head"], x["tail"][0]]) + a["b"]
        return {"head": y[:2], "tail": (y[2:],)}

    x0 = {"head": jnp.zeros(2), "tail": (jnp.zeros(3),)}
    x = fixed_point(f, {"A": A, "b": b}, x0, rtol=1e-12).value
    np.testing.assert_allclose([*x["head"], *x["tail"][0]], np.linalg.solve(np.eye(5) - A, b), rtol=1e-10)


def test_stops_at_the_first_step_that_is_short_enough():
    rtol, x, steps = 1e-6, 3.0, 0
    while True:
        y = affine(0.8, x)
        steps += 1
        if abs(y - x) <= rtol * abs(y):
            break
        x = y
    solution = fixed_point(affine, 0.8, 3.0, rtol=rtol)
    assert solution.stats.steps == steps
    np.testing.assert_allclose(solution.value, y, rtol=1e-15)
    np.testing.assert_allclose(solution.stats.residual, abs(y - x), rtol=1e-6)


def test_each_lane_stops_by_itself():
    a = jnp.array([0.1, 0.9, 0.5])
    lanes = jax.vmap(lambda a: fixed_point(affine, a, 0.0))(a)
    for lane, slope in enumerate(a):
        alone = fixed_point(affine, slope, 0.0)
        assert lanes.stats.steps[lane] == alone.stats.steps
        assert lanes.value[lane] == alone.value
        assert lanes.stats.residual[lane] == alone.stats.residual


@pytest.mark.parametrize("unit", [1e-100, 1.0, 1e100])
def test_the_default_tolerance_knows_no_units(unit):
    solution = fixed_point(lambda a, x: 0.5 * x + a, 0.5 * unit, 0.0)
    assert solution.stats.status == Status.CONVERGED
    np.testing.assert_allclose(solution.value / unit, 1.0, rtol=1e-11)
    assert solution.stats.steps == fixed_point(lambda a, x: 0.5 * x + a, 0.5, 0.0).stats.steps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_zero_solution_is_found(dtype):
    solution = fixed_point(lambda a, x: x / 2, None, jnp.ones(3, dtype))
    assert solution.stats.status == Status.CONVERGED
    assert jnp.all(jnp.abs(solution.value) <= jnp.sqrt(jnp.finfo(dtype).tiny))
    soon = fixed_point(lambda a, x: x / 2, None, jnp.ones(3, dtype), atol=1e-3)
    assert soon.stats.steps == 10


def test_lanes_say_how_they_ended():
    # contracts; alternates between two values; grows; overflows (2**1000 does not, in float64); NaN
    a = jnp.array([0.5, -1.0, 1.1, 5.0, jnp.nan])
    solution = jax.vmap(lambda a: fixed_point(affine, a, 1.0))(a)
    assert names(solution.stats.status) == ["CONVERGED", "MAX_STEPS", "DIVERGED", "DIVERGED", "NONFINITE"]
    assert list(np.isnan(solution.value)) == [False, True, True, True, True]
    assert solution.stats.steps[1] == 1000 and solution.stats.steps[4] == 1
    assert fixed_point(lambda a, x: a / x, 1.0, 0.0).stats.status == Status.NONFINITE
    assert Status(fixed_point(affine, 0.5, 1.0).stats.status) is Status.CONVERGED  # from an array


def test_running_out_of_steps_at_rounding_noise_is_not_divergence():
    """A first step shorter than the noise that follows is no sign of anything."""
    eps = jnp.finfo(float).eps
    noisy = lambda a, x: 1 + jnp.clip(-3 * (x - 1), -64 * eps, 64 * eps)
    assert fixed_point(noisy, None, 1 + eps, rtol=0.0, atol=0.0).stats.status == Status.MAX_STEPS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "complex64", "complex128"])
def test_dtype_follows_the_input(dtype):
    """In a process with x64 on, as all tests here."""
    a = jnp.asarray(2.0, dtype)
    solution = jax.jit(lambda a: fixed_point(newton, a, jnp.ones_like(a)))(a)
    assert solution.value.dtype == dtype
    assert solution.stats.residual.dtype == ("float64" if dtype in ("float64", "complex128") else "float32")
    assert solution.stats.status == Status.CONVERGED
    assert abs(complex(solution.value) - np.sqrt(2)) <= 2 * jnp.finfo(dtype).eps
    small = fixed_point(lambda a, x: 0.5 * x + a, jnp.asarray(1e-3, dtype), jnp.zeros((), dtype))
    assert abs(complex(small.value) - 2e-3) <= 2e-3 * jnp.finfo(dtype).eps ** 0.7


@pytest.mark.parametrize("number", [1, 1.0])
def test_python_numbers_take_the_dtype_that_f_returns(number):
    assert fixed_point(newton, jnp.float32(2.0), number).value.dtype == jnp.float32
    assert fixed_point(newton, 2.0, number).value.dtype == jnp.float64


def test_complex_states():
    value = fixed_point(newton, -3.0 + 4.0j, 1.0 + 1.0j).value
    np.testing.assert_allclose(value, 1.0 + 2.0j, rtol=1e-14)


def test_inside_scan_and_cond():
    def body(x, a):
        x = jax.lax.cond(a > 0, lambda: fixed_point(newton, a, x).value, lambda: x)
        return x, x

    _, xs = jax.lax.scan(body, jnp.asarray(1.0), jnp.array([4.0, -1.0, 9.0]))
    np.testing.assert_allclose(xs, [2.0, 2.0, 3.0], rtol=1e-14)


def test_new_values_of_any_setting_compile_nothing():
    @jax.jit
    def solve_affine(a, x0, rtol, atol, max_steps):
        return fixed_point(affine, a, x0, rtol=rtol, atol=atol, max_steps=max_steps)

    settings = [(0.5, 0.0, 1e-3, 0.0, 100), (0.9, 1.0, 1e-9, 1e-12, 5), (0.1, -1.0, 0.0, 1e-2, 7)]
    with compilations() as compiled:
        solutions = [solve_affine(*setting) for setting in settings]
    assert compiled["solve_affine"] == 1
    assert names(s.stats.status for s in solutions) == ["CONVERGED", "MAX_STEPS", "CONVERGED"]
    assert solutions[1].stats.steps == 5


def test_tolerances_may_differ_between_lanes():
    rtol = jnp.array([1e-2, 1e-8])
    steps = jax.vmap(lambda rtol: fixed_point(affine, 0.5, 0.0, rtol=rtol).stats.steps)(rtol)
    assert steps[0] < steps[1]


@pytest.mark.parametrize(
    "settings", [dict(rtol=jnp.nan), dict(rtol=-1.0), dict(atol=jnp.nan), dict(max_steps=0)]
)
def test_traced_settings_that_make_no_sense_converge_nowhere(settings):
    run = jax.jit(lambda settings: fixed_point(affine, 0.5, 0.0, **settings))
    solution = run(settings)
    assert solution.stats.status == Status.MAX_STEPS
    assert jnp.isnan(solution.value)


MISTAKES = {
    "f is no function": (TypeError, r"f must be a function f\(a, x\), got 3", dict(f=3)),
    "other structure": (TypeError, r"f\(a, x0\) has structure .* but x0 has", dict(f=lambda a, x: (x, x))),
    "other shape": (
        TypeError,
        r"x0 is float64\[\], but .* float64\[2\]",
        dict(f=lambda a, x: x + jnp.ones(2)),
    ),
    "other dtype": (TypeError, "x0 is float32.* float64.*pass such an x0", dict(x0=jnp.float32(1.0))),
    "a nested leaf": (
        TypeError,
        r"x0\['y'\]\[0\] is float64\[3\]",
        dict(f=lambda a, x: {"y": [x["y"][0][:2]]}, x0={"y": [jnp.ones(3)]}),
    ),
    "integer state": (TypeError, "x0 is int64, .*floating", dict(f=lambda a, x: x, x0=jnp.arange(3))),
    "nothing to solve": (ValueError, "no arrays", dict(f=lambda a, x: x, x0=())),
    "unknown on_failure": (
        ValueError,
        r"on_failure must be one of .*'nan'.*got 'warn'",
        dict(on_failure="warn"),
    ),
    "no steps": (ValueError, "max_steps must be at least 1, got 0", dict(max_steps=0)),
    "half a step": (TypeError, "max_steps must be an integer, got 1.5", dict(max_steps=1.5)),
    "negative rtol": (ValueError, "rtol must be at least 0, got -1e-06", dict(rtol=-1e-6)),
    "NaN for atol": (ValueError, "atol must be at least 0, got nan", dict(atol=float("nan"))),
    "many tolerances": (ValueError, r"rtol must be one number, got shape \(2,\)", dict(rtol=jnp.ones(2))),
}


@pytest.mark.parametrize("error, message, arguments", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_at_once(error, message, arguments):
    arguments = dict(f=lambda a, x: 0.5 * x + a, a=jnp.ones(()), x0=jnp.ones(())) | arguments
    solve = inspect.unwrap(fixed_point)  # what a user calls: without the tests' own checks of annotations
    with pytest.raises(error, match=message):
        solve(**arguments)
    with pytest.raises(error, match=message):  # also while tracing
        jax.jit(lambda a: solve(**arguments | dict(a=a)).value)(arguments["a"])
