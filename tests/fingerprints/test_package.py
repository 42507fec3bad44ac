"""The package's front door: its names, and how little it costs to open."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import chainrule.fingerprints as package

ROOT = Path(__file__).parents[2]


def test_the_names_for_readers_of_types_are_the_names_at_run_time():
    tree = ast.parse(Path(package.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.name: statement.module.rsplit(".", 1)[1]
        for statement in typed.body
        for alias in statement.names
    }
    assert declared == package._MODULE
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, chainrule.fingerprints; print([m for m in ('jax', 'flax', 'rdkit') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("rates", [[26000.0], [26000.0, 9000.0, 7000.0]], ids=["ours alone", "with peers"])
def test_the_benchmark_names_the_columns_that_it_prints(rates):
    table = runpy.run_path(str(ROOT / "benchmarks/fingerprints_training.py"))
    header, line = table["header"](len(rates) > 1), table["line"](1000, 128, 512, rates, 1.5, 20.0)
    ends = [
        [match.end() for match in re.finditer(r"\S+", text.replace(" s", "_s").replace(" MB", "_MB"))]
        for text in (header, line)
    ]
    assert ends[0] == ends[1]  # columns are flush right
