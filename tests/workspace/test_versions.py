"""One version number for all distributions, and members that require the core of that version."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def projects(root):
    """The [project] table of the root and of every member, by its folder."""
    files = [
        root / "pyproject.toml",
        root / "shared/pyproject.toml",
        *sorted(root.glob("packages/*/pyproject.toml")),
    ]
    return {file.parent.relative_to(root).as_posix(): tomllib.loads(file.read_text()) for file in files}


def disagreements(root):
    """One line for everything that does not fit the root's version number."""
    found = projects(root)
    version = found["."]["project"]["version"]
    major, minor, _ = map(int, version.split("."))
    core = f"chainrule-core>={major}.{minor},<{major}.{minor + 1}"
    for folder, tables in found.items():
        project = tables["project"]
        if project["version"] != version:
            yield f"{folder}: version {project['version']}, the root says {version}"
        if folder.startswith("packages/"):
            if core not in project["dependencies"]:
                yield f"{folder}: should require {core}"
            name = Path(folder).name
            if project["name"] != f"chainrule-{name}":
                yield f"{folder}: is named {project['name']}, not chainrule-{name}"
            extras = found["."]["project"]["optional-dependencies"]
            if extras.get(name) != [f"chainrule-{name} @ {{root:uri}}/{folder}"]:
                yield f"{folder}: the root has no extra of that name which points there"
            if name not in re.split(r"[\[\],]", extras["all"][0]):
                yield f"{folder}: not in the root's extra `all`"
        if project["requires-python"] != found["."]["project"]["requires-python"]:
            yield f"{folder}: requires-python {project['requires-python']}"
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text():
        yield f"CITATION.cff: not version {version}"
    if f"\n## [{version}]" not in (root / "CHANGELOG.md").read_text():
        yield f"CHANGELOG.md: nothing about {version}"


def test_all_versions_agree():
    found = list(disagreements(ROOT))
    assert not found, "\n".join(found)


def fake_house(root):
    """A root and two members that agree."""
    head = '[project]\nname = "{}"\nversion = "0.3.1"\nrequires-python = ">=3.11"\n'
    texts = {
        "pyproject.toml": head.format("chainrule") + "[project.optional-dependencies]\n"
        'svae = ["chainrule-svae @ {root:uri}/packages/svae"]\nall = ["chainrule[svae]"]\n',
        "shared/pyproject.toml": head.format("chainrule-core"),
        "packages/svae/pyproject.toml": head.format("chainrule-svae")
        + 'dependencies = ["chainrule-core>=0.3,<0.4"]\n',
        "CITATION.cff": "cff-version: 1.2.0\nversion: 0.3.1\n",
        "CHANGELOG.md": "# Changes\n\n## [0.3.1]\n",
    }
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_house_that_agrees_passes(tmp_path):
    assert list(disagreements(fake_house(tmp_path))) == []


@pytest.mark.parametrize(
    ("path", "right", "wrong", "complaint"),
    [
        ("shared/pyproject.toml", "0.3.1", "0.3.0", "shared: version 0.3.0"),
        ("packages/svae/pyproject.toml", "0.3.1", "0.4.0", "packages/svae: version 0.4.0"),
        ("packages/svae/pyproject.toml", ">=0.3,<0.4", ">=0.3", "should require chainrule-core>=0.3,<0.4"),
        ("packages/svae/pyproject.toml", "chainrule-svae", "svae", "is named svae"),
        ("packages/svae/pyproject.toml", ">=3.11", ">=3.12", "requires-python >=3.12"),
        ("pyproject.toml", "/packages/svae", "/svae", "no extra of that name"),
        ("pyproject.toml", "chainrule[svae]", "chainrule", "not in the root's extra `all`"),
        ("CITATION.cff", "0.3.1", "0.3.0", "CITATION.cff"),
        ("CHANGELOG.md", "0.3.1", "0.3.0", "CHANGELOG.md"),
    ],
)
def test_each_disagreement_is_found(tmp_path, path, right, wrong, complaint):
    file = fake_house(tmp_path) / path
    file.write_text(file.read_text().replace(right, wrong))
    (found,) = disagreements(tmp_path)
    assert complaint in found
