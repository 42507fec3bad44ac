"""Ensembles, uncertainty, several targets, classes: what a model can be asked beside one number."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from chainrule.core.testing import compilations
from chainrule.fingerprints import (
    Ensemble,
    Head,
    PropertyModel,
    TrainConfig,
    calibrate,
    featurize,
    predict,
    predict_distribution,
    train,
)
from chainrule.fingerprints.objective import combine, error, loss

SHORT = TrainConfig(steps=40, batch_size=16, evaluate_every=20, learning_rate=5e-3)
LONG = TrainConfig(steps=600, batch_size=100, evaluate_every=100, learning_rate=1e-2)


@pytest.fixture(scope="module")
def alcohols():
    """Chains and what the graph says of them: their length, and whether there is an -OH."""
    smiles = ["C" * n + "O" * o for n in range(1, 26) for o in (0, 1)]
    table = featurize(smiles)
    return table, table.atoms_per_molecule.astype(float), np.array([float("O" in s) for s in smiles])


@pytest.fixture(scope="module")
def noisy():
    """Features, and targets whose noise depends on them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3000, 4)).astype(np.float32)
    spread = 0.1 + 0.9 * (x[:, 1] > 0)
    return x, 50 + 10 * (2 * x[:, 0] + spread * rng.normal(size=len(x))), 10 * spread


def test_at_every_step_a_member_is_what_it_would_be_alone(alcohols):
    table, lengths, _ = alcohols
    rows = np.arange(40)
    models = [PropertyModel(width=8, length=8, hidden=8, rngs=nnx.Rngs(seed)) for seed in range(3)]
    for steps in (3, SHORT.steps):
        config = replace(SHORT, steps=steps)
        together = train(Ensemble(models), table, lengths, rows, (), config).model
        for number, model in enumerate(models):
            alone = train(model, table, lengths, rows, (), config).model
            of_it = predict(together.member(number), table)
            # Lengths are up to 26; rounding of these in float32 is not small beside one that is nearly 0.
            np.testing.assert_allclose(of_it, predict(alone, table), rtol=1e-4, atol=1e-5)
    mean = np.mean([predict(together.member(number), table) for number in range(3)], axis=0)
    np.testing.assert_allclose(predict(together, table), mean, rtol=1e-5)


