"""Importing chainrule.core is light and has no effect on anything else; its docstrings tell the truth."""

import doctest
import importlib
import pathlib
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
assert not any(name.startswith("chainrule.core.") for name in sys.modules)  # before one is used
for name in chainrule.core.__all__:
    getattr(chainrule.core, name)
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
assert brought <= {"chainrule", "jax", "jaxtyping", "wadler_lindig"}, brought  # the last is jaxtyping's
assert switches() == switched
assert "chainrule.core.testing" not in sys.modules
"""


def test_it_brings_nothing_but_jax_and_flips_no_switch():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_public_names_exist_and_no_others():
    assert all(hasattr(chainrule.core, name) for name in chainrule.core.__all__)
    assert {*chainrule.core.__all__} <= {*dir(chainrule.core)}
    with pytest.raises(AttributeError, match="no attribute 'fixpoint'"):
        chainrule.core.fixpoint  # noqa: B018


FILES = sorted(pathlib.Path(chainrule.core.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("module", [file.stem for file in FILES if ">>>" in file.read_text()])
def test_docstring_examples_run(module):
    result = doctest.testmod(importlib.import_module(f"chainrule.core.{module}"))
    assert result.attempted and not result.failed
