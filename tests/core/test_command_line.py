"""A package's commands are read from the words and run; mistakes are told in a line, with a status."""

import json
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="commands need tyro")
pytest.importorskip("rich", reason="a terminal needs rich")

from chainrule.core.experiments.command_line import command_line
from chainrule.core.experiments.commands import Experiment
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import write_report


@dataclass(frozen=True)
class Settings:
    seeds: int = 3
    seed: int = 0
    size: int = 1
    fails: str = ""


@dataclass(frozen=True)
class Made(Experiment):
    """An experiment made up."""

    module = "made_up"
    fails: str | None = None
    out: Path = Path("made-output")


FAILURES = {"loud": NotImplementedError, "value": ValueError, "kill": KeyboardInterrupt}


def run(settings, out, *, resume, progress):
    if settings.fails:
        raise {"loud": NotImplementedError, "value": ValueError, "kill": KeyboardInterrupt}[settings.fails](
            "why"
        )
    outcomes = Outcomes(out, {"size": settings.size}, resume=resume)
    for seed in range(settings.seed, settings.seed + settings.seeds):
        outcomes.once("ours", seed, lambda seed=seed: {"loss": settings.size * seed})
        progress("ours", seed, settings.seeds)
    return write_report(out, "Made up", outcomes, {"loss": "nats"})


@pytest.fixture
def made(monkeypatch):
    """The status of the words after the command's name."""
    plan = lambda settings: f"plan of size {settings.size}"
    experiment = types.SimpleNamespace(FULL=Settings(), QUICK=Settings(size=10), run=run, plan=plan)
    monkeypatch.setitem(sys.modules, "made", types.SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "made.made_up", experiment)
    monkeypatch.setattr(Made, "__module__", "made.commands")
    commands = {"made": Made, "other": Made}
    return lambda *words: command_line("made", "Made up.", lambda: commands, ["made", *words])


def test_a_command_tells_its_plan_its_table_and_its_files(made, tmp_path, capsys):
    assert made("--quick", "--seeds", "2", "--out", str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert told.startswith("plan of size 10") and "| ours | 5.0 ± 5.0 " in told
    assert str(tmp_path / "table.md") in told
    first, *others = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    assert json.loads(first) == {"size": 10} and len(others) == 2


def test_options_left_out_are_those_of_the_settings(made, tmp_path, capsys):
    assert made("--out", str(tmp_path)) == 0
    assert "plan of size 1" in capsys.readouterr().out
    assert made("--quick", "--resume", "--out", str(tmp_path)) == 1
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--seeds", "1"], 1, "error: --seeds 1 must be at least 2, to have a spread"),
        (["--fails", "value"], 1, "error: why"),
        (["--fails", "kill"], 130, "interrupted; --resume goes on from here"),
        (["--out", "~nobody-of-that-name/x"], 1, "nobody's home has that name"),
    ],
)
def test_a_mistake_is_told_in_one_line(made, capsys, words, status, told):
    assert made(*words) == status
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_what_is_no_fault_of_the_users_is_raised(made):
    with pytest.raises(NotImplementedError):
        made("--fails", "loud")


def test_a_package_that_is_missing_is_named_with_the_extra_that_has_it(capsys):
    def load():
        import nowhere_to_be_found  # noqa: F401  # pyrefly: ignore

    assert command_line("made", "Made up.", load, ["x"]) == 1
    assert (
        "'nowhere_to_be_found': pip install 'chainrule-made[experiments]' has it" in capsys.readouterr().err
    )


def test_the_core_imports_without_what_commands_need():
    program = (
        "import sys; import chainrule.core.experiments.outcomes; assert not {'tyro', 'rich'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
