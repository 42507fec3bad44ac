"""What a loss may not do with its function is refused, with the way out; nothing is ignored in silence."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chainrule.core import fixed_point, rkhs
from chainrule.core.rkhs import RKHSFun, grad, inner, norm_sq

X = jnp.array([[0.0], [1.0], [2.0]])
F = RKHSFun(rkhs.SquaredExponential(), X, jnp.ones(3))


def with_custom_jvp(f):
    h = jax.custom_jvp(lambda f, x: f(x))
    h.defjvp(lambda primals, tangents: (h(*primals), 0.0))
    return h(f, X[0])


def with_custom_vjp(f):
    h = jax.custom_vjp(lambda f, x: f(x))
    h.defvjp(lambda f, x: (f(x), None), lambda _, g: (None, None))
    return h(f, X[0])


LOSSES = {
    "while": (
        NotImplementedError,
        "inside of `while`.*Way out: lax.scan.*not known",
        lambda f: lax.while_loop(lambda c: c < 1, lambda c: c + 1 + f(X[0]) ** 2, 0.0),
    ),
    "condition of while": (
        NotImplementedError,
        "inside of `while`",
        lambda f: lax.while_loop(lambda c: c < f(X[0]), lambda c: c + 1, 0.0),
    ),
    "fixed point": (
        NotImplementedError,
        "rkhs.grad: the loss .*Way out",
        lambda f: fixed_point(lambda _, x: 0.1 * f(x[None]), None, 0.0).value,
    ),
    "custom_jvp": (NotImplementedError, "f inside of `custom_jvp_call`.*outside", with_custom_jvp),
    "custom_vjp": (NotImplementedError, "f inside of `custom_vjp_call`.*outside", with_custom_vjp),
    "derivative at x": (
        NotImplementedError,
        "differentiates f.*derivatives of the kernel.*Way out: differences",
        lambda f: jnp.sum(jax.grad(f)(X[0])),
    ),
    "derivative under scan": (
        NotImplementedError,
        "differentiates f",
        lambda f: lax.scan(lambda x, _: (x - jax.grad(f)(x), None), X[0], None, 3)[0][0],
    ),
    "jax.grad of f": (
        NotImplementedError,
        "differentiates f.*rkhs.grad in place",
        lambda f: jax.tree.leaves(jax.grad(lambda f: f(X[0]))(f))[-1],
    ),
    "points": (TypeError, r"reads f.points.*further arguments", lambda f: jnp.sum(f(f.points))),
    "coefficients": (TypeError, r"reads f.coefficients.*inner", lambda f: jnp.sum(f.coefficients**2)),
    "coefficients of a sum": (TypeError, "reads f.coefficients", lambda f: jnp.sum((f + F).coefficients)),
    "merge": (TypeError, "reads f.points", lambda f: norm_sq(rkhs.merge(f))),
    "compress": (TypeError, "reads f", lambda f: norm_sq(rkhs.compress(f, budget=2).function)),
    "squared leaves": (
        TypeError,
        "`integer_pow` of the leaves of f.*norm_sq",
        lambda f: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(f)),
    ),
    "leaves in jit": (
        TypeError,
        "of the leaves of f",
        lambda f: jax.jit(lambda f: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(f)))(f),
    ),
    "leaves in scan": (
        TypeError,
        "of the leaves of f",
        lambda f: lax.scan(lambda s, _: (s + jnp.sin(jax.tree.leaves(f)[1]), None), 0.0, None, 2)[0],
    ),
    "scaled leaves": (
        TypeError,
        "of the leaves of f",
        lambda f: jax.tree.map(lambda leaf: 2 * leaf, f)(X[0]),
    ),
    "zeroed leaves": (
        TypeError,
        "other numbers in place of the leaves",
        lambda f: jax.tree.map(jnp.zeros_like, f)(X[0]),
    ),
    "a leaf": (TypeError, "one of the leaves", lambda f: jax.tree.leaves(f)[1]),
    "f scaled in scan": (
        TypeError,
        "carried through `scan`.*close over f",
        lambda f: lax.scan(lambda c, _: ((c[1], c[0]), c[0](X[0])), (f, f), None, 3)[1][0],
    ),
    "f out of cond": (
        TypeError,
        "comes out of it.*return values",
        lambda f: lax.cond(f(X[0]) > 0, lambda f: f, lax.stop_gradient, f)(X[0]),
    ),
    "f over an axis": (
        ValueError,
        "vmap",
        lambda f: jnp.sum(jax.vmap(lambda f: f(X[0]))(f)),
    ),
    "copies of f": (
        TypeError,
        "of the leaves of f",
        lambda f: jnp.sum(jax.vmap(lambda f: f(X[0]))(jax.tree.map(lambda *two: jnp.stack(two), f, 2 * f))),
    ),
    "copies of f in scan": (
        TypeError,
        "carried through `scan`.*close over f",
        lambda f: lax.scan(
            lambda s, f: (s + f(X[0]), None), 0.0, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, 3), f)
        )[0],
    ),
    "f or numbers": (
        TypeError,
        "`select_n` of the leaves of f",
        lambda f: jax.tree.map(lambda leaf: jnp.where(X[0, 0] > 0, leaf, 1.0), f)(X[0]),
    ),
    "an inner product of what a lane may hold fixed": (
        NotImplementedError,
        "inner product of two.*vmap maps.*Way out: take it before the cond",
        lambda f: jnp.sum(
            jax.vmap(lambda x: inner(f, lax.cond(x[0] > 0, lambda f: f, lax.stop_gradient, f)))(X)
        ),
    ),
    "no number": (TypeError, r"must return one real number, got .*\(3,\)", lambda f: f(X)),
    "integer": (TypeError, "must return one real number", lambda f: (f(X[0]) > 0).astype(int)),
    "complex": (TypeError, "must return one real number", lambda f: f(X[0]) * 1j),
    "nothing": (TypeError, "must return one real number, got None", lambda f: None),
    "other space": (
        ValueError,
        "different spaces",
        lambda f: inner(f, RKHSFun(rkhs.Linear(), X, jnp.ones(3))),
    ),
    "other dimension": (ValueError, "of 1 coordinates", lambda f: f(jnp.ones(2))),
}


@pytest.mark.parametrize("error, message, loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("transform", [lambda g: g, jax.jit], ids=["eager", "jit"])
def test_a_loss_that_is_not_supported_is_refused(error, message, loss, transform):
    with pytest.raises(error, match=message):
        transform(grad(loss))(F)


def test_reading_leaves_for_aux_alone_is_refused_too():
    with pytest.raises(TypeError, match="leaves of f"):
        grad(lambda f: (f(X[0]), jax.tree.leaves(f)[1] * 2), has_aux=True)(F)


def test_a_function_that_escaped_its_loss_is_of_no_use():
    escaped = []

    def loss(f):
        escaped.append(f)
        return f(X[0])

    grad(loss)(F)
    with pytest.raises((RuntimeError, jax.errors.UnexpectedTracerError)):
        escaped[0](X)


def test_an_error_within_a_loss_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        grad(lambda f: 1 / 0)(F)
    np.testing.assert_allclose(grad(lambda f: f(X[0]))(F).coefficients, [1.0])


CALLS = {
    "no function": (TypeError, "expected a function", lambda: grad(lambda x: x)(1.0)),
    "no loss": (TypeError, "loss must be a function, got 3", lambda: inspect.unwrap(rkhs.value_and_grad)(3)),
    "no aux": (TypeError, r"must return \(number, aux\)", lambda: grad(lambda f: f(X[0]), has_aux=True)(F)),
    "no such argument": (IndexError, "range", lambda: grad(lambda f: f(X[0]), argnums=1)(F)),
}


@pytest.mark.parametrize("error, message, call", CALLS.values(), ids=CALLS)
def test_mistakes_in_the_call_are_refused_at_once(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_a_support_that_changes_in_scan_is_refused_with_the_way_out():
    step = lambda f, _: (f + grad(lambda f: f(jnp.array([7.0])))(f), None)
    with pytest.raises(TypeError, match="must keep its points: use a DictionaryFun or a BufferedFun"):
        lax.scan(step, F, None, 3)
