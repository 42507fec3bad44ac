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
    with pytest.raises(AssertionError, match="VJP of VJP"):
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


def test_a_nan_is_no_derivative():
    for f, message in (
        (lambda x: {"y": x * jnp.nan}, r"f\(\*args\)\['y'\] is not finite: nan"),
        (with_vjp(jnp.nan), "VJP cotangent projection\nnan"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_derivatives(f, (1.0,), modes=["rev"])
    with pytest.raises(AssertionError, match=r"J\^T v, leaf 0 is not finite: nan"):
        check_vjp(lambda x: jax.lax.custom_linear_solve(jnp.positive, x, lambda _, b: b, nan_solve), (1.0,))


def nan_solve(_, b):
    return b * jnp.nan


@pytest.mark.parametrize("large", [1e6, 1e12])
def test_every_output_counts_whatever_its_unit(large):
    check_derivatives(lambda x: (large * x, with_vjp(1.0)(x)), (0.3,), modes=["rev"])
    with pytest.raises(AssertionError, match="VJP"):
        check_derivatives(lambda x: (large * x, with_vjp(1.001)(x)), (0.3,), modes=["rev"])
    with pytest.raises(AssertionError, match="not the adjoint"):
        check_vjp(lambda x: (large * x, with_transpose(False)(x)), (X,))


@pytest.mark.parametrize("seed", range(3))
def test_one_wrong_number_of_a_thousand_is_caught(seed):
    check_derivatives(with_jvp(np.ones(1000)), (np.ones(1000),), order=1, seed=seed)
    with pytest.raises(AssertionError, match="JVP"):
        factors = np.where(np.arange(1000) == 7, 1.01, 1.0)
        check_derivatives(with_jvp(factors), (np.ones(1000),), order=1, seed=seed)


def test_a_rule_that_changes_the_value_is_caught():
    @jax.custom_jvp
    def sin(x):
        return jnp.sin(x)

    sin.defjvp(lambda x, t: (jnp.sin(*x) + 0.1, jnp.cos(*x) * t[0]))
    with pytest.raises(AssertionError, match="JVP primal"):
        check_derivatives(sin, (0.3,), order=1)


def test_what_hardly_varies_beside_its_size_is_no_mistake():
    """Rounding is all that differences of the second and third output see."""
    f = lambda x: (jnp.sin(x), 1 + 1e-12 * x, jnp.sum(jnp.sqrt(2 + x - x)), 5 * x)
    check_derivatives(jax.jit(f), (jnp.array([0.3]),))


def test_where_nothing_can_be_checked_nothing_passes():
    with pytest.raises(TypeError, match=r"args = \(3,\) have no floating leaf: there is nothing to diff"):
        check_derivatives(with_jvp(1.0), (3,))
    with pytest.raises(TypeError, match=r"f\(\*args\) has no floating leaf"):
        check_derivatives(lambda x: jnp.arange(3), (3.0,))
    for wrong in ({"modes": "rev"}, {"modes": []}, {"modes": ["reverse"]}, {"order": 0}):
        with pytest.raises(ValueError, match=r"order must be at least 1 and modes some of \['fwd', 'rev'\]"):
            check_derivatives(jnp.sin, (3.0,), **wrong)


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
