"""The command line runs experiments, tells what it does, and ends in a table and the files' names."""

import dataclasses

import jax
import pytest

pytest.importorskip("tyro", reason="the commands need the extra [experiments]")

from chainrule.svae.__main__ import main
from chainrule.svae.experiments import dots, pinwheel


@pytest.mark.slow
def test_dots_are_told_in_a_table_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dots, "QUICK", dots.Settings(steps=2, systems=2, films=40, judged=3, samples=4))
    out = tmp_path / "out"
    arguments = ["dots", "--quick", "--seeds", "1", "-o", str(out)]
    with jax.enable_x64(False):  # as users run it
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "| model |" in printed and "| autoregression on 20 frames |" in printed
        assert {file.name for file in out.iterdir()} == {"seed-0.json", "seed-0.png", "table.md"}
        assert main([*arguments, "--resume"]) == 0
        assert capsys.readouterr().out == printed
    monkeypatch.setattr(dots, "QUICK", dataclasses.replace(dots.QUICK, steps=3))
    assert main([*arguments, "--resume"]) == 1
    assert "give another --out" in capsys.readouterr().err


def test_dots_of_one_speed_are_one_system_and_others_a_mixture():
    fixed, random = (dots.Settings(speed=speed) for speed in ("fixed", "random"))
    assert dots.model_of(fixed).prior.first.x.shape == (10,)
    assert dots.model_of(random).prior.components.first.x.shape == (20, 2)
    assert dots.world_of(fixed).speed == 0.75 and dots.world_of(random).speed == (0.5, 1.0)


@pytest.mark.slow
def test_the_pinwheel_is_told_in_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pinwheel, "QUICK", pinwheel.Settings(steps=2))
    with jax.enable_x64(False):
        assert main(["pinwheel", "--quick", "--seeds", "1", "-o", str(tmp_path)]) == 0
    assert "| 100 | " in capsys.readouterr().out
    assert "adjusted Rand index" in (tmp_path / "table.md").read_text()


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    assert main(["dots", "--seeds", "0", "-o", str(tmp_path)]) == 1
    assert "--seeds 0 must be at least 1" in capsys.readouterr().err
