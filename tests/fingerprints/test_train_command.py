"""From a table to a model in a folder, and from the folder to predictions and pages, as one would type it."""

import csv
import json
import re

import numpy as np
import pytest
from flax import nnx

from chainrule.fingerprints import Ensemble, PropertyModel, featurize, load_model, predict, save_model
from chainrule.fingerprints.__main__ import main
from chainrule.fingerprints.fitting import assess, roc_auc
from chainrule.fingerprints.objective import Prediction

SMALL = "--depth 2 --width 8 --length 8 --hidden 8 --steps 20 --batch-size 16 --evaluate-every 10".split()

SIZES = {"depth": 2, "width": 8, "length": 8, "hidden": 8}
TINY = "--steps 1 --batch-size 16".split()
BY_PART = "--split column --split-column part".split()


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """A table of chains: their length, whether they are alcohols, half of them measured; some rows wrong.
    Of the last columns one says always yes, one has a number in test rows only, one nowhere."""
    path = tmp_path_factory.mktemp("chains") / "chains.csv"
    rows = [
        ["C" * n + "O" * o, n + o, o if n % 2 else "", "train", 1, "", ""]
        for n in range(2, 32)
        for o in (0, 1)
    ]
    for row in rows[1::6]:
        row[3], row[5] = "test", 7
    for row in rows[2::6]:
        row[3] = "val"
    rows += [["xx", 3, 1, "train", 1, 1, 1], ["CC", "", "", "train", "", "", ""]]
    names = ["smiles", "atoms", "alcohol", "part", "yes", "tested", "nothing"]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    return main([str(a) for a in arguments])


def test_a_model_in_a_folder_predicts_what_it_predicted_when_it_was_made(chains, tmp_path, capsys):
    out = tmp_path / "model"
    options = ["--split", "column", "--split-column", "part", "--members", "2", *SMALL]
    assert run("train", chains, "-t", "atoms", "-o", out, *options) == 0
    said, warned = capsys.readouterr()
    assert "2 of 62 rows are left out; the first is row 60" in said
    uncalibrated = "predicted_atoms_std is not calibrated"
    assert f"{uncalibrated}: atoms has 10 validation rows, and it takes 20" in warned
    assert "40 rows to train, 10 to choose by, 10 to test" in said
    tested = rows_of(out / "test-predictions.csv")
    assert [row["smiles"] for row in tested] == [r["smiles"] for r in rows_of(chains) if r["part"] == "test"]
    error = np.mean([(float(row["atoms"]) - float(row["predicted_atoms"])) ** 2 for row in tested])
    about = json.loads((out / "model.json").read_text())
    assert about["metrics"]["test"][0]["mse"] == pytest.approx(error) and about["targets"] == ["atoms"]
    assert about["metrics"]["calibrated"] is False

    assert run("train", chains, "-t", "atoms", "-o", out, *options, "--resume", "--learning-rate", "0.5") == 1
    assert re.search(
        r"holds a run with learning_rate 0.002, this one has learning_rate 0.5; give another --out, or leave "
        r"out --resume to replace it\n$",
        capsys.readouterr().err,
    )

    assert run("predict", chains, "-m", out, "-o", tmp_path / "p.csv") == 0
    assert uncalibrated in capsys.readouterr().err
    predicted = rows_of(tmp_path / "p.csv")
    assert [row["smiles"] for row in predicted] == [row["smiles"] for row in rows_of(chains)]
    at = {row["smiles"]: row for row in predicted}
    for row in tested:
        for name in ("predicted_atoms", "predicted_atoms_std"):
            np.testing.assert_allclose(float(at[row["smiles"]][name]), float(row[name]), rtol=1e-5)
    assert at["xx"]["predicted_atoms"] == "" and "xx" in at["xx"]["reason"]
    assert run("predict", chains, "-m", out, "--on-invalid", "fail", "-o", tmp_path / "q.csv") == 1
    assert "row 60" in capsys.readouterr().err and not (tmp_path / "q.csv").exists()

    assert run("explain", chains, "-m", out, "-o", tmp_path / "why.html", "--max-molecules", 62) == 0
    page = (tmp_path / "why.html").read_text()
    assert "<svg" in page and "ensemble of 2 models" in page
    why = ["explain", chains, "-m", out, "-o", tmp_path / "why.html", "--max-molecules", 62, "--member"]
    assert run(*why, 1) == 0
    page = (tmp_path / "why.html").read_text()
    assert "<h1>Why: atoms, by member 1 of 2" in page and "ensemble of 2 models" not in page
    assert run(*why, 2) == 1
    assert "error: member 2 is not there; the members are 0 to 1" in capsys.readouterr().err
    assert run("fingerprint", chains, "--model", out, "-o", tmp_path / "f.npz") == 0
    assert load_model(out).fingerprint(featurize(["CC", "xx"])).shape == (2, 16)


