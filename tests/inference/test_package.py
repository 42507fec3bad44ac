"""The package's front door: its names, its examples, and that importing it changes nothing."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import chainrule.inference as package
from chainrule.inference import flymc

FOLDER = Path(package.__path__[0])
MODULES = sorted(
    ".".join(file.relative_to(FOLDER).with_suffix("").parts)
    for file in FOLDER.rglob("*.py")
    if ">>>" in file.read_text()
)


def test_public_names_exist():
    assert all(hasattr(flymc, name) for name in flymc.__all__)


def test_importing_it_flips_no_switch_of_jax():
    code = (
        "import jax; flags = lambda: (jax.config.jax_enable_x64, jax.config.jax_platforms); before = flags();"
        "import chainrule.inference; assert flags() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    """With the names of the subpackage at hand, as who reads them has."""
    found = importlib.import_module(f"chainrule.inference.{module}")
    subpackage = importlib.import_module(f"chainrule.inference.{module.split('.')[0]}")
    names = {name: getattr(subpackage, name) for name in getattr(subpackage, "__all__", ())}
    result = doctest.testmod(found, extraglobs={"jax": jax, "jnp": jnp} | names)
    assert result.attempted and not result.failed
