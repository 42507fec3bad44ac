"""The command line runs experiments, tells what it does, and ends in a table and the files' names."""

import dataclasses

import jax
import pytest

pytest.importorskip("tyro", reason="the commands need the extra [experiments]")

from chainrule.core.experiments.outcomes import Outcome
from chainrule.svae.__main__ import main
from chainrule.svae.experiments import ball, dots, pinwheel
from chainrule.svae.experiments.results import table
from chainrule.svae.experiments.rivals import RIVALS, Grid

LITTLE = Grid(lags=(2,), ridges=(1.0,), states=(2,), rounds=1, latents=(2,), steps=2)


@pytest.mark.slow
def test_dots_are_told_in_a_table_and_resumed(tmp_path, monkeypatch, capsys):
    settings = dots.Settings(seeds=1, most_steps=2, films=40, judged=3, samples=4, grid=LITTLE)
    monkeypatch.setattr(dots, "QUICK", settings)
    out = tmp_path / "out"
    arguments = ["dots", "--quick", "--speed", "fixed", "-o", str(out)]
    with jax.enable_x64(False):  # as users run it
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "| model |" in printed and all(f"| {name} |" in printed for name in RIVALS)
        assert {file.name for file in out.iterdir()} == {"outcomes.jsonl", "seed-0.png", "table.md"}
        assert main([*arguments, "--resume"]) == 0
        assert capsys.readouterr().out == printed
    monkeypatch.setattr(dots, "QUICK", dataclasses.replace(dots.QUICK, most_steps=3))
    assert main([*arguments, "--resume"]) == 1
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_ball_is_told_in_a_table_with_a_picture(tmp_path, monkeypatch, capsys):
    settings = ball.Settings(steps=2, systems=2, films=20, judged=3, samples=2, grid=LITTLE)
    monkeypatch.setattr(ball, "QUICK", settings)
    monkeypatch.setattr(ball, "RIVALS", {})  # those of the dot take long enough
    with jax.enable_x64(False):
        assert main(["ball", "--quick", "--seeds", "1", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "smoothed | filtered | generated" in printed and "| last frame |" in printed
    assert {file.name for file in tmp_path.iterdir()} == {"outcomes.jsonl", "seed-0.gif", "table.md"}


def test_a_table_has_the_mean_the_least_and_the_largest():
    found = [
        Outcome("model", 0, {"MSE": 0.2, "chosen": "a"}),
        Outcome("other", 0, {"seconds": 9.0}),
        Outcome("model", 1, {"MSE": 0.4, "chosen": "b"}),
    ]
    text = table("Title", found, ["MSE", "chosen", "seconds"], "Below.")
    assert "| model | 0.3 (0.2 to 0.4) | a, b |  |" in text and text.startswith("**Title**")
    assert "| other |  |  | 9 |" in text and "of 2 seeds. Below." in text


def test_dots_of_one_speed_are_one_system_and_others_a_mixture():
    fixed, random = (dots.Settings(speed=speed) for speed in ("fixed", "random"))
    assert dots.model_of(fixed).prior.first.x.shape == (10,)
    assert dots.model_of(random).prior.components.first.x.shape == (24, 2)
    assert dots.world_of(fixed).speed == 0.75 and dots.world_of(random).speed == (0.5, 1.0)


@pytest.mark.slow
def test_the_pinwheel_is_told_in_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pinwheel, "QUICK", pinwheel.Settings(steps=2))
    with jax.enable_x64(False):
        assert main(["pinwheel", "--quick", "--seeds", "2", "-o", str(tmp_path)]) == 0
    assert "| model | " in capsys.readouterr().out
    assert "adjusted Rand index" in (tmp_path / "table.md").read_text()


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    assert main(["dots", "--seeds", "0", "-o", str(tmp_path)]) == 1
    assert "--seeds 0 must be at least 1" in capsys.readouterr().err
