"""Importing chainrule.core is light and has no effect on anything else; its docstrings tell the truth."""

import doctest
import importlib
import subprocess
import sys

import pytest

import chainrule.core

SCRIPT = """
import sys
import jax, jaxtyping, numpy
switches = lambda: [getattr(jax.config, f"jax_{name}") for name in (
    "enable_x64", "numpy_rank_promotion", "numpy_dtype_promotion", "default_matmul_precision", "platforms")]
before, switched = set(sys.modules), switches()
import chainrule.core
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
assert brought <= {"chainrule", "jaxtyping", "wadler_lindig"}, brought  # jaxtyping prints with the last
assert switches() == switched
assert "chainrule.core.testing" not in sys.modules
"""


def test_it_brings_nothing_but_jax_and_flips_no_switch():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_public_names_exist():
    assert all(hasattr(chainrule.core, name) for name in chainrule.core.__all__)


@pytest.mark.parametrize("module", ["fixed_point", "testing"])
def test_docstring_examples_run(module):
    result = doctest.testmod(importlib.import_module(f"chainrule.core.{module}"))
    assert result.attempted and not result.failed
