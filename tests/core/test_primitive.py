"""Derivatives that users say themselves: the talk's slides run, and nothing goes wrong in silence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chainrule.core.primitives import defvjp, primitive
from chainrule.core.testing import check_derivatives

tol = 1e-14


def vjp(f, argnum=0):
    """The talk's vjp: curried, with the argument chosen first."""

    def at(*args):
        of_one = lambda arg: f(*args[:argnum], arg, *args[argnum + 1 :])
        _, pullback = jax.vjp(of_one, args[argnum])
        return lambda g: pullback(g)[0]

    return at


# The slides, line for line but for jnp ------------------------------------------------------------


@primitive
def logistic(x):
    return 1 / (1 + jnp.exp(-x))


defvjp(logistic, lambda ans, x: lambda g: g * ans * (1 - ans))


@primitive
def fixed_point(f, a, x0=0):
    x, x_prev = f(a, x0), x0
    while jnp.abs(x - x_prev) > tol:
        x, x_prev = f(a, x), x
    return x


def fixed_point_vjp(ans, f, a, x0):
    vjp_a = vjp(f)(a, ans)
    return lambda g: vjp_a(fixed_point(partial(rev_iter, f), (a, ans, g)))


def rev_iter(f, a, x):
    a, x_star, x_star_bar = a
    vjp_x = vjp(f, 1)(a, x_star)
    return vjp_x(jnp.asarray(x, x_star.dtype)) + x_star_bar  # the slide's x starts as the integer 0


defvjp(fixed_point, None, fixed_point_vjp, None)


@primitive
def compiled_fixed_point(f, a, x0):
    """The same with a loop that can be compiled."""
    far = lambda pair: jnp.max(jnp.abs(pair[0] - pair[1])) > tol
    return lax.while_loop(far, lambda pair: (f(a, pair[0]), pair[0]), (f(a, x0), x0))[0]


def compiled_fixed_point_vjp(ans, f, a, x0):
    return lambda g: vjp(f)(a, ans)(compiled_fixed_point(partial(rev_iter, f), (a, ans, g), g))


defvjp(compiled_fixed_point, None, compiled_fixed_point_vjp, None)


def newton(a, x):
    return (x + a / x) / 2


def test_logistic():
    x = jnp.linspace(-3.0, 3.0, 7)
    ours, rival = logistic, jax.nn.sigmoid
    for _ in range(3):
        np.testing.assert_allclose(
            jax.jit(jax.vmap(ours))(x), jax.jit(jax.vmap(rival))(x), rtol=1e-12, atol=1e-15
        )
        ours, rival = jax.grad(ours), jax.grad(rival)
    check_derivatives(logistic, (0.3,), order=3, modes=["rev"])


def test_the_derivative_is_the_one_that_was_said():
    """Were JAX to look into it, this would overflow."""
    assert jnp.isnan(jax.grad(lambda x: jnp.exp(x) / (1 + jnp.exp(x)))(1000.0))

    @primitive
    def upwards(x):
        return jnp.exp(x) / (1 + jnp.exp(x))

    defvjp(upwards, lambda ans, x: lambda g: g * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x))
    assert jax.grad(upwards)(1000.0) == 0.0


@pytest.mark.parametrize("loop", [fixed_point, compiled_fixed_point])
def test_fixed_point(loop):
    root = lambda a: loop(newton, a, 1.0)
    np.testing.assert_allclose(root(4.0), 2.0, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(root)(4.0), 1 / 4, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(jax.grad(root))(4.0), -1 / 32, rtol=1e-14)


def test_fixed_point_with_the_default_start():
    np.testing.assert_allclose(
        jax.grad(lambda a: fixed_point(lambda a, x: x / 2 + a, a))(3.0), 2.0, rtol=1e-13
    )


