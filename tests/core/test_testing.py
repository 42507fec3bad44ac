"""The checkers catch what they are for, and let pass what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.testing import check_derivatives, check_vjp, compilations


def with_vjp(factor):
    """sin with a pullback that is off by a factor; it has no forward mode."""

    @jax.custom_vjp
    def sin(x):
        return jnp.sin(x)

    sin.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (factor * g * jnp.cos(x),))
    return sin


def with_jvp(factor):
    """sin with a pushforward that is off by a factor; JAX transposes it, so both modes are."""

    @jax.custom_jvp
    def sin(x):
        return jnp.sin(x)

    sin.defjvp(lambda x, t: (jnp.sin(*x), factor * jnp.cos(*x) * t[0]))
    return sin


def with_transpose(transposed):
    """b -> A^-1 b whose reverse mode solves with A^T, as it should, or with A."""
    A = jnp.array([[2.0, 1.0], [0.0, 3.0]])

    def solve(b):
        return jax.lax.custom_linear_solve(
            lambda x: A @ x,
            b,
            lambda _, b: jnp.linalg.solve(A, b),
            lambda _, b: jnp.linalg.solve(A.T if transposed else A, b),
        )

    return solve


X = np.array([0.3, 1.2])
SOUND = [(with_vjp(1.0), ["rev"]), (with_jvp(1.0), ["fwd", "rev"]), (with_transpose(True), ["fwd", "rev"])]
WRONG = [
    *((with_vjp(1.001), ["rev"]), (with_jvp(1.001), ["fwd"])),
    *((with_jvp(1.001), ["rev"]), (with_transpose(False), ["rev"])),
]


@pytest.mark.parametrize("f, modes", SOUND)
def test_right_derivatives_pass(f, modes):
    check_derivatives(f, (X,), modes=modes)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("f, modes", WRONG)
def test_wrong_derivatives_are_caught_in_any_unit(f, modes, unit):
    with pytest.raises(AssertionError):
        check_derivatives(lambda x: unit * f(x), (X,), order=1, modes=modes)


def test_a_wrong_second_derivative_is_caught():
    """The pullback is right, but it passes on a constant: its own derivative is lost."""

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * jax.lax.stop_gradient(x) * g,))
    check_derivatives(square, (X,), order=1, modes=["rev"])
    with pytest.raises(AssertionError):
        check_derivatives(square, (X,), order=2, modes=["rev"])


def test_a_lost_gradient_is_caught():
    with pytest.raises(AssertionError):
        check_derivatives(lambda x: x * jax.lax.stop_gradient(x), (X,), order=1)


def test_modes_that_disagree_are_caught():
    check_vjp(with_transpose(True), (X,))
    with pytest.raises(AssertionError, match=r"<v, J u> = .* but <J\^T v, u> = .*off by"):
        check_vjp(with_transpose(False), (X,))


def test_a_disagreement_too_small_for_differences_is_caught():
    slightly = lambda x: jax.lax.custom_linear_solve(
        lambda x: 2 * x, x, lambda _, b: b / 2, lambda _, b: b / 2 * (1 + 1e-7)
    )
    check_derivatives(slightly, (X,), order=1, modes=["rev"])
    with pytest.raises(AssertionError, match="not the adjoint"):
        check_derivatives(slightly, (X,), order=1)


def test_pytrees_integers_and_complex_numbers():
    def f(a, z):
        return {"y": a["x"][a["index"]] * jnp.exp(z) + jnp.conj(z), "n": a["index"] + 1}

    check_derivatives(f, ({"x": X, "index": 1}, 1.0 + 2.0j))


def test_checks_are_in_double_wherever_they_run():
    with jax.enable_x64(False):
        check_derivatives(lambda x: jnp.sin(x) ** 2, (jnp.float32(0.3),), rtol=1e-6)
        assert jnp.ones(1).dtype == jnp.float32


def test_compilations_are_counted_by_name():
    @jax.jit
    def double(x):
        return 2 * x

    @jax.jit
    def triple(x):
        return 3 * double(x)  # compiled as part of triple

    double(np.zeros(7))
    with compilations() as compiled:
        for n in (1, 2, 2, 1, 7):
            double(np.zeros(n))
        triple(np.zeros(1))
    double(np.zeros(3))
    assert compiled == {"double": 2, "triple": 1}
    assert compiled["never called"] == 0


def test_counting_ends_with_an_error():
    with pytest.raises(KeyError), compilations() as compiled:
        raise KeyError
    jax.jit(lambda x: x - 1)(np.zeros(1))
    assert compiled.total() == 0
