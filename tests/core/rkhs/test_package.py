"""The package: its names, its examples, and functions as a vector space."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import rkhs

MODULES = [module.name for module in pkgutil.iter_modules(rkhs.__path__)]
WITH_EXAMPLES = [name for name in MODULES if not name.startswith("_") and name not in ("kernels",)]


def test_public_names_exist_and_are_documented():
    for name in rkhs.__all__:
        assert getattr(rkhs, name).__doc__, name


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_docstring_examples_run(module):
    names = {name: getattr(rkhs, name) for name in rkhs.__all__} | {"jax": jax, "jnp": jnp}
    with jax.enable_x64(False):
        module = importlib.import_module(f"chainrule.core.rkhs.{module}")
        result = doctest.testmod(module, extraglobs=names)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("kernel", [rkhs.SquaredExponential(0.5), rkhs.Linear() + rkhs.Constant()])
def test_functions_are_a_hilbert_space(kernel):
    space = rkhs.Functions(kernel, dim=2)
    keys = jax.random.split(jax.random.key(0), 3)
    f, g, h = map(space.random, keys)
    x = jax.random.normal(keys[0], (6, 2))
    same = lambda a, b: np.testing.assert_allclose(a(x), b(x), rtol=1e-10, atol=1e-12)
    add, scale, inner = space.add, space.scale, space.inner
    same(add(f, g), add(g, f))
    same(add(add(f, g), h), add(f, add(g, h)))
    same(add(f, space.zeros()), f)
    same(add(f, scale(-1.0, f)), space.zeros())
    same(scale(2.0, add(f, g)), add(scale(2.0, f), scale(2.0, g)))
    np.testing.assert_allclose(inner(f, g), inner(g, f), rtol=1e-12)
    np.testing.assert_allclose(inner(add(f, scale(3.0, h)), g), inner(f, g) + 3 * inner(h, g), rtol=1e-10)
    assert inner(f, f) > 0 and inner(space.zeros(), f) == 0
    assert len(space.random(keys[0]).points) == 4