def test_fixed_point_compiled():
    root = jax.jit(lambda a: compiled_fixed_point(newton, a, jnp.ones_like(a)))
    check_derivatives(root, (4.0,), modes=["rev"])
    a = jnp.array([1.0, 4.0, 9.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(root)))(a), 0.5 / jnp.sqrt(a), rtol=1e-13)
    hessian = jax.jacrev(jax.jacrev(lambda a: jnp.sum(compiled_fixed_point(newton, a, jnp.ones(3)) ** 3)))(a)
    np.testing.assert_allclose(hessian, np.diag(0.75 / jnp.sqrt(a)), atol=1e-13)


def test_a_loop_in_python_cannot_be_compiled():
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(lambda a: fixed_point(newton, a, 1.0))(4.0)


# Arguments ----------------------------------------------------------------------------------------


@primitive
def scaled(kind, x, n, y, *, offset=0.0):
    """x["a"] ** n y + offset, times 1 or 2, with a string, an integer and a pytree among the arguments."""
    return {"z": (2 if kind == "double" else 1) * x["a"] ** n * y + offset, "n": n}


def scaled_in_x(ans, kind, x, n, y, offset):
    factor = 2 if kind == "double" else 1
    return lambda g: {"a": factor * n * x["a"] ** (n - 1) * y * g["z"], "i": x["i"]}


def scaled_in_y(ans, kind, x, n, y, offset):
    return lambda g: (ans["z"] - offset) / y * g["z"]


defvjp(scaled, scaled_in_x, scaled_in_y, argnums=[1, 3])


@pytest.mark.parametrize("n", [3, jnp.array(3)])
@pytest.mark.parametrize("kind, factor", [("single", 1), ("double", 2)])
def test_arguments_of_all_kinds(kind, factor, n):
    x = lambda a: {"a": a, "i": jnp.arange(2)}
    f = lambda a, y: scaled(kind, x(a), n, y=y, offset=7.0)["z"]
    assert f(2.0, 5.0) == factor * 40 + 7
    for transform in (lambda f: f, jax.jit):
        assert transform(jax.grad(f, argnums=(0, 1)))(2.0, 5.0) == (factor * 60, factor * 8)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(f), (0, None))(jnp.array([2.0, 3.0]), 5.0), factor * np.array([60, 135])
    )
    check_derivatives(f, (2.0, 5.0), modes=["rev"])


def test_integers_may_be_traced_and_batched():
    x = {"a": jnp.array(2.0), "i": jnp.arange(2)}
    slope = lambda n: jax.grad(lambda a: scaled("single", x | {"a": a}, n, 5.0)["z"])(2.0)
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(jnp.array([2, 3])), [20.0, 60.0])


def test_python_numbers_reach_the_function_as_they_are():
    @primitive
    def power(x, n):
        for _ in range(n - 1):
            x = x * x
        return x

    defvjp(power, lambda ans, x, n: lambda g: g * 2 ** (n - 1) * ans / x)
    assert jax.jit(jax.grad(lambda x: power(x, 3)))(2.0) == 32.0


def test_what_a_partial_holds_can_be_differentiated():
    """A function that closes over w is not differentiated by w; a Partial is a pytree, and is."""

    @primitive
    def apply(f, x):
        return f(x)

    def both(which):
        return lambda ans, *args: lambda g: jax.vjp(lambda f, x: f(x), *args)[1](g)[which]

    defvjp(apply, both(0), both(1))
    times = lambda w, x: w * x
    held = lambda w, x: apply(jax.tree_util.Partial(times, w), x)
    assert jax.grad(held, argnums=(0, 1))(2.0, 3.0) == (3.0, 2.0)
    assert jax.grad(jax.grad(held), argnums=1)(2.0, 3.0) == 1.0
    assert jax.grad(jax.jit(held), argnums=1)(2.0, 3.0) == 2.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_dtypes_are_kept(dtype):
    gradient = jax.grad(lambda x: logistic(x).real)(jnp.asarray(0.3, dtype))
    assert gradient.dtype == dtype
    np.testing.assert_allclose(complex(gradient), 0.24445831169, rtol=2 * float(jnp.finfo(dtype).eps))


