"""A run learns, compiles little, can be killed and resumed, and fails aloud."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from chainrule.core.testing import compilations
from chainrule.fingerprints import (
    Head,
    PropertyModel,
    TrainConfig,
    TrainingDiverged,
    featurize,
    predict,
    train,
)

SHORT = TrainConfig(steps=30, batch_size=16, evaluate_every=5, checkpoint_every=5)


def chains(n, seed=0):
    """Molecules with a target that their graphs determine: carbons less twice the oxygens."""
    rng = np.random.default_rng(seed)
    smiles = [
        "".join(rng.choice(["C", "C", "CC", "C(C)", "O", "c1ccccc1"], rng.integers(1, 9))) for _ in range(n)
    ]
    table = featurize(smiles)
    carbon, oxygen = table.atoms[:, 0], table.atoms[:, 2]
    per_atom = carbon - 2.0 * oxygen
    targets = np.array([atoms.sum() for atoms in np.split(per_atom, table.atom_offsets[1:-1])])
    return table, targets


@pytest.fixture(scope="module")
def problem():
    table, targets = chains(160)
    return table, targets, np.arange(120), np.arange(120, 160)


def model(seed=0):
    return PropertyModel(depth=2, width=8, length=16, hidden=16, rngs=nnx.Rngs(seed))


def weights(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def assert_equal_models(a, b):
    for left, right in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_it_learns_what_the_graph_determines(problem):
    table, targets, rows, held_out = problem
    config = TrainConfig(steps=600, batch_size=32, learning_rate=1e-2)
    result = train(model(), table, targets, rows, held_out, config)
    variance = targets[held_out].var()
    assert result.validation_error < 0.05 * variance
    predictions = predict(result.model, table.take(held_out))
    np.testing.assert_allclose(
        np.mean((predictions - targets[held_out]) ** 2), result.validation_error, rtol=1e-4
    )
    assert result.validation_error == min(metrics["validation_mse"] for metrics in result.history)


@pytest.mark.slow
def test_training_compiles_at_most_three_shapes_and_seeds_none(problem):
    table, targets, rows, held_out = problem
    with compilations() as compiled:
        for seed in (0, 1):
            config = TrainConfig(steps=120, batch_size=7, learning_rate=1e-3 * (1 + seed), seed=seed)
            train(model(seed), table, targets, rows, held_out, config)
    assert 1 <= compiled["_train_step"] <= 3
    assert compiled["forward"] <= 2  # the validation rows, in buckets


@pytest.mark.slow
def test_prediction_of_molecules_of_1_to_136_atoms_compiles_at_most_eight_shapes():
    rng = np.random.default_rng(0)
    sizes = [1, 136, *rng.integers(1, 137, 600)]
    table = featurize(["C" * n if n % 2 else "C" + "(C)C" * (n // 2) for n in sizes])
    assert table.valid.all() and table.atoms_per_molecule.max() == 137
    fitted = model()
    with compilations() as compiled:
        whole = predict(fitted, table)
        for n in (1, 2, 3, 5, 10, 50, 300):
            np.testing.assert_allclose(predict(fitted, table.take(np.arange(n))), whole[:n], rtol=1e-3)
    assert 1 <= compiled["forward"] <= 8


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_another_seed_another(problem):
    table, targets, rows, held_out = problem
    first, again = (train(model(), table, targets, rows, held_out, SHORT) for _ in range(2))
    assert_equal_models(first.model, again.model)
    assert first.history == again.history
    other = train(model(), table, targets, rows, held_out, TrainConfig(**{**vars(SHORT), "seed": 1}))
    assert other.history != first.history


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [5, 12, 25])
def test_a_killed_run_resumes_to_the_same_weights_and_metrics(problem, tmp_path, kill_at):
    table, targets, rows, held_out = problem

    def kill(metrics):
        if metrics["step"] >= kill_at:
            raise Killed

    whole = train(model(), table, targets, rows, held_out, SHORT, run_dir=tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(Killed):
        train(model(), table, targets, rows, held_out, SHORT, run_dir=part, log=kill)
    seen = []
    resumed = train(model(), table, targets, rows, held_out, SHORT, run_dir=part, log=seen.append)
    assert 0 < len(seen) < len(whole.history) or kill_at == 5  # it went on, not over again
    assert_equal_models(resumed.model, whole.model)
    assert resumed.history == whole.history
    assert (part / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    finished = train(model(), table, targets, rows, held_out, SHORT, run_dir=part, log=kill)
    assert_equal_models(finished.model, whole.model)  # nothing was left to do


def test_a_folder_with_another_run_is_not_resumed_but_can_be_replaced(problem, tmp_path):
    table, targets, rows, held_out = problem
    train(model(), table, targets, rows, held_out, SHORT, run_dir=tmp_path)
    other = TrainConfig(**{**vars(SHORT), "learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"learning_rate.*resume=False"):
        train(model(), table, targets, rows, held_out, other, run_dir=tmp_path)
    with pytest.raises(ValueError, match="data"):
        train(model(), table, targets + 1, rows, held_out, SHORT, run_dir=tmp_path)
    with pytest.raises(ValueError, match="data"):  # the same rows, one of them moved
        train(model(), table, targets, np.arange(119), np.arange(119, 160), SHORT, run_dir=tmp_path)
    with pytest.raises(ValueError, match="first_weights"):
        train(model(seed=1), table, targets, rows, held_out, SHORT, run_dir=tmp_path)
    bigger = PropertyModel(depth=2, width=9, length=16, hidden=16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="parameters"):
        train(bigger, table, targets, rows, held_out, SHORT, run_dir=tmp_path)
    fresh = train(model(), table, targets, rows, held_out, other, run_dir=tmp_path, resume=False)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(fresh.history)


@pytest.mark.slow
def test_patience_stops_and_the_best_weights_are_kept(problem):
    table, targets, rows, held_out = problem
    noise = np.random.default_rng(0).normal(size=len(targets))  # nothing to learn but the rows themselves
    config = TrainConfig(steps=2000, batch_size=40, learning_rate=3e-2, evaluate_every=10, patience=5)
    result = train(model(), table, noise, rows, held_out, config)
    assert result.stopped_early and result.steps == result.best_step + 50
    predictions = predict(result.model, table.take(held_out))
    np.testing.assert_allclose(
        np.mean((predictions - noise[held_out]) ** 2), result.validation_error, rtol=1e-4
    )
    assert result.history[-1]["validation_mse"] > result.validation_error


def test_without_validation_rows_the_last_weights_are_kept(problem, tmp_path):
    table, targets, rows, _ = problem
    result = train(model(), table, targets, rows, (), SHORT, run_dir=tmp_path / "run")
    assert result.best_step == result.steps == SHORT.steps and np.isnan(result.validation_error)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["validation_mse"] is None


def test_the_model_given_is_left_alone(problem):
    table, targets, rows, held_out = problem
    given, same = model(), model()
    train(given, table, targets, rows, held_out, SHORT)
    assert_equal_models(given, same)
    assert float(given.head.std[...]) == 1.0


def test_divergence_and_unusable_rows_are_errors_that_name_the_way_out(problem):
    table, targets, rows, held_out = problem
    config = TrainConfig(steps=200, learning_rate=1e25)
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        train(model(), table, targets, rows, held_out, config)
    holes = targets.copy()
    holes[3] = np.nan
    with pytest.raises(ValueError, match="row 3 has target nan"):
        train(model(), table, holes, rows, held_out, SHORT)
    with pytest.raises(ValueError, match=r"row 1 is invalid \(RDKit cannot read"):
        train(model(), featurize(["CC", "bad"]), np.zeros(2), [0, 1], (), SHORT)
    with pytest.raises(ValueError, match="row 119 is in the training and in the validation rows"):
        train(model(), table, targets, rows, [119], SHORT)
    with pytest.raises(ValueError, match="learning_rate=0"):
        TrainConfig(learning_rate=0.0)


@pytest.mark.slow
def test_fewer_training_rows_than_a_batch_are_all_of_it(problem):
    """Padding never enters the loss: one row's error is that row's alone."""
    table, targets, _, held_out = problem
    result = train(model(), table, targets, [3], held_out, TrainConfig(steps=1, batch_size=50))
    own = predict(model(), table.take([3]))[0] ** 2  # the head's mean is that row's target
    np.testing.assert_allclose(result.history[0]["train_mse"], own, rtol=1e-4)
    several = train(model(), table, targets, np.arange(48), held_out, TrainConfig(steps=3, batch_size=50))
    assert np.isfinite(several.history[-1]["train_mse"])


def test_rows_and_targets_are_taken_as_they_are_meant_or_refused(problem):
    table, targets, rows, held_out = problem
    mask = np.arange(len(table)) < 120
    by_mask = train(model(), table, list(targets), mask, ~mask, SHORT)
    assert_equal_models(by_mask.model, train(model(), table, targets, rows, held_out, SHORT).model)
    for wrong, words in (
        (mask[:50], "cannot choose among 160"),
        ([0, -1], "row -1"),
        ([0, 160], "row 160"),
        (np.arange(4) + 0.9, "whole numbers"),
        ([0, 1, 1], "row 1 is named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            train(model(), table, targets, wrong, (), SHORT)
    with pytest.raises(ValueError, match=r"targets have shape \(160, 1\)"):
        train(model(), table, targets[:, None], rows, held_out, SHORT)
    column = nnx.Linear(3, 1, rngs=nnx.Rngs(0))  # answers (rows, 1): must not broadcast against (rows,)
    with pytest.raises(ValueError, match="shape"):
        train(column, np.ones((160, 3), np.float32), targets, rows, held_out, SHORT)
    features = np.ones((160, 3), np.float32)
    features[7] = np.nan
    with pytest.raises(ValueError, match="row 7 has a feature"):
        train(Head(3, hidden=0, rngs=nnx.Rngs(0)), features, targets, rows, held_out, SHORT)


def test_only_a_folder_of_a_run_is_written_to(problem, tmp_path):
    table, targets, rows, held_out = problem
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "precious").write_text("mine")
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds no run"):
            train(model(), table, targets, rows, held_out, SHORT, run_dir=tmp_path, resume=resume)
    assert (tmp_path / "checkpoints" / "precious").read_text() == "mine"


def test_torn_metrics_do_not_stop_a_resume(problem, tmp_path):
    table, targets, rows, held_out = problem
    whole = train(model(), table, targets, rows, held_out, SHORT, run_dir=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5')  # as a kill in the middle of a line leaves it
    again = train(model(), table, targets, rows, held_out, SHORT, run_dir=tmp_path)
    assert again.history == whole.history
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(whole.history)


def test_a_head_on_given_features_fits_a_line():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    y = 300 + 20 * x @ np.arange(5.0)  # far from mean 0 and standard deviation 1
    head = Head(5, hidden=0, rngs=nnx.Rngs(0))
    config = TrainConfig(steps=800, batch_size=50, learning_rate=5e-2)
    result = train(head, x, y, np.arange(150), np.arange(150, 200), config)
    np.testing.assert_allclose(predict(result.model, x[150:]), y[150:], atol=0.05 * y.std())


def test_a_large_mean_of_the_targets_costs_no_digits(problem):
    """Near 1e7 float32 knows whole numbers only; the targets of both problems spread over a few units."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    y = x @ np.arange(5.0) + 1e7
    head = Head(5, hidden=0, rngs=nnx.Rngs(0))
    config = TrainConfig(steps=800, batch_size=50, learning_rate=5e-2)
    result = train(head, x, y, np.arange(150), np.arange(150, 200), config)
    assert max(result.history[-1]["train_mse"], result.validation_error) < 1e-9
    np.testing.assert_allclose(predict(result.model, x[150:]) - y[150:], 0, atol=1e-4)

    table, targets, rows, held_out = problem
    far, near = (train(model(), table, targets + c, rows, held_out, SHORT) for c in (1e7, 0.0))
    # the mean itself is kept in float32, so one step differs by half a unit in 6, and what follows with it
    np.testing.assert_allclose(
        [m["train_mse"] for m in far.history], [m["train_mse"] for m in near.history], rtol=0.1
    )
    error = np.mean((predict(far.model, table.take(held_out)) - 1e7 - targets[held_out]) ** 2)
    np.testing.assert_allclose(error, far.validation_error, rtol=1e-5)

    class Own(PropertyModel):  # answers in units, as far as anyone can tell
        pass

    own = Own(depth=2, width=8, length=16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"float32 rounds the targets.*less their mean"):
        train(own, table, targets + 1e7 + 0.25, rows, held_out, SHORT)


