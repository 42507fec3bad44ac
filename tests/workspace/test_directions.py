"""Who may import whom: the rules that keep every package installable on its own.

1. core imports nothing of ours; a package imports core and itself, never another package.
2. report, examples, benchmarks and tests import anything; no package imports them.
3. Heavy libraries stay where they belong (the tables below), and a package imports only what its
   pyproject.toml requires.

A new package under packages/ is found by itself; it gets a line here only if it needs a library
of the table ONLY_IN.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ABOVE_THE_PACKAGES = {"report", "examples", "benchmarks", "tests"}
ONLY_IN = {"flax": {"fingerprints", "svae"}, "rdkit": {"fingerprints"}}
MODULES_THAT_MEET = {"rdkit": 3}  # at most so many of a package: one reads, one takes apart, one draws
ONLY_IN_MODULES = {
    "matplotlib": ["plot.py"],
    "sklearn": ["estimators.py", "firefly_data.py", "images.py"],
}  # of any package
ORACLES_AND_PEERS = {
    *("pandas", "datamol", "torch", "torch_geometric", "tensorflow"),
    *("jaxopt", "optimistix", "lineax", "equinox", "blackjax", "numpyro", "dynamax", "autograd"),
}
# Where the name of the import is not that of the requirement:
DISTRIBUTION = {"orbax": "orbax-checkpoint", "sklearn": "scikit-learn", "PIL": "pillow"}


def members(root):
    """core and every package: its name, its pyproject.toml, the folder with its modules."""
    for file in sorted([root / "shared/pyproject.toml", *root.glob("packages/*/pyproject.toml")]):
        name = "core" if file.parent.name == "shared" else file.parent.name
        yield name, file, file.parent / "src/chainrule" / name


def imports(module, source):
    """Every name that a module imports, absolute, wherever in the file it does so.

    `from chainrule import svae` counts as chainrule.svae, `from .. import svae` likewise, and
    `import_module("rdkit.Chem")` as rdkit.Chem.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                above = module.split(".")[:-level] if level else []
                base = ".".join([*above, *([base] if base else [])])
                yield from (f"{base}.{name.name}" for name in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def requirements(pyproject):
    """The import names that a pyproject.toml allows, its extras included."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = sum(project.get("optional-dependencies", {}).values(), project["dependencies"])
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in lines}
    back = {distribution: module for module, distribution in DISTRIBUTION.items()}
    return {back.get(name, name.replace("-", "_")) for name in names}


def violations(root):
    """One line for every import that breaks a rule."""
    for name, pyproject, folder in members(root):
        allowed = requirements(pyproject)
        meets = {library: set() for library in MODULES_THAT_MEET}
        for file in sorted(folder.rglob("*.py")):
            where = file.relative_to(root)
            module = ".".join(file.relative_to(folder.parents[1]).with_suffix("").parts)
            for imported in imports(module, file.read_text()):
                top, *below = imported.split(".")
                if top == "chainrule":
                    if not below or below[0] not in {name, "core"}:
                        yield f"{where}: {name} imports {imported}; what two packages share moves into core"
                elif top in ABOVE_THE_PACKAGES:
                    yield f"{where}: imports {imported}, which stands above the packages"
                elif name not in ONLY_IN.get(top, {name}):
                    yield f"{where}: imports {imported}; {top} is for {sorted(ONLY_IN[top])} only"
                elif file.name not in ONLY_IN_MODULES.get(top, [file.name]):
                    yield f"{where}: imports {imported}; {top} is for modules named {ONLY_IN_MODULES[top]}"
                elif top in ORACLES_AND_PEERS:
                    yield f"{where}: imports {imported}; oracles and peers are for tests and benchmarks"
                elif top not in allowed | sys.stdlib_module_names:
                    yield f"{where}: imports {imported}, which {pyproject.relative_to(root)} does not require"
                if top in meets:
                    meets[top].add(file.name)
        for library, modules in meets.items():
            if len(modules) > MODULES_THAT_MEET[library]:
                yield f"{folder.relative_to(root)}: {library} in {sorted(modules)}, too many modules"


def test_imports_follow_the_directions():
    found = list(violations(ROOT))
    assert not found, "\n".join(found)


def test_every_member_has_modules_to_look_at():
    found = {name: len(list(folder.rglob("*.py"))) for name, _, folder in members(ROOT)}
    assert {"core", "fingerprints"} <= set(found) and all(found.values()), found


def fake_house(root, files):
    """A small tree with a core and two packages, which breaks no rule until `files` are added."""
    lines = {"shared": ["jax"], "packages/fingerprints": ["flax", "rdkit", "matplotlib"], "packages/svae": []}
    for folder, needs in lines.items():
        name = "core" if folder == "shared" else Path(folder).name
        source = root / folder / "src/chainrule" / name
        source.mkdir(parents=True)
        (source / "__init__.py").write_text("import os\n")
        (root / folder / "pyproject.toml").write_text(f"[project]\ndependencies = {needs}\n")
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


CORE, PRINTS, SVAE = (
    f"{folder}/src/chainrule/{name}"
    for folder, name in (
        ("shared", "core"),
        ("packages/fingerprints", "fingerprints"),
        ("packages/svae", "svae"),
    )
)


@pytest.mark.parametrize(
    "files",
    [
        {f"{CORE}/a.py": "from jax import numpy\nfrom . import b\nfrom .b import c\n"},
        {f"{PRINTS}/a.py": "from chainrule.core import x\nfrom chainrule import core\nfrom ..core import y"},
        {f"{PRINTS}/plot.py": "def draw():\n    import matplotlib.pyplot\n"},
        {f"{PRINTS}/a.py": "import rdkit", f"{PRINTS}/b.py": "from rdkit import Chem"},
        {"examples/a.py": "import chainrule.svae, chainrule.fingerprints, sklearn, matplotlib"},
    ],
)
def test_what_is_allowed_passes(tmp_path, files):
    assert list(violations(fake_house(tmp_path, files))) == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        (f"{CORE}/a.py", "import chainrule.svae", "core imports chainrule.svae"),
        (f"{CORE}/a.py", "from chainrule import fingerprints", "core imports chainrule.fingerprints"),
        (f"{CORE}/a.py", "from .. import svae", "core imports chainrule.svae"),
        (f"{CORE}/deep/a.py", "from ...svae import x", "core imports chainrule.svae"),
        (f"{CORE}/a.py", "import chainrule", "core imports chainrule;"),
        (f"{PRINTS}/a.py", "def f():\n    from ..svae import lds", "fingerprints imports chainrule.svae.lds"),
        (
            f"{SVAE}/a.py",
            "import importlib\nimportlib.import_module('chainrule.fingerprints')",
            "svae imports",
        ),
        (f"{SVAE}/a.py", "from report import talk", "stands above"),
        (f"{SVAE}/a.py", "import examples.sqrt", "stands above"),
        (f"{CORE}/a.py", "from flax import nnx", "flax is for ['fingerprints', 'svae'] only"),
        (f"{SVAE}/a.py", "import rdkit.Chem", "rdkit is for ['fingerprints'] only"),
        (f"{PRINTS}/train.py", "import matplotlib.pyplot as plt", "modules named ['plot.py']"),
        (
            f"{PRINTS}/a.py",
            "from sklearn.linear_model import Ridge",
            "modules named ['estimators.py', 'firefly_data.py', 'images.py']",
        ),
        (f"{PRINTS}/a.py", "from torch import nn", "oracles and peers"),
        (f"{SVAE}/a.py", "import einops", "packages/svae/pyproject.toml does not require"),
    ],
)
def test_each_rule_bites(tmp_path, path, line, complaint):
    (found,) = violations(fake_house(tmp_path, {path: line}))
    assert found.startswith(path) and complaint in found


def test_a_fourth_module_that_meets_molecules_is_too_many(tmp_path):
    files = {f"{PRINTS}/{name}.py": "import rdkit" for name in "abcd"}
    (found,) = violations(fake_house(tmp_path, files))
    assert "rdkit in ['a.py', 'b.py', 'c.py', 'd.py']" in found