def test_complex_pullbacks_follow_jax():
    @primitive
    def power(z):
        return z**3

    defvjp(power, lambda ans, z: lambda g: g * 3 * z**2)
    z = 1.0 + 2.0j
    np.testing.assert_allclose(jax.grad(lambda z: power(z).imag)(z), jax.grad(lambda z: (z**3).imag)(z))


def test_only_what_is_asked_for_is_computed():
    asked = []

    @primitive
    def product(x, y):
        return x * y

    defvjp(
        product,
        lambda ans, x, y: lambda g: asked.append("x") or g * y,
        lambda ans, x, y: lambda g: asked.append("y") or g * x,
    )
    assert jax.grad(product, argnums=1)(2.0, 3.0) == 2.0
    assert asked == ["y"]


def test_part_of_the_result_may_go_unused():
    @primitive
    def both(x):
        return jnp.sin(x), {"n": jnp.arange(3), "cos": jnp.cos(x)}

    defvjp(both, lambda ans, x: lambda g: g[0] * ans[1]["cos"] - g[1]["cos"] * ans[0])
    assert jax.grad(lambda x: both(x)[0])(0.3) == jnp.cos(0.3)
    assert jax.grad(lambda x: both(x)[1]["cos"])(0.3) == -jnp.sin(0.3)
    assert jax.grad(lambda x: both(x)[1]["n"].sum() * x)(0.3) == 3.0


# What goes wrong, and loudly ----------------------------------------------------------------------


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]])
@pytest.mark.parametrize("order, factor", [(1, 1.001), (2, 1.0)])
def test_a_wrong_derivative_is_caught(transform, order, factor):
    """A wrong factor in the first derivative; a first derivative that hides its own dependence on x."""

    def wrapped(hide, factor):
        @primitive
        def f(x):
            return jnp.sin(x)

        defvjp(f, lambda ans, x: lambda g: factor * g * jnp.cos(hide(x)))
        return transform(f)

    check_derivatives(wrapped(lambda x: x, 1.0), (0.3,), order=2, modes=["rev"])
    wrong = wrapped(lax.stop_gradient if order == 2 else lambda x: x, factor)
    with pytest.raises(AssertionError):
        check_derivatives(wrong, (0.3,), order=order, modes=["rev"])


def test_a_primitive_without_a_derivative_says_so():
    @primitive
    def square(x):
        return x * x

    assert square(3.0) == jax.jit(square)(3.0) == 9.0
    for transform in (lambda f: f, jax.jit):
        with pytest.raises(TypeError, match=r"square is a primitive without a derivative: give it one by"):
            transform(jax.grad(square))(3.0)


def test_an_argument_without_a_maker_says_so():
    @primitive
    def product(x, y, z=1.0, *, w=1.0):
        return x * y * z * w

    defvjp(product, lambda ans, x, y, z, w: lambda g: g * y * z * w, None)
    assert jax.grad(product)(2.0, 3.0) == 3.0
    assert jax.grad(product, argnums=1)(2.0, 3.0) == 0.0  # None was said
    with pytest.raises(TypeError, match="product has no derivative with respect to argument 2: give"):
        jax.grad(product, argnums=2)(2.0, 3.0, 4.0)
    with pytest.raises(TypeError, match=r"no derivative with respect to its keywords \['w'\]"):
        jax.grad(lambda w: product(2.0, 3.0, w=w))(4.0)
    with pytest.raises(TypeError, match="argument 2"):
        jax.jit(jax.grad(lambda x: product(x, 3.0, x)))(2.0)
    assert jax.grad(lambda x: product(x, 3.0, lax.stop_gradient(x)))(2.0) == 6.0


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(logistic, (0.3,), (1.0,))


