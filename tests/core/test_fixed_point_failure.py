"""No failure is silent: what becomes of values and derivatives that did not converge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import Status, fixed_point


def affine(a, x):
    """x = 1 / (1 - a): contracts for |a| < 1, alternates for a = -1, grows beyond."""
    return a * x + 1


def solve(a, **settings):
    return fixed_point(affine, a, 0.0, **settings).value


def repelled(a, **settings):
    """Starts exactly on a repelling fixed point: the value converges at once, its derivative cannot."""
    return fixed_point(lambda a, x: a * x**2, a, jax.lax.stop_gradient(1 / a), **settings).value


LANES = jnp.array([0.5, -1.0, 1.1, 2.0, jnp.nan, 0.9])
GOOD = jnp.array([True, False, False, False, False, True])

DERIVATIVES = {
    "value": (solve, lambda a: 1 / (1 - a)),
    "reverse": (jax.grad(solve), lambda a: (1 - a) ** -2),
    "forward": (jax.jacfwd(solve), lambda a: (1 - a) ** -2),
    "forward over reverse": (jax.hessian(solve), lambda a: 2 * (1 - a) ** -3),
    "reverse over reverse": (jax.grad(jax.grad(solve)), lambda a: 2 * (1 - a) ** -3),
}


@pytest.mark.parametrize("function, truth", DERIVATIVES.values(), ids=DERIVATIVES)
def test_a_lane_that_failed_is_nan_and_spoils_no_other(function, truth):
    result = jax.jit(jax.vmap(function))(LANES)
    np.testing.assert_array_equal(np.isnan(result), ~GOOD)
    np.testing.assert_allclose(result[GOOD], truth(LANES[GOOD]), rtol=1e-8)


def test_every_leaf_of_a_failed_lane_is_nan():
    """Also the leaf that had settled, and gradients that do not depend on the value."""

    def f(a, x):
        return {"settles": 0.5 * x["settles"] + a[0], "grows": 2 * x["grows"] + a[1]}

    def total(a):
        x = fixed_point(f, a, {"settles": 0.0, "grows": 1.0}).value
        return x["settles"] + x["grows"]

    assert np.isnan(jax.grad(total)((1.0, 1.0))).all()


def test_ignore_hands_back_what_there_is():
    unconverged = fixed_point(affine, 0.5, 0.0, max_steps=3, on_failure="ignore")
    assert unconverged.stats.status == Status.MAX_STEPS
    assert unconverged.value == 1.75  # 1 + 1/2 + 1/4
    assert np.isfinite(jax.grad(lambda a: solve(a, max_steps=3, on_failure="ignore"))(0.5))


SINGULAR = {
    "I - J = 0": lambda a, x: x + 0 * a,
    "double root": lambda a, x: x - (x - a) ** 2,
    "repelling": lambda a, x: x * (x - a) + x,  # at x = a, where the tests start, J = 1 + a
}


@pytest.mark.parametrize("f", SINGULAR.values(), ids=SINGULAR)
def test_a_derivative_that_does_not_exist_or_converge_is_nan(f):
    x = lambda a: fixed_point(f, a, jax.lax.stop_gradient(a))
    assert x(1.0).stats.status == Status.CONVERGED
    assert np.isnan(jax.grad(lambda a: x(a).value)(1.0))


def test_a_repelling_fixed_point_has_nan_derivatives_in_both_modes():
    assert repelled(2.0) == 0.5
    assert np.isnan(jax.grad(repelled)(2.0))
    assert np.isnan(jax.jacfwd(repelled)(2.0))
    assert np.isfinite(jax.grad(lambda a: repelled(a, on_failure="ignore", max_steps=5))(2.0))


RAISING = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "gradient": lambda f: jax.jit(jax.grad(f)),
    "eager gradient": jax.grad,
    "hessian": lambda f: jax.jit(jax.hessian(f)),
    "vmap": lambda f: lambda a: jax.vmap(f)(jnp.stack([a, a / 10])),
    "vmap gradient": lambda f: lambda a: jax.jit(jax.vmap(jax.grad(f)))(jnp.stack([a, a / 10])),
    "scan": lambda f: jax.jit(lambda a: jax.lax.scan(lambda c, _: (f(c), None), a, None, length=1)[0]),
    "checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
}


@pytest.mark.parametrize("transform", RAISING.values(), ids=RAISING)
def test_raise_raises_wherever_it_is(transform):
    run = transform(lambda a: solve(a, on_failure="raise"))
    assert np.isfinite(run(jnp.asarray(0.5))).all()
    # The class depends on how JAX ran it: RuntimeError, jax.errors.JaxRuntimeError or ValueError.
    with pytest.raises((RuntimeError, ValueError), match=r"DIVERGED after \d+ steps.*Way out"):
        jax.block_until_ready(run(jnp.asarray(1.1)))


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))])
def test_raise_raises_for_a_derivative_alone(transform):
    run = transform(lambda a: repelled(a, on_failure="raise"))
    with pytest.raises((RuntimeError, ValueError), match="the derivative of fixed_point did not converge"):
        jax.block_until_ready(run(2.0))


def test_raise_outside_jit_is_a_plain_runtime_error():
    with pytest.raises(
        RuntimeError, match="fixed_point did not converge: MAX_STEPS after 1000 steps"
    ) as error:
        solve(-1.0, on_failure="raise")
    assert type(error.value) is RuntimeError


def test_raise_counts_the_lanes():
    run = jax.jit(jax.vmap(lambda a: solve(a, on_failure="raise")))
    with pytest.raises((RuntimeError, ValueError), match="in 4 of 6 lanes: MAX_STEPS after 1000"):
        jax.block_until_ready(run(LANES))


def test_the_status_cannot_be_read_around_the_raise():
    run = jax.jit(lambda a: fixed_point(affine, a, 0.0, on_failure="raise").stats.status)
    with pytest.raises((RuntimeError, ValueError), match="DIVERGED"):
        jax.block_until_ready(run(1.1))
