"""The command line runs experiments, tells what it does, and ends in a table and the files' names."""

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="the commands need the extra [experiments]")

from chainrule.hypergrad.__main__ import main
from chainrule.hypergrad.experiments import learned_commands
from chainrule.hypergrad.experiments.commands import COMMANDS

TINY = {
    "chaos": dict(rows=200, hidden=(4,), batch_size=10, steps=4, log_rates=(-1.0, 3.0, 8)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_with_two_settings(name):
    module = importlib.import_module(f"chainrule.hypergrad.experiments.{COMMANDS[name].module}")
    options = {field.name for field in dataclasses.fields(COMMANDS[name])} - {"quick", "out", "resume"}
    for settings in (module.FULL, module.QUICK):
        dataclasses.replace(settings, **{option: getattr(settings, option) for option in options})
        assert settings.seeds == 5 and len(module.plan(settings)) > 40
    assert module.FULL != module.QUICK


@pytest.mark.parametrize("name", TINY)
def test_a_command_tells_what_it_does_and_where_the_results_are(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f"chainrule.hypergrad.experiments.{COMMANDS[name].module}")
    monkeypatch.setattr(module, "QUICK", dataclasses.replace(module.QUICK, **TINY[name]))
    arguments = [name, "--quick", "--data", "digits", "--seeds", "2", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("2 times on digits") and "2 seeds" in out and not err
    assert lines[-1].startswith("wrote") and str(tmp_path / "out/table.md") in lines[-1]
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == out


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    assert main(["chaos", "--seeds", "1", "-o", str(tmp_path)]) == 1
    assert "--seeds 1 must be at least 2" in capsys.readouterr().err
    (tmp_path / "outcomes.jsonl").write_text("{}\n")
    assert main(["chaos", "--quick", "--data", "digits", "--resume", "-o", str(tmp_path)]) == 1
    assert "give another --out" in capsys.readouterr().err


def test_help_lists_the_experiments(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("schedules", "init-scales", "chaos"))


def test_the_full_validation_runs_every_command():
    noxfile = ast.parse((Path(__file__).parents[2] / "noxfile.py").read_text())
    (names,) = (
        line.value.func.value.value  # of EXPERIMENTS = "...".split()
        for line in noxfile.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "EXPERIMENTS"
    )
    assert sorted(names.split()) == sorted({**COMMANDS, **learned_commands.COMMANDS})
