"""Learned schedules and scales beat simple ones where they must; the onset of chaos is found where it is."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("matplotlib", reason="the experiments need the extra [experiments]")
pytest.importorskip("sklearn", reason="the experiments need the extra [experiments]")

from chainrule.hypergrad import as_schedule, fit, to_sgd, train
from chainrule.hypergrad.experiments import chaos, init_scales, schedules
from chainrule.hypergrad.experiments.images import digits
from chainrule.hypergrad.experiments.networks import (
    common,
    error,
    fan_in,
    init,
    logits,
    names,
    nll,
)
from chainrule.hypergrad.experiments.problem import average, best, loss, problem

KEY = jax.random.key(3)
SIZES = dict(rows=300, hidden=(8,), batch_size=20, steps=10)
TINY = dict(data="digits", seeds=2, meta_rate=0.2, **SIZES)  # one program for all tests of schedules


@pytest.fixture(scope="module")
def task():
    return problem(digits(), 0, **SIZES)


def test_a_perceptron_is_its_formula():
    layers = init(KEY, (5, 4, 3), fan_in((5, 4, 3)))
    x, labels = jax.random.normal(KEY, (7, 5)), jnp.arange(7) % 3
    hidden = np.tanh(np.asarray(x) @ layers[0]["w"] + np.asarray(layers[0]["b"])[None])
    expected = hidden @ layers[1]["w"] + np.asarray(layers[1]["b"])[None]
    np.testing.assert_allclose(logits(layers, x), expected, rtol=1e-5)
    probabilities = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(
        nll(layers, x, labels), -np.log(probabilities[np.arange(7), labels]).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(error(layers, x, labels), (expected.argmax(1) != labels).mean())
    assert len(names(2)) == len(jax.tree.leaves(layers)) and names(2)[1] == "layer 1, weights"
    assert jax.tree.leaves(layers)[1].shape == (5, 4)


def test_initial_weights_have_their_scales_and_are_differentiable_by_them():
    widths = (400, 200, 10)
    for scales, expected in (
        (fan_in(widths), (1 / 20, 200**-0.5)),
        (common(widths, -1.0), 2 * (np.exp(-1),)),
    ):
        for layer, scale in zip(init(KEY, widths, scales), expected, strict=True):
            np.testing.assert_allclose(layer["w"].std(), scale, rtol=0.1)  # of 2000 numbers: 5 of its errors
    norm = lambda scale: sum(jnp.sum(layer["w"] ** 2) for layer in init(KEY, (3, 2), common((3, 2), scale)))
    np.testing.assert_allclose(jax.grad(norm)(-1.0), 2 * norm(-1.0), rtol=1e-5)


def test_the_best_of_a_grid_never_diverges():
    run = lambda candidate, key: {"loss": (jnp.nan if candidate > 2 else (candidate - 1) ** 2)}
    told = []
    assert best([0.0, 0.8, 5.0], run, KEY[None], "loss", lambda *done: told.append(done)) == 0.8
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="all 1 candidates diverge"):
        best([5.0], run, KEY[None], "loss", lambda *done: None)


def test_a_linear_decay_ends_one_step_before_zero():
    rates, momentum = schedules.simple(schedules.DECAY, 2.0, 0.9, 4)
    assert momentum == 0.9 and rates.tolist() == [2.0, 1.5, 1.0, 0.5]
    assert schedules.simple(schedules.FIXED, 2.0, 0.9, 4) == (2.0, 0.9)


def test_what_meta_learning_starts_from_are_the_first_rate_and_momentum(task):
    settings = schedules.Settings(first_rate=0.4, first_momentum=0.7)
    found = schedules.schedules_of(schedules.first_meta(task, settings))
    for leaf in jax.tree.leaves(found["learning_rate"]):
        np.testing.assert_allclose(leaf, np.full(10, 0.4), rtol=1e-6)
    for leaf in jax.tree.leaves(found["momentum"]):
        np.testing.assert_allclose(leaf, np.full(10, 0.7), rtol=1e-6)
    assert jax.tree.structure(found["momentum"]) == jax.tree.structure(fan_in(task.widths))


def test_a_learned_schedule_beats_the_best_fixed_one():
    """Twelve steps on a badly scaled quadratic with noise: large rates first, small ones last."""
    scales = jnp.asarray([1.0, 30.0])
    noisy = lambda x, hyper, batch, key: 0.5 * jnp.sum(scales * (x - 0.3 * jax.random.normal(key, (2,))) ** 2)
    final = lambda x: 0.5 * jnp.sum(scales * x**2)
    training = lambda meta, key: dict(
        params=1 + 0.1 * jax.random.normal(key, (2,)), learning_rate=jnp.exp(meta), momentum=0.5
    )
    run = partial(fit, final, noisy, training=training, steps=12)
    keys = lambda seed: jax.random.split(jax.random.key(seed), 40)
    trained = lambda meta, key: train(
        noisy, **training(meta, key), hyper=None, key=jax.random.fold_in(key, 1), steps=12, method="naive"
    )
    scores = jax.jit(jax.vmap(lambda meta, key: final(trained(meta, key).params), (None, 0)))
    score = lambda meta, seed: np.asarray(scores(meta, keys(seed)))
    fixed = [jnp.full(12, log_rate) for log_rate in np.linspace(-5, -1, 20)]
    chosen = min(fixed, key=lambda meta: score(meta, 1).mean())
    learned = run(chosen, optax.adam(0.1), key=jax.random.key(2), meta_steps=60).meta
    gain = score(chosen, 3) - score(learned, 3)  # the same unseen starts and noise
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_learned_schedules_are_schedules_for_optax(task):
    """An optimizer of optax for each array makes the steps of our training, but for rounding."""
    settings = schedules.Settings(meta_steps=3, **TINY)
    learned = schedules.schedules_of(schedules.learn_schedules(task, settings, KEY).meta)
    rates, momenta = to_sgd(learned["learning_rate"], learned["momentum"])
    arrays = range(len(jax.tree.leaves(rates)))
    sgd = optax.inject_hyperparams(optax.sgd)
    optimizers = {
        array: sgd(as_schedule(jax.tree.leaves(rates)[array]), as_schedule(jax.tree.leaves(momenta)[array]))
        for array in arrays
    }
    optimizer = optax.partition(optimizers, jax.tree.unflatten(jax.tree.structure(rates), arrays))
    init_key, train_key = jax.random.split(KEY)
    layers = init(init_key, task.widths, fan_in(task.widths))
    given = dict(data=task.data.train, batch_size=task.batch_size, key=train_key, steps=task.steps)
    found = train(loss, layers, None, None, None, optimizer=optimizer, method="naive", **given).params
    ours = task.measures(KEY, fan_in(task.widths), *learned.values())
    np.testing.assert_allclose(task.judge(found)["training loss"], ours["training loss"], rtol=1e-4)


def test_schedules_and_scales_that_are_learned_lower_the_loss_of_unseen_trainings(task):
    scales, unseen = fan_in(task.widths), jax.random.split(jax.random.key(8), 5)
    settings = schedules.Settings(meta_steps=15, **TINY)
    first, last = (
        schedules.schedules_of(meta).values()
        for meta in (
            schedules.first_meta(task, settings),
            schedules.learn_schedules(task, settings, KEY).meta,
        )
    )
    score = lambda *arguments: average(lambda key: task.measures(key, *arguments), unseen)["training loss"]
    assert score(scales, *last) < 0.8 * score(scales, *first)
    settings = init_scales.Settings(meta_steps=15, **(TINY | {"meta_rate": 0.4}))
    start = common(task.widths, settings.first_log_scale)
    log_scales = init_scales.learn_scales(task, settings, start, 0.37, KEY).meta
    assert score(log_scales, 0.37, 0.9) < 0.8 * score(start, 0.37, 0.9)


def curves_with_an_onset(onset):
    """A smooth loss with its derivative; from the onset on, a ragged one whose derivative is huge."""
    x = np.linspace(-1, 3, 201)
    chaotic = x >= onset
    rng = np.random.default_rng(0)
    slope = np.where(chaotic, 100 * rng.normal(size=x.size), 2 * x)
    return x, {
        "loss": x**2 + np.where(chaotic, 0.1 * rng.normal(size=x.size), 0),
        "derivative": slope,
        "norm": np.where(chaotic, 100.0, 1.0),
        "growth": np.where(x >= onset - 0.2, 5.0, 1.0),
    }


def test_the_onset_of_chaos_is_found_where_it_is():
    found = chaos.thresholds(*curves_with_an_onset(1.5))
    assert abs(found[chaos.MISLEADS] - 1.5) < chaos.WINDOW  # both need most of a window
    assert abs(found[chaos.EXPLODES] - 1.5) < 0.05 and abs(found[chaos.GROWS] - 1.3) < 0.05
    assert abs(found[chaos.LOWEST]) < 0.05
    calm = chaos.thresholds(*curves_with_an_onset(9.0))
    assert calm[chaos.MISLEADS] is None and calm[chaos.EXPLODES] is None and calm[chaos.GROWS] is None


def test_a_diverged_training_counts_as_chaotic():
    x, curves = curves_with_an_onset(9.0)
    curves = {name: np.where(x > 2, np.nan, values) for name, values in curves.items()}
    found = chaos.thresholds(x, curves)
    assert all(abs(found[sign] - 2) < chaos.WINDOW for sign in (chaos.MISLEADS, chaos.EXPLODES, chaos.GROWS))


def test_a_sweep_has_the_derivative_of_its_loss_and_the_growth_of_its_perturbations(task):
    log_rates = np.linspace(-2, -1.9, 5)
    found = chaos.sweep(task, log_rates, 0.9, KEY)
    slope = (found["loss"][4] - found["loss"][0]) / 0.1
    np.testing.assert_allclose(found["derivative"][2], slope, rtol=1e-2)  # of a curved loss, over 0.1
    assert (found["growth"] < 0).all() and (found["norm"] > 0).all()
    wild = chaos.sweep(task, np.array([3.0, 4.0]), 0.9, KEY)
    assert (wild["growth"] > 0).all() and wild["norm"][1] > 10 * found["norm"][2]


SMALL = dict(meta_steps=2, rates=(0.1, 5.0, 3), grid_trainings=1, unseen_trainings=2)
RUNS = {
    schedules: (schedules.Settings(momenta=(0.9,), smoothness_trainings=2, **SMALL, **TINY), 3),
    init_scales: (init_scales.Settings(scales=(0.1, 0.5, 2), rates_of_scales=2, **SMALL, **TINY), 1),
    chaos: (chaos.Settings(data="digits", seeds=2, log_rates=(-1.0, 4.0, 20), **SIZES), 1),
}


@pytest.mark.parametrize("module", RUNS, ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_an_experiment_writes_its_files_and_resumes_to_the_same_table(module, tmp_path):
    settings, pictures = RUNS[module]
    told = []
    report = module.run(settings, tmp_path, progress=lambda *progress: told.append(progress))
    assert all(file.stat().st_size for file in report.files) and told
    assert sum(file.suffix == ".png" for file in report.files) == pictures
    for picture in (file for file in report.files if file.suffix == ".png"):
        assert len(picture.with_suffix(".csv").read_text().splitlines()) > 2
    assert "2 seeds" in report.text and settings.data in module.plan(settings)
    assert module.run(settings, tmp_path, resume=True).text == report.text
    with pytest.raises(ValueError, match="give another --out"):
        module.run(dataclasses.replace(settings, seed=1), tmp_path, resume=True)