def test_closing_over_what_is_differentiated_is_refused():
    def slope(w):
        return compiled_fixed_point(lambda a, x: w * x + a, jnp.asarray(1.0), jnp.asarray(0.0))

    with pytest.raises(jax.errors.UnexpectedTracerError) as caught:
        jax.grad(slope)(0.5)
    assert "or the function as a jax.tree_util.Partial" in " ".join(caught.value.__notes__)
    with pytest.raises(jax.errors.UnexpectedTracerError):  # found as late as it runs, in JAX's words
        jax.jit(jax.grad(slope))(0.5)


def test_closing_over_other_tracers_is_fine():
    line = lambda w, a: compiled_fixed_point(lambda a, x: w * x + a, a, 0.0 * a)
    slope = lambda w: jax.grad(lambda a: line(w, a))(1.0)
    w = jnp.array([0.1, 0.5])
    np.testing.assert_allclose(jax.vmap(slope)(w), 1 / (1 - w), rtol=1e-13)
    np.testing.assert_allclose(jax.jit(slope)(0.5), 2.0, rtol=1e-13)


@pytest.mark.parametrize(
    "cotangent, message",
    [
        (lambda g: g * jnp.ones(3), r"is float64\[3\], but the argument is float64\[\]"),
        (lambda g: g * 1j, r"is complex128\[\], but the argument is float64\[\]"),
        (lambda g: (g,), "has structure"),
        (lambda g: None, "has structure"),
    ],
)
def test_cotangents_unlike_the_argument_are_refused(cotangent, message):
    @primitive
    def square(x):
        return x * x

    defvjp(square, lambda ans, x: cotangent)
    with pytest.raises(TypeError, match=f"square: the cotangent of argument 0 {message}"):
        jax.grad(square)(1.0)


def test_rules_that_fit_no_argument_are_refused():
    @primitive
    def square(x):
        return x * x

    maker = lambda ans, x: lambda g: 2 * g * x
    with pytest.raises(ValueError, match=r"there is no argument 1: square\(x\) has 1"):
        defvjp(square, maker, maker)
    with pytest.raises(ValueError, match=r"argnums = \[0, 0\] for 2 makers of square"):
        defvjp(square, maker, maker, argnums=[0, 0])
    with pytest.raises(ValueError, match=r"argnums = \[0\] for 2 makers"):
        defvjp(square, maker, maker, argnums=[0])
    with pytest.raises(ValueError, match=r"counted from 0"):
        defvjp(square, maker, argnums=[-1])
    defvjp(square, maker)
    with pytest.raises(ValueError, match="square has its derivative already"):
        defvjp(square, maker)
    assert jax.grad(square)(3.0) == 6.0


def test_any_number_of_arguments():
    @primitive
    def total(*xs, scale=1.0):
        return scale * sum(xs)

    defvjp(total, *[lambda ans, *xs, scale: lambda g: scale * g] * 2)
    assert jax.grad(lambda x: total(x, x, 5.0, scale=3.0))(1.0) == 6.0
    with pytest.raises(TypeError, match="argument 2"):
        jax.grad(lambda x: total(1.0, 1.0, x))(1.0)


def test_names_and_documentation_survive():
    assert logistic.__name__ == "logistic" and repr(logistic) == "<primitive logistic(x)>"
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        logistic()


class Power:
    def __init__(self, exponent):
        self.exponent = exponent

    @primitive
    def of(self, x, times=1.0):
        return times * x**self.exponent

    defvjp(of, lambda ans, self, x, times: lambda g: g * self.exponent * ans / x, argnums=[1])


def test_methods_are_bound_as_those_of_functions_are():
    cube = Power(3)
    assert cube.of(2.0) == Power.of(cube, 2.0) == 8.0
    assert jax.grad(cube.of)(2.0) == jax.grad(Power.of, argnums=1)(cube, 2.0) == 12.0
    assert jax.jit(jax.grad(lambda x: cube.of(x, times=2.0)))(2.0) == 24.0
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        cube.of()
