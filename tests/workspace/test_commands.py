"""`python -m chainrule.<package> --help` answers before anyone wonders: heavy imports wait for the work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="CPU seconds of a child are asked for the POSIX way")
ROOT = Path(__file__).parents[2]

PATIENCE = 0.5  # seconds of CPU, not of the wall; a machine that is slower or shared gets more:
CALIBRATION = "import asyncio, email.mime.text, http.client, unittest.mock, xml.dom.minidom"
CALIBRATION_SECONDS = 0.12  # of CPU, on the 2-core machine on which half a second was promised
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "rdkit", "matplotlib", "scipy", "sklearn", "pandas"}
HEAVY |= {"pyarrow", "ray"}

COMMANDS = sorted(file.parent.name for file in ROOT.glob("packages/*/src/chainrule/*/__main__.py"))


def call(*arguments, path=None):
    """What a Python child prints, what it says about its imports, and the CPU seconds it took."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert child.returncode == 0, f"{arguments} failed:\n{child.stderr}"
    return child.stdout, child.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def subcommands(text):
    """The words of the first {word,word} in a help text."""
    found = re.search(r"\{([a-z][a-z0-9,-]*)\}", text)
    return found[1].split(",") if found else []


def complaints(module, path=None):
    """One line for every --help of this module that is slow or loads something heavy."""
    calibration = min(call("-c", CALIBRATION)[2] for _ in range(3))
    patience = PATIENCE * max(1.0, calibration / CALIBRATION_SECONDS)
    text, _, _ = call("-m", module, "--help", path=path)
    for words in ([], *([word] for word in subcommands(text))):
        command = ("-m", module, *words, "--help")
        seconds = min(call(*command, path=path)[2] for _ in range(5))
        if seconds > patience:
            command_line = f"{module} {' '.join(words)}"
            yield f"{command_line}: --help took {seconds:.2f} s of CPU, more than {patience:.2f} s"
        _, report, _ = call("-X", "importtime", *command, path=path)
        loaded = {
            line.rsplit("|", 1)[-1].strip() for line in report.splitlines() if line.startswith("import")
        }
        if loaded & HEAVY:
            yield f"{module} {' '.join(words)}: --help imports {sorted(loaded & HEAVY)}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once(name):
    found = list(complaints(f"chainrule.{name}"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import json", None),
        ("import time\nwhile time.process_time() < 1.5: pass\nsys.exit()", "s of CPU"),
        ("import scipy", "imports ['scipy']"),
        ("if 'train' in sys.argv: import scipy", "tool train: --help imports"),
    ],
)
def test_a_help_that_keeps_one_waiting_is_found(tmp_path, line, complaint):
    (tmp_path / "tool").mkdir()
    (tmp_path / "scipy.py").write_text("")
    (tmp_path / "tool/__main__.py").write_text(
        f"import sys\n{line}\nprint('usage: tool [-h] {{train,predict}}')\n"
    )
    found = list(complaints("tool", tmp_path))
    assert len(found) <= 3 and (complaint in "\n".join(found) if complaint else not found), found
