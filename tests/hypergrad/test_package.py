"""The package's front door: its names, its examples, and that importing it changes nothing."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import chainrule.hypergrad as package

FILES = sorted(Path(package.__path__[0]).glob("*.py"))


def test_public_names_exist():
    assert all(hasattr(package, name) for name in package.__all__)


def test_importing_it_flips_no_switch_of_jax():
    code = (
        "import jax; flags = lambda: (jax.config.jax_enable_x64, jax.config.jax_platforms); before = flags();"
        "import chainrule.hypergrad; assert flags() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("module", [file.stem for file in FILES if ">>>" in file.read_text()])
def test_docstring_examples_run(module):
    result = doctest.testmod(importlib.import_module(f"chainrule.hypergrad.{module}"))
    assert result.attempted and not result.failed