def test_the_step_that_is_kept_is_best_for_the_mean_of_the_members():
    """Not for each, as it would be alone: here they differ in that."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 30)).astype(np.float32)
    y = x[:, 0] + rng.normal(size=80)  # mostly noise: what is learnt of it is soon too much
    heads = [Head(30, hidden=8, rngs=nnx.Rngs(seed)) for seed in range(4)]
    config = TrainConfig(steps=60, batch_size=20, evaluate_every=2, learning_rate=2e-2)
    together = train(Ensemble(heads), x, y, np.arange(40), np.arange(40, 80), config)
    apart = [train(head, x, y, np.arange(40), np.arange(40, 80), config) for head in heads]
    errors = np.array([[m["validation_mse"] for m in one.history] for one in apart])
    np.testing.assert_allclose(
        [m["validation_mse"] for m in together.history], errors.mean(axis=0), rtol=1e-4
    )
    assert together.best_step == together.history[int(np.argmin(errors.mean(axis=0)))]["step"]
    assert len({one.best_step for one in apart}) > 1


def test_an_ensemble_compiles_as_much_as_one_model(alcohols):
    table, lengths, _ = alcohols
    rows = np.arange(50)
    made = [PropertyModel(width=6, length=7, hidden=5, rngs=nnx.Rngs(seed)) for seed in range(4)]
    with compilations() as one:
        train(made[0], table, lengths, rows, (), SHORT)
    with compilations() as four:
        train(Ensemble(made), table, lengths, rows, (), SHORT)
    assert len([name for name in four if "step" in name]) == len([name for name in one if "step" in name])


def test_members_of_different_make_are_refused():
    with pytest.raises(ValueError, match="model 1 has another architecture"):
        Ensemble([Head(3, hidden=4, rngs=nnx.Rngs(0)), Head(3, hidden=5, rngs=nnx.Rngs(0))])
    with pytest.raises(ValueError, match="needs a model"):
        Ensemble([])
    with pytest.raises(ValueError, match="members are 0 to 0"):
        Ensemble([Head(3, hidden=4, rngs=nnx.Rngs(0))]).member(1)


@pytest.mark.parametrize("task", ["regression", "mean_variance", "classification"])
def test_what_was_not_measured_adds_nothing(task):
    raw = jax.random.normal(jax.random.key(0), (3, 6, 2, 2))  # members, rows, targets, outputs
    targets = jnp.asarray(np.random.default_rng(0).integers(0, 2, (6, 2)).astype(np.float32))
    hidden = targets.at[2, 1].set(jnp.nan).at[5, 0].set(jnp.nan)
    gradient = jax.grad(lambda raw: loss(task, raw, hidden))(raw)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 2, 1].any() and not gradient[:, 5, 0].any() and gradient[:, 0, 0].any()
    rest = error(task, raw[:, jnp.array([0, 1, 3, 4])], targets[jnp.array([0, 1, 3, 4])]) * 8
    alone = error(task, raw[:, 2, :1], targets[2, :1]) + error(task, raw[:, 5, 1:], targets[5, 1:])
    np.testing.assert_allclose(error(task, raw, hidden) * 10, rest + alone, rtol=1e-5)


def test_a_target_learns_from_the_rows_where_it_was_measured(alcohols):
    table, lengths, classes = alcohols
    targets = np.stack([1e5 + 1e3 * lengths, -classes], axis=1)
    targets[::3, 0] = np.nan
    targets[1::3, 1] = np.nan
    model = PropertyModel(width=16, length=16, hidden=16, targets=2, rngs=nnx.Rngs(0))
    result = train(model, table, targets, np.arange(50), (), LONG)
    predictions = predict(result.model, table)
    assert predictions.shape == (50, 2)
    # Methane is left out: no other molecule here has an atom without neighbours.
    np.testing.assert_allclose(predictions[1:, 0], 1e5 + 1e3 * lengths[1:], atol=1500)
    assert np.abs(predictions[:, 1] + classes).mean() < 0.1
    with pytest.raises(ValueError, match="row 3 has target"):
        train(model, table, np.where(np.arange(50)[:, None] == 3, np.nan, targets), np.arange(50))
    with pytest.raises(ValueError, match=r"targets=None"):
        train(model, table, lengths, np.arange(50))
    targets[:, 1] = np.nan
    targets[48, 1] = 1.0
    with pytest.raises(ValueError, match="target column 1 has no number in a training row; leave it out"):
        train(model, table, targets, np.flatnonzero(np.arange(48) % 3), [48])


@pytest.mark.parametrize("task", ["regression", "mean_variance"])
@pytest.mark.parametrize("columns, members", [(None, 1), (2, 1), (None, 3), (2, 3)])
def test_a_trained_model_goes_on_from_its_own_answers(task, columns, members):
    """Whatever the new targets: their scale changes what a step does, not where the first one starts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = np.stack([3 * x[:, 0], 50 + x[:, 1]], axis=1)[:, slice(columns) if columns else 0]
    heads = [Head(4, hidden=5, targets=columns, task=task, rngs=nnx.Rngs(k)) for k in range(members)]
    first = train(Ensemble(heads) if members > 1 else heads[0], x, y, np.arange(60), (), SHORT).model
    still = TrainConfig(steps=1, learning_rate=1e-12)
    again = train(first, x, 1000 + y / 100, np.arange(60), (), still, warm_start=True)
    # The two scales are 1000 / 0.01 apart, which float32 leaves of 1e-7.
    np.testing.assert_allclose(predict(again.model, x), predict(first, x), atol=2e-3)


