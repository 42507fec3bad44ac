"""Pytrees are a Hilbert space, and what is none is found out, by the name of the law it breaks."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.rkhs import Functions, SquaredExponential
from chainrule.core.vector_space import PyTrees, VectorSpace, check_vector_space

KEY = jax.random.key(0)
SPACES = {
    "scalar": 1.0,
    "float32": jnp.zeros((2, 3), jnp.float32),
    "complex": jnp.zeros(4, jnp.complex128),
    "mixed": {
        "w": jnp.zeros((2, 3)),
        "b": (jnp.zeros(3, jnp.float32), jnp.zeros((), jnp.complex64)),
        "none": None,
    },
    "structs": [jax.ShapeDtypeStruct((2,), jnp.float32), np.zeros(0, np.float32)],
}


@pytest.mark.parametrize("name", SPACES)
def test_pytrees_obey_the_laws(name):
    space = PyTrees(SPACES[name])
    assert isinstance(space, VectorSpace)
    check_vector_space(space, KEY)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_rounding_in_low_precision_is_no_fault(dtype):
    space = PyTrees({"a": jnp.zeros(100, dtype), "b": jnp.zeros(2)})
    check_vector_space(space, KEY)
    with pytest.raises(AssertionError, match="associativity"):
        check_vector_space(space, KEY, rtol=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_vectors_are_like_the_example(name):
    space = PyTrees(SPACES[name])
    x = space.random(KEY)
    for vector in (space.zeros(), x, space.add(x, x), space.scale(0.5, x), space.scale(jnp.float32(2), x)):
        assert jax.tree.structure(vector) == jax.tree.structure(SPACES[name])
        described = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(vector)]
        assert described == [
            (np.shape(like), jnp.result_type(like)) for like in jax.tree.leaves(SPACES[name])
        ]
    assert not any(map(np.any, jax.tree.leaves(space.zeros())))


def test_the_inner_product_is_that_of_all_numbers():
    space = PyTrees({"z": jnp.zeros(3, complex), "x": jnp.zeros((2, 2))})
    x, y = space.random(KEY), space.random(jax.random.key(1))
    flat = lambda v: np.concatenate([v["x"].ravel(), v["z"].real, v["z"].imag])
    np.testing.assert_allclose(space.inner(x, y), flat(x) @ flat(y), rtol=1e-13)
    rotated = jax.tree.map(lambda leaf: 1j * leaf, x)
    np.testing.assert_allclose(space.inner(rotated, rotated), space.inner(x, x), rtol=1e-13)


def test_inner_products_are_summed_in_single_precision_at_least():
    ones = jnp.ones(5000, jnp.bfloat16)  # bfloat16 cannot count beyond 256
    product = PyTrees(ones).inner(ones, ones)
    assert product.dtype == jnp.float32 and product == 5000
    assert PyTrees([jnp.ones(2), ones]).inner([jnp.ones(2), ones], [jnp.ones(2), ones]).dtype == jnp.float64


def test_random_vectors_are_standard_normal():
    n = 20000
    x = PyTrees({"a": jnp.zeros(n), "b": jnp.zeros(n), "z": jnp.zeros(n, complex)}).random(KEY)
    assert np.mean(x["a"] ** 2) == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(x["z"]) ** 2) == pytest.approx(1, abs=0.05)
    assert abs(np.mean(x["a"] * x["b"])) < 0.05  # leaves are independent


def test_adjoints_by_the_space_agree_with_jax():
    """<J^T w, v> = <w, J v>, the reason for having an inner product."""
    space = PyTrees({"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
    x, v, w = (space.random(jax.random.key(i)) for i in range(3))
    f = lambda x: {"w": jnp.sin(x["w"]) * x["b"][:, None], "b": x["b"] ** 2}
    (JTw,) = jax.vjp(f, x)[1](w)
    np.testing.assert_allclose(space.inner(JTw, v), space.inner(w, jax.jvp(f, (x,), (v,))[1]), rtol=1e-12)


def test_spaces_work_compiled_and_batched():
    space = PyTrees({"a": jnp.zeros(3), "b": 0.0})
    lengths = jax.jit(jax.vmap(lambda key: space.inner(space.random(key), space.random(key))))
    assert lengths(jax.random.split(KEY, 4)).shape == (4,)


def test_integers_are_no_vectors():
    with pytest.raises(TypeError, match=r"example\['n'\] is int.*, which cannot be scaled"):
        PyTrees({"w": jnp.ones(2), "n": 3})


# Spaces that are none -----------------------------------------------------------------------------

TRUE = PyTrees(jnp.zeros(4))
WRONG = {
    "positivity": {"inner": lambda x, y: x[:3] @ y[:3] - x[3] * y[3] * 9},
    "symmetry": {"inner": lambda x, y: TRUE.inner(x, y) + 0.01 * x[0] * y[1]},
    "the same key": {"random": lambda key, calls=[]: calls.append(0) or TRUE.random(key) * (1 + len(calls))},
    "another key": {"random": lambda key: jnp.arange(1.0, 5.0)},
    "commutativity": {"add": lambda x, y: x + y + 1e-9 * x},
    "associativity": {"add": lambda x, y: x + y + 1e-9 * x**2 * y**2},
    "zero: x": {"zeros": lambda: 1e-9 * jnp.ones(4)},
    "negatives": {"scale": lambda c, x: abs(c) * x},
    "unit": {"scale": lambda c, x: c * x * (1 + 1e-9)},
    "annihilation": {"scale": lambda c, x: jnp.where(c == 0, x, c * x)},
    "compatibility": {"scale": lambda c, x: jnp.where(c == -1.21875, x, c * x)},
    "distributivity: a": {"scale": lambda c, x: jnp.arcsinh(c * jnp.sinh(x))},
    r"distributivity: \(a": {"scale": lambda c, x: jnp.cbrt(c) * x},
    "linearity": {"inner": lambda x, y: TRUE.inner(x, y) ** 3},
    "not one real number": {"inner": lambda x, y: x * y},
}


def patched(patch):
    """The true space but for one operation."""
    operations = {name: getattr(TRUE, name) for name in ("zeros", "add", "scale", "inner", "random")}
    return types.SimpleNamespace(**operations | patch)


def test_the_space_before_patching_is_sound():
    check_vector_space(patched({}), KEY)


@pytest.mark.parametrize("law", WRONG)
def test_broken_laws_are_named(law):
    with pytest.raises(AssertionError, match=law):
        check_vector_space(patched(WRONG[law]), KEY)


def test_what_the_inner_product_does_not_see_is_found():
    class Drop(PyTrees):
        def inner(self, x, y):
            return jnp.vdot(x["w"], y["w"])

    with pytest.raises(AssertionError, match=r"Drop breaks .*: definiteness: .* in their leaf x\['b'\]\[0\]"):
        check_vector_space(Drop({"w": jnp.ones(2), "b": [jnp.ones(3)]}), KEY)
    check_vector_space(Drop({"w": jnp.ones(2), "b": [jnp.ones(0)]}), KEY)


def test_what_all_vectors_have_in_common_is_no_part_of_them():
    """Leaves of these functions: points and coefficients, but also the width of the kernel."""
    check_vector_space(Functions(SquaredExponential(), dim=2), KEY)


class Opaque:
    """A vector that is no pytree."""

    def __init__(self, array):
        self.array = array


def test_vectors_need_not_be_pytrees():
    space = types.SimpleNamespace(
        zeros=lambda: Opaque(jnp.zeros(3)),
        add=lambda x, y: Opaque(x.array + y.array),
        scale=lambda c, x: Opaque(c * x.array),
        inner=lambda x, y: x.array @ y.array,
        random=lambda key: Opaque(jax.random.normal(key, (3,))),
    )
    check_vector_space(space, KEY)