@pytest.mark.parametrize("layer", ["BatchNorm", "Dropout"])
def test_a_model_that_a_call_changes_is_refused_with_the_way_out(layer):
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.BatchNorm(3, rngs=rngs) if layer == "BatchNorm" else nnx.Dropout(0.5, rngs=rngs)
            self.output = nnx.Linear(3, 1, rngs=rngs)

        def __call__(self, features):
            return self.output(self.layer(features))[:, 0]

    own, x, y = Own(nnx.Rngs(0)), np.eye(20, 3, dtype=np.float32), np.arange(20.0)
    words = rf"changes its layer\..*{layer}.*model\.eval\(\)"
    with pytest.raises(ValueError, match=words):
        train(own, x, y, np.arange(20), (), SHORT)
    with pytest.raises(ValueError, match=words):  # it would answer each row by its company, or by chance
        predict(own, x)
    own.eval()
    assert len(train(own, x, y, np.arange(20), (), SHORT).history) == 6
    assert np.isfinite(predict(own, x)).all()


def test_invalid_rows_are_nan_in_their_place():
    assert predict(model(), featurize([])).shape == (0,)
    assert predict(model().fingerprint, featurize([])).shape == (0, 16)
    values = predict(model(), featurize(["CC", "", "CCO"]))
    assert np.isnan(values[1]) and np.isfinite(values[[0, 2]]).all()
