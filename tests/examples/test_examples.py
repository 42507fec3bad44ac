"""What a reader may copy runs as it stands: every file of examples/, every Python block of the documentation.

Each runs in a process of its own, in an empty folder, with JAX as a user finds it. The blocks of one
page are one program, line for line where the page has them, so that a traceback names the page's lines.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SECONDS = 60
LINES = 80
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
PAGES = sorted(
    file
    for glob in ("README.md", "*/README.md", "packages/*/README.md", "docs/**/*.md")
    for file in ROOT.glob(glob)
)
BLOCK = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def program_of(page):
    """The Python blocks of a Markdown text, everything else blanked out: line n stays line n."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(2))
        for number, line in enumerate(block[2].splitlines(), first):
            lines[number] = line.removeprefix(block[1])
    return "\n".join(lines)


def run(file, folder):
    """Run a Python file in a folder; what it wrote to stderr if it failed."""
    environment = os.environ | {"MPLBACKEND": "agg"}  # no window
    child = subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    return child.stderr if child.returncode else None


def relative(file):
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", EXAMPLES, ids=relative)
def test_example_runs(file, tmp_path):
    error = run(file, tmp_path)
    assert error is None, error


@pytest.mark.parametrize("file", EXAMPLES, ids=relative)
def test_example_is_short(file):
    assert len(file.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=relative)
def test_page_runs(page, tmp_path):
    program = tmp_path / f"{page.parent.name}_{page.stem}.py"
    program.write_text(program_of(page.read_text()))
    error = run(program, tmp_path)
    assert error is None, error


def test_there_are_pages_and_examples():
    assert EXAMPLES and {ROOT / "README.md", ROOT / "shared/README.md"} <= set(PAGES)


PAGE = """# A page

```python
x = 1
```

* A list, and in it

  ```python
  assert x == {}
  ```

```text
not to be run
```
"""


def test_the_blocks_of_a_page_are_one_program(tmp_path):
    (tmp_path / "page.py").write_text(program_of(PAGE.format(1)))
    assert run(tmp_path / "page.py", tmp_path) is None


def test_a_block_that_fails_is_found_at_its_line(tmp_path):
    (tmp_path / "page.py").write_text(program_of(PAGE.format(2)))
    error = run(tmp_path / "page.py", tmp_path)
    assert "AssertionError" in error
    assert f'page.py", line {PAGE.splitlines().index("  assert x == {}") + 1}' in error
