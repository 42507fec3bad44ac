"""What every tracked file keeps to: its place, its length, paths that exist elsewhere, links that resolve."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LONGEST = 400  # lines; a file is one idea, readable in one sitting
READ_IN_A_SITTING = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".sh", ""}
# A path of somebody's machine: it would work nowhere else. The lookbehind lets https://host/work/ pass.
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:work|tmp|root|home/\w+|Users/\w+|var/folders)/")
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def tracked(root):
    """The files that git keeps; in a copy without git, all but hidden folders and built things."""
    try:
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        files = [root / name for name in names.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = re.compile(r"(^|/)(\.(?!ci/)|__pycache__|dist/)")
        files = [f for f in root.rglob("*") if not hidden.search(f.relative_to(root).as_posix())]
    return sorted(file for file in files if file.is_file())


def text_of(file):
    try:
        return file.read_text()
    except UnicodeDecodeError:  # a picture
        return ""


def strays(files):
    return [file for file in files if file.parts[-3:] == ("src", "chainrule", "__init__.py")]


def too_long(files):
    lengths = {file: len(text_of(file).splitlines()) for file in files if file.suffix in READ_IN_A_SITTING}
    return [f"{file}: {lines} lines" for file, lines in lengths.items() if lines > LONGEST]


def machine_paths(files):
    lines = [(f, n, line) for f in files for n, line in enumerate(text_of(f).splitlines(), 1)]
    return [f"{file}:{number}: {line.strip()}" for file, number, line in lines if MACHINE_PATH.search(line)]


def headings(file):
    """The anchors that a forge gives to the headings of a Markdown file."""
    titles = re.findall(r"^#+ +(.+?) *#*$", CODE.sub(lambda m: m[0].strip("`"), text_of(file)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(files):
    """Links of Markdown files to a file, or to a heading, that is not there."""
    for file in files:
        if file.suffix != ".md":
            continue
        for match in MARKDOWN_LINK.finditer(CODE.sub("", text_of(file))):
            link = match[1] or match[2]
            path, _, anchor = link.partition("#")
            target = file.parent / path if path else file
            if re.match(r"[a-z]+:", link):  # https:, mailto:
                continue
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target)):
                yield f"{file}: {link}"


def assert_none(found):
    found = [str(what).replace(f"{ROOT}/", "") for what in found]
    assert not found, "\n".join(found)


def test_the_namespace_has_no_init():
    """One src/chainrule/__init__.py would hide every other package, whether git keeps it or not."""
    folders = [ROOT / "shared", *(ROOT / "packages").iterdir()]
    assert_none(strays(file for folder in folders for file in folder.rglob("__init__.py")))


def test_files_are_read_in_one_sitting():
    assert_none(too_long(tracked(ROOT)))


def test_no_path_of_a_machine():
    assert_none(machine_paths(file for file in tracked(ROOT) if file != Path(__file__)))


def test_links_resolve():
    assert_none(dead_links(tracked(ROOT)))


def test_every_member_carries_the_licence():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    for folder in [ROOT / "shared", *(file.parent for file in ROOT.glob("packages/*/pyproject.toml"))]:
        assert (folder / "LICENSE").read_text() == licence, f"{folder}/LICENSE"


def test_there_is_something_to_check():
    names = {file.relative_to(ROOT).as_posix() for file in tracked(ROOT)}
    assert {"noxfile.py", "README.md", "shared/README.md", "tests/workspace/test_tree.py"} <= names


def test_a_stray_init_is_found(tmp_path):
    file = tmp_path / "packages/svae/src/chainrule/__init__.py"
    assert strays([file, tmp_path / "packages/svae/src/chainrule/svae/__init__.py"]) == [file]


@pytest.mark.parametrize(("name", "found"), [("a.py", 1), ("LICENSE", 1), ("a.svg", 0)])
def test_a_long_file_is_found(tmp_path, name, found):
    (tmp_path / name).write_text("x = 1\n" * (LONGEST + 1))
    assert len(too_long([tmp_path / name])) == found
    (tmp_path / name).write_text("x = 1\n" * LONGEST)
    assert too_long([tmp_path / name]) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cd /work/chainrule", 1),
        ("open('/tmp/x')", 1),
        ("file:///home/me/x", 1),
        ("https://example.org/work/tmp/x", 0),
        ("../work/x and a/tmp/b", 0),
    ],
)
def test_a_path_of_a_machine_is_found(tmp_path, line, found):
    (tmp_path / "a.md").write_text(line)
    assert len(machine_paths([tmp_path / "a.md"])) == found


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("[x](b.md)", 0),
        ("[x](b.md#two-words-more)", 0),
        ("[x](#here)", 0),
        ("[x](https://example.org/gone)", 0),
        ("```\n[x](gone.md)\n```", 0),
        ("[x](gone.md)", 1),
        ("![x](gone.png 'title')", 1),
        ('<img src="gone.svg">', 1),
        ("[x](b.md#nowhere)", 1),
        ("[x](#nowhere)", 1),
    ],
)
def test_a_dead_link_is_found(tmp_path, link, found):
    (tmp_path / "b.md").write_text("## Two `words`, more\n")
    (tmp_path / "a.md").write_text(f"# Here\n\n{link}\n")
    assert len(list(dead_links([tmp_path / "a.md"]))) == found