def test_several_targets_some_not_measured_and_classes(chains, tmp_path, capsys):
    both = tmp_path / "both"
    assert run("train", chains, "-t", "atoms,alcohol", "-o", both, *SMALL) == 0
    assert run("predict", chains, "-m", both, "-o", tmp_path / "p.csv") == 0
    assert {"predicted_atoms", "predicted_alcohol"} <= set(rows_of(tmp_path / "p.csv")[0])
    classes = ["-o", tmp_path / "classes", "--task", "classification", *SMALL]
    assert run("train", chains, "-t", "alcohol", *classes) == 0
    assert "roc_auc" in capsys.readouterr().out
    assert run("train", chains, "-t", "atoms", *classes) == 1
    error = capsys.readouterr().err
    assert f"row 0 of {chains} (the first is row 0) has '2' in column atoms; a classification has" in error


def test_training_goes_on_from_a_trained_model(chains, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    tiny = [*SMALL, "--learning-rate", "1e-9"]
    assert run("train", chains, "-t", "atoms", "-o", first, *SMALL) == 0
    narrow = tmp_path / "narrow.csv"  # other targets than before, far off and close together
    narrow.write_text("smiles,atoms\n" + "".join(f"{'C' * n},{100 + n / 50}\n" for n in range(4, 24)))
    assert run("train", narrow, "-t", "atoms", "-o", second, "--start-from", first, *tiny) == 0
    table = featurize(["CCCC", "CCO"])
    np.testing.assert_allclose(load_model(second).predict(table), load_model(first).predict(table), rtol=1e-4)
    assert run("train", chains, "-t", "atoms,alcohol", "-o", other, "--start-from", first, *tiny) == 0
    np.testing.assert_allclose(
        load_model(other).fingerprint(table), load_model(first).fingerprint(table), rtol=1e-3
    )
    assert load_model(other).predict(table).shape == (2, 2)


def saved(folder, **settings):
    """A folder with a model that was never trained."""
    return save_model(folder, PropertyModel(**SIZES, **settings, rngs=nnx.Rngs(0)), targets=["alcohol"])


def test_a_started_model_says_what_is_not_said_anew(chains, tmp_path, capsys):
    """Options that it would make void are refused; its task stays, unless another is asked for."""
    start = saved(tmp_path / "start", task="classification")
    train = ["train", chains, "-t", "alcohol", "--start-from", start, *TINY]
    for option, value, own in (("members", 2, 1), ("depth", 3, 2), ("hidden", 0, 8)):
        assert run(*train, "-o", tmp_path / "no", f"--{option}", value) == 1
        message = f"error: --{option} {value}: {start} has {own}; leave it out, or --start-from\n"
        assert capsys.readouterr().err == message
    assert run(*train, "-o", tmp_path / "same", "--members", 1, "--depth", 2) == 0
    assert "all its weights" in capsys.readouterr().out
    assert load_model(tmp_path / "same").task == "classification"
    assert run(*train, "-o", tmp_path / "other", "--task", "regression") == 0
    said = "its fingerprint, below a new head (regression of 1 target instead of classification of 1)"
    assert said in capsys.readouterr().out
    assert load_model(tmp_path / "other").task == "regression"
    assert run("explain", chains, "-m", start, "-o", tmp_path / "why.html", "--member", 0) == 1
    assert capsys.readouterr().err == f"error: --member 0: {start} is one model; leave it out\n"


@pytest.mark.parametrize("cell", ["1_5", "inf", "-Infinity", "1e999", "-nan", "x"])
def test_a_cell_that_is_no_number_is_refused_with_its_row(tmp_path, capsys, cell):
    (tmp_path / "in.csv").write_text(f"smiles,y\nxx,1\nCC,{cell}\nC,\nCCC,NA\n")
    assert run("train", tmp_path / "in.csv", "-t", "y", "-o", tmp_path / "m") == 1
    assert f"row 1 of {tmp_path}/in.csv (the first is row 0) has {cell!r} in col" in capsys.readouterr().err


def test_rows_have_their_numbers_in_the_file_whatever_was_left_out(tmp_path, capsys):
    rows = ["xx,1,train", "C,1,train", "CC,,nowhere", "CCC,3,nowhere"]
    (tmp_path / "in.csv").write_text("\n".join(["smiles,y,part", *rows]))
    by_column = ["--split", "column", "--split-column", "part"]
    assert run("train", tmp_path / "in.csv", "-t", "y", "-o", tmp_path / "m", *by_column) == 1
    assert "row 3 has the split 'nowhere' (the first row is row 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-t", ""], "-t '': give names with commas between them"),
        (["-t", "atoms,"], "-t 'atoms,': give names"),
        (["-t", "atoms,yes,atoms"], "-t 'atoms,yes,atoms': atoms is named twice"),
        (["-t", "atoms", "--seed", "-1"], "seed=-1 must not be negative"),
        (["-t", "atoms", "--steps", "0"], "steps=0 must be at least 1"),
        (["-t", "atoms", "--split-seed", "-1"], "--split-seed -1 must not be negative"),
        (["-t", "atoms", "--hidden", "-1"], "hidden=-1 must not be negative"),
        (["-t", "atoms", "--split-column", "part"], "--split-column part: .*add --split column, or leave"),
        ([*BY_PART, "-t", "atoms", "--test", "0.2"], "--test 0.2: .* not of --split column; leave it out"),
        (["-t", "atoms,nothing"], "column nothing has no number in any row .*; leave it out of -t"),
        ([*BY_PART, "-t", "atoms,tested"], "column tested has no number in a training row.*another split"),
        (["-t", "yes", "--task", "classification"], "column yes is 1 in every training row.*both 0 and 1"),
        (["-t", "weight"], "has no column 'weight'; it has smiles, atoms"),
        (["-t", "part"], "row 0 of .* has 'train' in column part, which is no number"),
        (["-t", "atoms", "--split", "column"], "needs --split-column"),
        (["-t", "atoms", "--split", "column", "--split-column", "alcohol"], "must be train, validation"),
        (["-t", "atoms", "--members", "0"], "--members 0 must be at least 1"),
        (["-t", "atoms", "--on-invalid", "fail"], "row 60 of .* cannot read 'xx'"),
        (["-t", "atoms", "--test", "1.5"], "must leave something"),
        (["-t", "atoms", "--start-from", "nowhere"], "holds no model"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_says_so(chains, tmp_path, capsys, arguments, message):
    assert run("train", chains, "-o", tmp_path / "m", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error


def test_a_folder_that_is_damaged_or_of_another_version_is_refused(tmp_path):
    model = Ensemble([PropertyModel(width=4, length=4, hidden=0, rngs=nnx.Rngs(k)) for k in range(2)])
    folder = save_model(tmp_path / "m", model, targets=["y"])
    table = featurize(["CCO", "c1ccccc1"])
    np.testing.assert_array_equal(load_model(folder).predict(table), predict(model, table))
    about = (folder / "model.json").read_text()
    (folder / "model.json").write_text(about.replace('"featurizer_version": ', '"featurizer_version": 9'))
    with pytest.raises(ValueError, match="train the model again"):
        load_model(folder)
    for damaged in (
        about[:50],
        about.replace('"members"', '"fellows"'),
        "[]",
        about.replace('"members": 2', '"members": "x"'),
    ):
        (folder / "model.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"model\.json is damaged .*train the model again"):
            load_model(folder)
    with pytest.raises(ValueError, match="2 names"):
        save_model(tmp_path / "n", model, targets=["y", "z"])


def test_what_cannot_be_said_is_null_in_a_file_that_any_program_reads(tmp_path):
    model = PropertyModel(width=4, length=4, hidden=0, rngs=nnx.Rngs(0))
    metrics = {"test": [{"r2": np.nan, "mse": np.float32(0.5)}], "best": np.inf, "rows": np.int64(3)}
    folder = save_model(tmp_path / "m", model, metrics=metrics)
    found = json.loads((folder / "model.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert found == {"test": [{"r2": None, "mse": 0.5}], "best": None, "rows": 3}
    assert load_model(folder).metrics == found


def test_metrics_are_what_scikit_learn_says():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200).astype(float), np.round(rng.uniform(size=200), 1)
    assert roc_auc(p, y) == pytest.approx(metrics.roc_auc_score(y, p))
    nothing = np.full(200, np.nan)
    (found,) = assess("classification", Prediction(p, nothing), y)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, np.clip(p, 1e-7, 1 - 1e-7)))
    t = rng.normal(size=(200, 2))
    t[:50, 1] = np.nan
    mean = np.stack([p, p], axis=1)
    first, second = assess("regression", Prediction(mean, np.full_like(mean, 0.5)), t)
    assert first["r2"] == pytest.approx(metrics.r2_score(t[:, 0], p)) and second["rows"] == 150
    assert first["coverage"] == np.mean(np.abs(t[:, 0] - p) < 1.6448536 * 0.5)


def test_without_rows_to_test_or_to_predict_there_are_tables_without_rows(chains, tmp_path):
    out = tmp_path / "model"
    assert run("train", chains, "-t", "atoms", "-o", out, "--test", "0", *SMALL) == 0
    assert (out / "test-predictions.csv").read_text().split() == ["smiles,atoms,predicted_atoms"]
    (tmp_path / "none.csv").write_text("smiles\n")
    assert run("predict", tmp_path / "none.csv", "-m", out, "-o", tmp_path / "p.csv") == 0
    assert rows_of(tmp_path / "p.csv") == []


def test_predictions_of_large_numbers_keep_their_digits(tmp_path):
    rows = [f"{'C' * n},{1e8 + n}" for n in range(1, 31)]
    (tmp_path / "large.csv").write_text("\n".join(["smiles,y", *rows]))
    assert run("train", tmp_path / "large.csv", "-t", "y", "-o", tmp_path / "m", *SMALL) == 0
    assert run("predict", tmp_path / "large.csv", "-m", tmp_path / "m", "-o", tmp_path / "p.csv") == 0
    predicted = {float(row["predicted_y"]) for row in rows_of(tmp_path / "p.csv")}
    assert len(predicted) > 20 and all(1e8 - 50 < y < 1e8 + 100 for y in predicted)