def test_classes_are_told_apart(alcohols):
    table, _, classes = alcohols
    model = PropertyModel(width=16, length=16, hidden=16, task="classification", rngs=nnx.Rngs(0))
    rows = np.arange(0, 50, 2)
    result = train(model, table, classes, np.arange(44), np.arange(44, 50), LONG)
    probabilities = predict(result.model, table)
    assert ((probabilities > 0.5) == classes).all() and probabilities.min() >= 0 and probabilities.max() <= 1
    assert result.validation_error == min(m["validation_log_loss"] for m in result.history)
    own = np.clip(probabilities[44:], 1e-7, 1 - 1e-7)
    np.testing.assert_allclose(
        result.validation_error,
        -np.mean(np.log(np.where(classes[44:] > 0, own, 1 - own))),
        rtol=1e-2,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match=r"target column 0 is 1 in every training row.*both 0 and 1"):
        train(model, table, classes, np.arange(1, 50, 2), [0])
    with pytest.raises(ValueError, match="targets 0 and 1, not 2"):
        train(model, table, 2 * classes, rows)
    with pytest.raises(ValueError, match="probabilities"):
        predict_distribution(result.model, table)


def test_a_head_for_mean_and_variance_knows_where_the_noise_is(noisy):
    x, y, spread = noisy
    model = Head(4, hidden=32, task="mean_variance", rngs=nnx.Rngs(0))
    result = train(model, x, y, np.arange(2000), np.arange(2000, 2500), LONG)
    mean, std = predict_distribution(result.model, x[2500:])
    np.testing.assert_allclose(np.median(std[spread[2500:] > 5]), 10, rtol=0.2)
    assert np.median(std[spread[2500:] < 5]) < 2.5  # 1, and what the mean is off by
    assert np.mean(np.abs(y[2500:] - mean) < 1.645 * std) == pytest.approx(0.9, abs=0.05)
    assert predict(result.model, x[:1])[0] == pytest.approx(mean_of(result.model, x[:1]))


def mean_of(model, x):
    return float(predict_distribution(model, x).mean[0])


def test_the_spread_of_a_mixture_is_that_of_its_parts_and_of_their_means():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(5, 3, 2)).astype(np.float32)
    mean, std = combine("mean_variance", raw)
    variances = 1e-4 + np.log1p(np.exp(raw[..., 1].astype(float)))
    draws = raw[..., 0, None] + np.sqrt(variances)[..., None] * rng.normal(size=(5, 3, 40_000))
    np.testing.assert_allclose(mean, draws.mean(axis=(0, 2)), atol=0.01)
    np.testing.assert_allclose(std, draws.std(axis=(0, 2)), rtol=0.01)
    assert np.isnan(combine("regression", raw[:1, :, :1]).std).all()


def test_a_calibrated_ensemble_covers_new_rows(noisy):
    x, y, _ = noisy
    models = [Head(4, hidden=8, rngs=nnx.Rngs(seed)) for seed in range(5)]
    result = train(Ensemble(models), x, y, np.arange(1000), (), SHORT)
    cover = lambda model: np.mean(
        np.abs(y[2000:] - predict(model, x[2000:])) < 1.645 * predict_distribution(model, x[2000:]).std
    )
    assert cover(result.model) < 0.7  # members agree on more than they know
    widened = calibrate(result.model, x, y, np.arange(1000, 2000))
    assert cover(widened) == pytest.approx(0.9, abs=0.03)
    np.testing.assert_array_equal(predict(widened, x), predict(result.model, x))
    again = calibrate(widened, x, y, np.arange(1000, 2000))
    np.testing.assert_allclose(
        predict_distribution(again, x).std, predict_distribution(widened, x).std, rtol=1e-5
    )
    with pytest.raises(ValueError, match="at least 20"):
        calibrate(result.model, x, y, np.arange(10))
    with pytest.raises(ValueError, match="train an Ensemble"):
        calibrate(result.model.member(0), x, y, np.arange(100))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        Head(3, hidden=0, task="ranking", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="targets=0"):
        Head(3, hidden=0, targets=0, rngs=nnx.Rngs(0))
