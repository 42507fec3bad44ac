"""The search: validation rows decide, the better trials get more steps, a killed one goes on."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from chainrule.fingerprints import load, random_splits, train
from chainrule.fingerprints.__main__ import main
from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.training import TrainingDiverged
from chainrule.fingerprints.tuning import circular_candidates, halving, neural_candidates, trainings, tune

TRAINING = TrainConfig(steps=40, batch_size=16)


@pytest.fixture(scope="module")
def dataset():
    return load("solubility", rows=60)


@pytest.fixture
def small(monkeypatch):
    """Networks of one small size, so that one compilation serves every trial."""
    for name, sizes in (("DEPTHS", (1,)), ("WIDTHS", (4,)), ("LENGTHS", (8,)), ("HIDDEN", (6,))):
        monkeypatch.setattr(f"chainrule.fingerprints.tuning.{name}", sizes)


def search(dataset, split, **options):
    return tune(
        dataset.molecules, dataset.targets, split, trials=6, training=TRAINING, variants=("talk",), **options
    )


def test_better_trials_get_more_steps():
    candidates = neural_candidates(20, 0, ModelConfig(), replace(TRAINING, steps=400))
    asked = []

    def error(settings):
        asked.append((settings.training.steps, settings.training.learning_rate))
        return settings.training.learning_rate / settings.training.steps

    found = halving(candidates, error)
    rates = sorted(c.training.learning_rate for c in candidates)
    steps = [steps for steps, _ in asked]
    assert [steps.count(n) for n in (100, 200, 400)] == [20, 7, 3] == [n for _, n in trainings(20)]
    assert sorted(rate for n, rate in asked if n == 200) == rates[:7]
    assert sorted(rate for n, rate in asked if n == 400) == rates[:3]
    assert found[0].error == min(trial.error for trial in found) == rates[0] / 400
    assert all(t.settings.training.patience == 0 for t in found)  # what is chosen needs no choice of steps


def test_a_trial_that_diverges_is_the_last_and_ends_nothing(tmp_path):
    def error(settings):
        if settings.training.learning_rate > 3e-3:
            raise TrainingDiverged
        return 1.0

    found = halving(circular_candidates(8, 0, TRAINING), error)
    assert [math.isinf(t.error) for t in found] == sorted(
        t.settings.training.learning_rate > 3e-3 for t in found
    )
    assert found[0].error == 1.0 and math.isinf(found[-1].error)


def test_a_linear_head_stays_linear():
    candidates = neural_candidates(9, 0, ModelConfig(hidden=0), TRAINING, ("original",))
    assert {(c.model.hidden, c.model.variant) for c in candidates} == {(0, "original")}
    assert len({c.training.learning_rate for c in candidates}) == 9
    with pytest.raises(ValueError, match="trials=0"):
        neural_candidates(0, 0, ModelConfig(), TRAINING)


@pytest.mark.usefixtures("small")
def test_only_validation_rows_decide(dataset):
    split = random_splits(60, 1, validation=0.3, test=0.3)[0]
    found = search(dataset, split)
    hidden = dataset.targets.copy()
    hidden[split.test] = np.nan
    blind = tune(dataset.molecules, hidden, split, trials=6, training=TRAINING, variants=("talk",))
    assert blind == found
    hidden = dataset.targets.copy()
    hidden[split.validation] *= -1
    assert search(replace(dataset, targets=hidden), split)[0] != found[0]
    with pytest.raises(ValueError, match="no validation rows"):
        search(dataset, split._replace(validation=split.validation[:0]))


@pytest.mark.usefixtures("small")
def test_a_killed_search_goes_on_to_the_same_end(dataset, tmp_path, monkeypatch):
    split = random_splits(60, 1, validation=0.3)[0]
    record = tmp_path / "new" / "trials.jsonl"
    found = search(dataset, split, record=record)
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:6]) + lines[6][:30])  # five trials, and a torn line
    trained = []
    monkeypatch.setattr(
        "chainrule.fingerprints.tuning.train", lambda *args: trained.append(args) or train(*args)
    )
    assert search(dataset, split, record=record, resume=True) == found
    assert len(trained) == len(found) - 5
    assert record.read_text() == "".join(lines)
    with pytest.raises(ValueError, match=r"trials\.jsonl holds a run of .*give another --out"):
        search(dataset, random_splits(60, 1, seed=1)[0], record=record, resume=True)


@pytest.mark.usefixtures("small")
def test_the_command_writes_settings_and_says_how_to_train_them(dataset, tmp_path, capsys):
    with (tmp_path / "in.csv").open("w", newline="") as file:
        rows = zip(dataset.molecules.smiles, dataset.targets, strict=True)
        csv.writer(file).writerows([("smiles", "y"), *rows, ("C(", 1.0)])
    options = ["--trials", "3", "--steps", "8", "--batch-size", "16", "--variants", "talk"]
    out = tmp_path / "out"
    assert main(["tune", str(tmp_path / "in.csv"), "-t", "y", "-o", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "1 of 61 rows are left out" in printed and "48 rows to train, 6 to choose by" in printed
    best = json.loads((out / "settings.json").read_text())
    assert best["model"]["width"] == 4 and best["training"]["steps"] in (2, 4, 8)
    command = printed.split("Train it with: ")[1].split()
    assert main([*command, "-o", str(tmp_path / "model")]) == 0
    config = json.loads((tmp_path / "model" / "run" / "config.json").read_text())["config"]
    for name in ("steps", "batch_size", "seed"):
        assert config[name] == best["training"][name]
    np.testing.assert_allclose(config["learning_rate"], best["training"]["learning_rate"], rtol=1e-5)
    assert main(["tune", str(tmp_path / "in.csv"), "-t", "y", "-o", str(out), "--trials", "0"]) == 1
    assert "trials=0 must be at least 1" in capsys.readouterr().err
    assert main(["tune", "no.csv", "-t", "y", "-o", str(out), "--variants", ""]) == 1
    assert "--variants '': give names with commas between them" in capsys.readouterr().err
