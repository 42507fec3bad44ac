"""Every way in, and the way out: one git URL by plain pip and by uv; each wheel alone, with its tests.

What is installed from git is the last commit; what is built into wheels is the working tree. A wheel
holds its sources byte for byte, and those pass the whole suite elsewhere; what can still be wrong with it
is its environment, which the tests that are not marked slow find out in a fraction of the time.
"""

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(file.parent.name for file in ROOT.glob("packages/*/pyproject.toml"))
MEMBERS = {"core": ROOT / "shared"} | {name: ROOT / "packages" / name for name in PACKAGES}
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

LITTLE = 10  # distributions: jax's own six, jaxtyping's two, core, and one to spare
NOT_IN_CORE = {"flax", "optax", "orbax-checkpoint", "rdkit", "matplotlib", "scikit-learn", "pandas", "torch"}


def run(*command, **settings):
    """Run a command to its end; its output, which is also in the error if it fails."""
    child = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **settings,
    )
    assert child.returncode == 0, f"{' '.join(map(str, command))}\n{child.stdout}"
    return child.stdout


class Environment:
    """An empty virtual environment; `uv` installs into it from outside, `pip` from inside."""

    def __init__(self, folder, pip=False):
        if pip:
            run(sys.executable, "-m", "virtualenv", "--quiet", "--no-periodic-update", folder)
        else:
            run("uv", "venv", "--quiet", "--python", sys.executable, folder)
        self.folder = folder
        self.programs = folder / ("Scripts" if os.name == "nt" else "bin")
        # pip would compile all of jax and rdkit to byte code at once, four fifths of its time; uv does not
        python = [self.programs / "python", "-m", "pip", "install", "--no-compile"]
        self.installer = python if pip else ["uv", "pip", "install", "--python", folder]

    def install(self, *requirements):
        run(*self.installer, "--quiet", *requirements)

    def uninstall(self, name):
        run("uv", "pip", "uninstall", "--quiet", "--python", self.folder, name)

    def ask(self, program):
        """What a Python program prints here, in an empty folder and without the caller's PYTHONPATH."""
        return run(self.programs / "python", "-I", "-c", program, cwd=self.folder).split()

    def distributions(self):
        """The names of all that is installed."""
        names = self.ask("from importlib import metadata as m; print(*(d.name for d in m.distributions()))")
        return {name.lower().replace("_", "-") for name in names}

    def origin(self, module):
        """The file of a module here, or None where it cannot be imported."""
        found = self.ask(f"try:\n import {module} as m; print(m.__file__)\nexcept ImportError: pass")
        return Path(found[0]) if found else None

    def ours(self):
        return {name for name in self.distributions() if name.startswith("chainrule")}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The wheel of every member, each made from its source distribution, so that one is complete too."""
    folder = tmp_path_factory.mktemp("wheels")
    for member in MEMBERS.values():
        run("uv", "build", "--quiet", "--out-dir", folder, member)
    return {name: next(folder.glob(f"chainrule_{name}-*.whl")) for name in MEMBERS}


@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.parametrize("name", PACKAGES)
def test_one_git_url_installs_one_package(name, installer, tmp_path):
    environment = Environment(tmp_path / "env", pip=installer == "pip")
    # file://localhost/ rather than file:///, which older pips refuse
    environment.install(f"chainrule[{name}] @ git+file://localhost{ROOT.as_posix()}")
    assert environment.ours() == {"chainrule", "chainrule-core", f"chainrule-{name}"}
    for module in ("core", name):
        assert environment.origin(f"chainrule.{module}").is_relative_to(tmp_path)


@pytest.mark.parametrize("name", MEMBERS)
def test_wheel_is_clean(name, wheels):
    """What uv and the clone know about where siblings are stays at home."""
    with zipfile.ZipFile(wheels[name]) as wheel:
        files = wheel.namelist()
        information = next(file for file in files if file.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(information))
    requirements = metadata.get_all("Requires-Dist")
    assert not [line for line in requirements if re.search(r"@|://|/", line)]
    assert any(line.startswith("chainrule-core<") for line in requirements) == (name != "core")
    outside = [f for f in files if not f.startswith((f"chainrule/{name}/", f"chainrule_{name}-"))]
    assert not outside, "a file of another member, or of the namespace itself"
    assert f"chainrule/{name}/py.typed" in files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize("name", MEMBERS)
def test_wheel_holds_the_sources_byte_for_byte(name, wheels):
    source = MEMBERS[name] / "src"
    there = {
        file.relative_to(source).as_posix(): file.read_bytes()
        for file in source.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheels[name]) as wheel:
        packed = {file: wheel.read(file) for file in wheel.namelist() if ".dist-info/" not in file}
    assert packed.keys() == there.keys()
    assert [file for file in there if packed[file] != there[file]] == []


def test_core_alone_brings_jax_and_little_else(wheels, tmp_path, capsys):
    environment = Environment(tmp_path / "env")
    environment.install(wheels["core"])
    found = environment.distributions()
    with capsys.disabled():
        print(f"\ncore alone is {', '.join(sorted(found))}")
    assert {"chainrule-core", "jax"} <= found
    assert not NOT_IN_CORE & found and len(found) <= LITTLE, found


@pytest.mark.parametrize("name", MEMBERS)
def test_a_wheel_alone_passes_its_tests_and_leaves_without_trace(name, wheels, tmp_path, capsys):
    environment = Environment(tmp_path / "env")
    project = tomllib.loads((MEMBERS[name] / "pyproject.toml").read_text())["project"]
    extras = ",".join(project.get("optional-dependencies", {}))
    wheel = f"chainrule-{name}[{extras}] @ {wheels[name].as_uri()}"
    group = ROOT / "pyproject.toml"
    environment.install(wheels["core"], wheel, "--group", f"{group}:tests-{name}")
    if f"data-{name}" in GROUPS:
        environment.install("--no-deps", "--group", f"{group}:data-{name}")

    assert environment.origin(f"chainrule.{name}").is_relative_to(tmp_path)
    assert environment.ours() == {"chainrule-core", f"chainrule-{name}"}
    command = [environment.programs / "pytest", "-n", "auto", "--dist", "worksteal", "-x"]
    command += ["-p", "no:cacheprovider", "-m", "not slow"]
    output = run(*command, ROOT / "tests" / name, cwd=ROOT)
    with capsys.disabled():
        print(f"\n{wheels[name].name} alone passes its tests: {output.splitlines()[-1].strip('= ')}")

    environment.uninstall(f"chainrule-{name}")
    assert environment.origin(f"chainrule.{name}") is None
    assert bool(environment.origin("chainrule.core")) == (name != "core")
