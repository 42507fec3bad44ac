"""The comparison is fair: the splits are clean, the baselines exact, the figures what they say."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import Ridge

from chainrule.fingerprints import (
    Head,
    demo,
    load,
    predict,
    random_splits,
    train,
)
from chainrule.fingerprints.__main__ import main
from chainrule.fingerprints.comparison import Outcome, compare, summarize
from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.methods import DEMO_METHODS, MESSAGES_NET, TALK_METHODS, Methods
from chainrule.fingerprints.published import (
    CIRCULAR_LINEAR,
    CIRCULAR_NET,
    MEAN,
    NEURAL_LINEAR,
    NEURAL_NET,
    PUBLISHED,
)
from chainrule.fingerprints.ridge import ridge
from chainrule.fingerprints.settings import (
    CircularNet,
    Linear,
    Neural,
    read_settings,
    shipped_settings,
    write_settings,
)
from chainrule.fingerprints.talk_table import minutes, workers

METHODS = len(DEMO_METHODS)
SMALL = TrainConfig(steps=6, evaluate_every=3, patience=2, batch_size=20)
SETTINGS = {
    CIRCULAR_LINEAR: [Linear(1, "bits", 10.0)],
    CIRCULAR_NET: [CircularNet(1, "log counts", 5, SMALL)],
    NEURAL_LINEAR: [Neural(ModelConfig(depth=1, width=4, length=8, hidden=0), SMALL)],
    NEURAL_NET: [Neural(ModelConfig(depth=1, width=4, length=8, hidden=5), SMALL)],
}


@pytest.mark.parametrize("rows", [30, 200])  # fewer than features, and more
def test_ridge_is_the_closed_form_with_a_free_intercept(monkeypatch, rows):
    monkeypatch.setattr("chainrule.fingerprints.ridge.ROWS_AT_ONCE", 64)
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(rows, 50)) + 3, rng.normal(size=rows) + 7, rng.normal(size=(5, 50))
    for penalty, predictions in zip((0.5, 20.0), ridge(x, y, new, (0.5, 20.0)), strict=True):
        np.testing.assert_allclose(predictions, Ridge(alpha=penalty).fit(x, y).predict(new), rtol=1e-9)


def test_summary_has_mean_and_standard_error_of_both_measures():
    empty = np.zeros(0)
    outcomes = [Outcome(MEAN, k, mse, "", empty, empty, None) for k, mse in enumerate((4.0, 9.0, 16.0))]
    (row,) = summarize(outcomes)
    np.testing.assert_allclose([row.mse, row.rmse], [29 / 3, 3.0])
    np.testing.assert_allclose(row.rmse_error, 1 / np.sqrt(3))  # of 2, 3, 4
    assert row.published == PUBLISHED["delaney"][MEAN] and row.published.talk == 4.29


@pytest.fixture
def few_choices(monkeypatch):
    monkeypatch.setattr("chainrule.fingerprints.methods.LINEAR_CHOICES", ((1, "bits"), (2, "log counts")))


@pytest.mark.slow
@pytest.mark.usefixtures("few_choices")
@pytest.mark.parametrize("refit", [False, True])
def test_every_method_is_tested_on_the_rows_it_never_saw(refit):
    dataset = load("solubility").take(np.arange(150))
    splits = random_splits(150, 1)
    outcomes = list(compare(dataset, splits, refit=refit, steps=20))
    assert len(outcomes) == METHODS
    used = np.concatenate(splits[0][: 2 if refit else 1])
    for outcome in outcomes:
        np.testing.assert_array_equal(outcome.rows, splits[0].test)
        error = np.mean((outcome.predictions - dataset.targets[outcome.rows]) ** 2)
        np.testing.assert_allclose(outcome.test_mse, error, rtol=1e-6)
    mean = outcomes[0].predictions
    np.testing.assert_allclose(mean, dataset.targets[used].mean())
    neural = next(o for o in outcomes if o.method == NEURAL_NET)
    np.testing.assert_allclose(
        predict(neural.model, dataset.molecules.take(neural.rows)), neural.predictions, rtol=1e-5
    )
    # the test targets are used for nothing but the error
    hidden = dataset.targets.copy()
    hidden[splits[0].test] = 1e6
    blind = list(
        compare(type(dataset)(**{**vars(dataset), "targets": hidden}), splits, refit=refit, steps=20)
    )
    for seen, unseen in zip(outcomes, blind, strict=True):
        np.testing.assert_allclose(seen.predictions, unseen.predictions, rtol=1e-5)


@pytest.mark.slow
def test_methods_in_processes_of_their_own_have_the_same_outcomes():
    dataset, splits = load("solubility", rows=60), random_splits(60, 2, validation=0.2, test=0.2)
    options = {"methods": (MEAN, NEURAL_NET), "settings": SETTINGS, "refit": True, "done": {(MEAN, 1)}}
    alone = list(compare(dataset, splits, **options))
    together = list(compare(dataset, splits, **options, processes=2))
    assert [(o.method, o.split) for o in together] == [(NEURAL_NET, 0), (MEAN, 0), (NEURAL_NET, 1)]
    for one, other in zip(alone, [together[i] for i in (1, 0, 2)], strict=True):
        assert (one.choice, one.settings) == (other.choice, other.settings) and other.model is None
        np.testing.assert_allclose(one.predictions, other.predictions, rtol=1e-4)


def test_settings_come_back_from_their_file(tmp_path):
    one_for_each_fold = {NEURAL_NET: [*SETTINGS[NEURAL_NET], *SETTINGS[NEURAL_LINEAR]]}
    settings = {"delaney": SETTINGS, "cep": one_for_each_fold}
    assert read_settings(write_settings(tmp_path / "settings.json", settings)) == settings
    for wrong, words in (
        ('{"delaney": {"neural": [{"model": {"breadth": 3}}]}}', "breadth.*names of settings are radius"),
        ('{"delaney": 3}', "holds no settings"),
        ("not json", "holds no settings"),
    ):
        (tmp_path / "settings.json").write_text(wrong)
        with pytest.raises(ValueError, match=words):
            read_settings(tmp_path / "settings.json")


def test_the_shipped_settings_are_of_methods_of_the_table():
    shipped = shipped_settings()
    assert set(shipped) == set(PUBLISHED)
    for methods in shipped.values():
        assert set(methods) <= {*TALK_METHODS, MESSAGES_NET}
        assert all(len(entries) in (1, 5) for entries in methods.values())


def test_settings_of_another_method_are_refused():
    dataset, splits = load("solubility", rows=30), random_splits(30, 1)
    with pytest.raises(ValueError, match=r"circular \+ linear needs settings of the kind Linear"):
        list(
            compare(
                dataset, splits, methods=[CIRCULAR_LINEAR], settings={CIRCULAR_LINEAR: SETTINGS[NEURAL_NET]}
            )
        )
    with pytest.raises(ValueError, match="'neural' is unknown; choose of predict mean"):
        list(compare(dataset, splits, methods=["neural"]))


@pytest.mark.slow
def test_a_search_in_each_split_does_not_look_at_its_test_rows(monkeypatch):
    for name, sizes in (
        ("DEPTHS", (1,)),
        ("WIDTHS", (4,)),
        ("LENGTHS", (8,)),
        ("HIDDEN", (5,)),
        ("RADII", (1,)),
    ):
        monkeypatch.setattr(f"chainrule.fingerprints.tuning.{name}", sizes)
    dataset, splits = load("solubility", rows=60), random_splits(60, 1, validation=0.2, test=0.2)
    options = {"methods": (CIRCULAR_NET, NEURAL_NET), "settings": SETTINGS, "refit": True, "trials": 3}
    outcomes = list(compare(dataset, splits, **options))
    hidden = dataset.targets.copy()
    hidden[splits[0].test] = 1e6
    blind = list(compare(replace(dataset, targets=hidden), splits, **options))
    for seen, unseen in zip(outcomes, blind, strict=True):
        assert seen.settings == unseen.settings != SETTINGS[seen.method][0]
        assert seen.settings.training.batch_size == SMALL.batch_size
        assert seen.settings.training.steps in (1, 3, 6)
        np.testing.assert_array_equal(seen.predictions, unseen.predictions)


@pytest.fixture
def small_table(tmp_path, monkeypatch):
    """The command `table` on fifty molecules, and the folder that it writes to."""
    rows = [f"{smiles},{len(smiles)}.5" for smiles in load("solubility", rows=50).molecules.smiles]
    (tmp_path / "malaria").mkdir()
    (tmp_path / "malaria" / "malaria-processed.csv").write_text("\n".join(["smiles,activity", *rows, ""]))
    write_settings(tmp_path / "mine.json", {"malaria": SETTINGS})
    methods = (MEAN, CIRCULAR_LINEAR, CIRCULAR_NET, NEURAL_NET)
    monkeypatch.setattr("chainrule.fingerprints.talk_table.TALK_METHODS", methods)

    def run(*options, out="out", settings=tmp_path / "mine.json"):
        arguments = ["--data-dir", tmp_path, "-o", tmp_path / out, "--settings", settings, "--folds", "2"]
        arguments += ["--processes", "1"]
        return main([str(word) for word in ("table", "--data", "malaria", *arguments, *options)])

    return run, tmp_path / "out"


def test_a_table_goes_on_after_a_kill_and_computes_nothing_twice(small_table, capsys, monkeypatch):
    run, out = small_table
    assert run() == 0
    printed = capsys.readouterr().out
    for words in ("2 of 5 contiguous folds", "1.24", "1.36 ± 0.10", NEURAL_NET):
        assert words in printed
    assert printed.index("About") < printed.index("fold 1 of 2 done") < printed.index("predict mean")
    assert "MSE in (ln(EC50 / uM))², RMSE in ln(EC50 / uM)" in (out / "table.md").read_text()
    outcomes = out / "malaria-outcomes.jsonl"
    whole, table = outcomes.read_text(), (out / "table.md").read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 4
    outcomes.write_text("".join(lines[:6]) + lines[6][:40])  # one fold and one more, and a torn line
    asked = []
    answers = Methods.neural
    monkeypatch.setattr(Methods, "neural", lambda *args: asked.append(args[1]) or answers(*args))
    assert run("--resume") == 0
    assert asked == [NEURAL_NET]  # of the second fold
    assert outcomes.read_text() == whole and (out / "table.md").read_text() == table
    assert run("--resume", "--seed", "1") == 1
    assert "give another --out, or leave out --resume" in capsys.readouterr().err


def test_the_settings_that_a_table_writes_give_the_same_table_without_choosing(small_table, monkeypatch):
    run, out = small_table
    assert run() == 0
    chosen = read_settings(out / "settings.json")["malaria"]
    assert [one.training.patience for one in chosen[NEURAL_NET]] == [0, 0]
    trained = []
    fit = Methods.fit
    monkeypatch.setattr(Methods, "fit", lambda *args: trained.append(args[5]) or fit(*args))
    assert run(out="again", settings=out / "settings.json") == 0
    assert trained == 4 * ["refit"]
    assert (out / "table.csv").read_text() == (out.parent / "again" / "table.csv").read_text()


def test_a_table_whose_process_dies_says_so_in_one_line(small_table, capsys, monkeypatch):
    def compare(*args, **kwargs):
        raise RuntimeError("one of processes=2 died")

    monkeypatch.setattr("chainrule.fingerprints.talk_table.compare", compare)
    assert small_table[0]() == 1
    assert capsys.readouterr().err == "error: one of processes=2 died\n"


def test_the_minutes_are_those_of_the_processes_that_have_a_core():
    """The whole table took 770 s in two processes on two cores."""
    about = partial(minutes, PUBLISHED, TALK_METHODS, shipped_settings(), 5, None, 0)
    assert about(workers(2, cores=2)) == pytest.approx(770 / 60, rel=0.1)
    assert about(workers(1, cores=2)) == 2 * about(workers(2, cores=2))
    assert about(workers(8, cores=2)) == about(workers(2, cores=2)) == 2 * about(workers(8, cores=4))


def test_the_table_says_how_long_it_takes_with_its_processes(small_table, capsys, monkeypatch):
    monkeypatch.setattr("chainrule.fingerprints.talk_table.compare", lambda *args, **kwargs: [][0])
    with pytest.raises(IndexError):
        small_table[0]()
    assert "About 1 minutes with --processes 1 on" in capsys.readouterr().out


@pytest.mark.parametrize("name, value", [("folds", 6), ("trials", -1), ("steps", 0)])
def test_the_table_refuses_bad_options_before_any_work(small_table, capsys, name, value):
    assert small_table[0](f"--{name}", value) == 1
    assert f"--{name} {value}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("few_choices")
def test_the_demo_writes_its_table_and_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("chainrule.fingerprints.demo.QUICK_STEPS", 20)
    assert main(["demo", "--quick", "--splits", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for words in ("1274 molecules", "mean squared errors", "RMSE", "4.29", "1.40", "0.53"):
        assert words in printed
    with (tmp_path / "solubility.csv").open() as file:
        table = list(csv.reader(file))
    assert len(table) == 1 + METHODS and table[1][0] == MEAN
    for stem in ("fragments-soluble", "fragments-insoluble", "predicted"):
        for suffix in ("svg", "png"):
            assert (tmp_path / f"solubility-{stem}.{suffix}").stat().st_size > 1000
    with (tmp_path / "solubility-predicted.csv").open() as file:
        assert len(list(file)) == 1 + 2 * 127
    assert (
        tmp_path / "runs" / "solubility-seed0-quick-2splits" / "neural-net-0-0" / "metrics.jsonl"
    ).is_file()


def test_the_table_is_printed_and_kept_whatever_becomes_of_the_pictures(tmp_path, capsys, monkeypatch):
    def guess(dataset, splits, **settings):
        for name in (MEAN, NEURAL_NET):
            yield Outcome(name, 0, 4.2, "", splits[0].test, np.zeros(len(splits[0].test)), None)

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(demo, "compare", guess)
    monkeypatch.setattr(demo, "_draw", fail)
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 1
    printed, error = capsys.readouterr()
    assert error == "error: no space left\n"
    assert NEURAL_NET in printed and "4.20" in printed and "solubility-splits.csv" in printed
    assert (tmp_path / "solubility.csv").stat().st_size > 50


def test_a_demo_that_may_not_resume_says_which_options_help(tmp_path, capsys, monkeypatch):
    def fit(dataset, splits, *, run_dir, resume, **settings):
        x, head = np.ones((len(dataset), 1), np.float32), Head(1, hidden=0, rngs=nnx.Rngs(0))
        yield train(head, x, dataset.targets, [0, 1], run_dir=run_dir / "head", resume=resume)

    monkeypatch.setattr(demo, "compare", fit)
    folder = tmp_path / "runs" / "solubility-seed0-quick-2splits" / "head"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"featurizer_version": 1, "config": "another"}')
    assert main(["demo", "--quick", "--out", str(tmp_path), "--resume"]) == 1
    error = capsys.readouterr().err
    assert "holds a run with config another" in error and "run_dir" not in error
    assert error.endswith("; give another --out, or leave out --resume to replace it\n")
    (folder / "config.json").write_text("mine")
    assert main(["demo", "--quick", "--out", str(tmp_path), "--resume"]) == 1
    assert capsys.readouterr().err.endswith("is not empty and holds no run; give another --out\n")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--splits", "0"], "--splits 0"),
        (["--data", "delaney", "--splits", "9"], "delaney has 5 folds; give --splits 5 or fewer"),
        (["--seed", "-1"], "--seed -1"),
        ([], "Not a directory"),
    ],
)
def test_the_demo_refuses_bad_options_before_any_work(tmp_path, capsys, options, words):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out" if not options else tmp_path
    assert main(["demo", "--quick", "--out", str(out), *options]) == 1
    assert words in capsys.readouterr().err


def test_the_demo_fails_with_one_line_when_the_data_are_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CHAINRULE_DATA", raising=False)
    monkeypatch.setattr("pooch.retrieve", lambda *args, **kwargs: 1 / 0)
    assert main(["demo", "--data", "delaney", "--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: delaney/delaney-processed.csv is not there") and "Traceback" not in error
