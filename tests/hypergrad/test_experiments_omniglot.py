"""Shared weights: what ties, what separates; drawings of one character never on both sides of a division."""

import dataclasses
import io
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("PIL", reason="the experiments' extra is not installed")
pytest.importorskip("matplotlib", reason="the experiments' extra is not installed")

from PIL import Image

from chainrule.core.experiments.console import silent
from chainrule.hypergrad.experiments import omniglot, omniglot_images
from chainrule.hypergrad.experiments.divisions import divide, redivide, standardised
from chainrule.hypergrad.experiments.sharing import init, mixed, sharing_matrix, task_errors, task_nlls

WIDTHS = (6, 5, 4, 3)
KEY = jax.random.key(0)


def write_zip(path, characters=(3, 2), drawings=6, side=105):
    """Alphabets of characters that are bars at different heights, drawn with a shaky hand."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images_background_small1/", "")
        for alphabet, count in enumerate(characters):
            for character in range(count):
                for drawing in range(drawings):
                    paper = np.full((side, side), 255, np.uint8)
                    top = int(side * (character + 0.5) / count) + rng.integers(-3, 4)
                    paper[top : top + side // 10, 10 + 20 * alphabet :] = 0
                    png = io.BytesIO()
                    Image.fromarray(paper).convert("1").save(png, "png")
                    name = f"small/Alphabet{alphabet}/character{character:02}/{drawing:02}.png"
                    file.writestr(name, png.getvalue())
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = write_zip(tmp_path_factory.mktemp("omniglot") / "drawings.zip")
    return omniglot_images.make_tasks(omniglot_images.read_alphabets(path, 7))


def test_drawings_come_from_the_file_with_ink_as_one(tmp_path):
    path = write_zip(tmp_path / "drawings.zip")
    alphabets = omniglot_images.read_alphabets(path, 21)
    assert [(a.name, a.drawings.shape) for a in alphabets] == [
        ("Alphabet0", (3, 6, 21, 21)),
        ("Alphabet1", (2, 6, 21, 21)),
    ]
    first = alphabets[0].drawings[0, 0]
    assert first.min() == 0 and first.max() == 1 and 0.05 < first.mean() < 0.15
    upright, _, turned, _ = omniglot_images.make_tasks(alphabets)
    np.testing.assert_array_equal(turned[1, 2].reshape(21, 21), np.rot90(upright[1, 2].reshape(21, 21)))


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("CHAINRULE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"\$CHAINRULE_DATA is set.*brendenlake/omniglot.*MIT"):
        omniglot_images.find()
    monkeypatch.setenv("CHAINRULE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*small1.zip.*brendenlake/omniglot"):
        omniglot_images.find()
    (tmp_path / "omniglot").mkdir()
    path = write_zip(tmp_path / "omniglot" / omniglot_images.NAME)
    assert omniglot_images.find() == path
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match="no drawings"):
        omniglot_images.read_alphabets(tmp_path / "empty.zip", 7)


@pytest.mark.skipif("CHAINRULE_DATA" not in os.environ, reason="$CHAINRULE_DATA is where Omniglot would be")
def test_the_published_file_has_five_alphabets():
    try:
        path = omniglot_images.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = {a.name: len(a.drawings) for a in omniglot_images.read_alphabets(path, 14)}
    assert found == {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}


def numbered(characters=(4, 3), drawings=6):
    """Tasks whose drawings are their own numbers, the second half as the first."""
    tasks = []
    for alphabet, count in enumerate(characters):
        numbers = 1000 * alphabet + np.arange(count * drawings, dtype=np.float32)
        tasks.append(numbers.reshape(count, drawings, 1))
    return [*tasks, *tasks]


def padded(tasks):
    """All of their drawings, for one purpose."""
    return divide(tasks, np.random.default_rng(0), tasks[0].shape[1], 0).learn


def test_a_drawing_and_its_turned_copy_are_never_apart():
    whole = numbered()
    ways = [divide(whole, np.random.default_rng(0), 4, 2), redivide(padded(whole), KEY, 2)]
    for found in ways:
        assert found.learn.pixels.shape == (4, 4, 4, 1) and found.judge.pixels.shape == (4, 4, 2, 1)
        for part in found:
            np.testing.assert_array_equal(part.exists, [[True] * 4, [True] * 3 + [False]] * 2)
            np.testing.assert_array_equal(part.pixels[:2], part.pixels[2:])
        both = np.sort(np.concatenate([part.pixels for part in found], axis=2), axis=2)
        for task in range(4):
            np.testing.assert_array_equal(both[task, : len(whole[task])], whole[task])
    other = redivide(padded(whole), jax.random.key(1), 2)
    assert np.any(np.asarray(other.judge.pixels) != ways[1].judge.pixels)
    with pytest.raises(ValueError, match="there are 6"):
        divide(whole, np.random.default_rng(0), 5, 2)


def test_only_drawings_to_learn_from_standardise(tasks):
    divided = divide(tasks, np.random.default_rng(0), 4, 2)
    found = jax.jit(standardised)(divided)
    judge = divided.judge._replace(pixels=7 * divided.judge.pixels)
    changed = jax.jit(standardised)(divided._replace(judge=judge))
    np.testing.assert_array_equal(found.learn.pixels, changed.learn.pixels)
    rows = np.asarray(found.learn.pixels)[divided.learn.exists].reshape(-1, 49)
    assert len(rows) == 4 * 2 * (3 + 2)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(), 1, rtol=1e-5)
    assert not np.any(np.asarray(found.learn.pixels)[~divided.learn.exists])


def test_sharing_matrices_have_the_correlation_they_are_asked_for():
    for correlation in (0.0, 0.3, 1.0):
        matrix = sharing_matrix(4, correlation)
        expected = np.full((4, 4), correlation) + (1 - correlation) * np.eye(4)
        np.testing.assert_allclose(matrix @ matrix.T, expected, atol=1e-6)
        np.testing.assert_allclose(omniglot.correlations(3 * matrix[None])[0], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"1\.5 .*from 0 to 1"):
        sharing_matrix(4, 1.5)


def layers_of(correlations, tasks=4):
    latent = init(KEY, tasks, WIDTHS, jnp.full(3, -1.0, jnp.float32))
    return latent, mixed([sharing_matrix(tasks, rho) for rho in correlations], latent)


def test_equal_rows_tie_a_layer_and_the_identity_separates_it():
    latent, (tied, *separate) = layers_of((1.0, 0.0, 0.0))
    for weights in jax.tree.leaves(tied):
        np.testing.assert_allclose(weights, np.broadcast_to(weights[:1], weights.shape), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, separate, latent[1:])
    np.testing.assert_allclose(np.std(tied["w"]), np.std(latent[0]["w"]), rtol=0.3)


def test_tasks_move_each_other_only_through_what_they_share():
    drawings = padded([np.ones((3, 2, 6), np.float32)] * 4)

    def influence(correlations):
        matrices = [sharing_matrix(4, rho) for rho in correlations]
        latent, _ = layers_of(correlations)
        first = lambda latent: task_nlls(mixed(matrices, latent), drawings)[0]
        return [np.abs(layer["w"]).sum((1, 2)) > 0 for layer in jax.grad(first)(latent)]

    assert [moved.tolist() for moved in influence((1.0, 0.0, 0.5))] == [
        [True, True, True, True],
        [True, False, False, False],
        [True, True, True, True],
    ]


def test_networks_that_know_nothing_guess_among_their_own_characters():
    zeros = jax.tree.map(jnp.zeros_like, layers_of((0.0, 0.0, 0.0))[0])
    drawings = padded([np.ones((count, 2, 6), np.float32) for count in (3, 1, 3, 1)])
    np.testing.assert_allclose(task_nlls(zeros, drawings), np.log([3, 1, 3, 1]), atol=1e-6)
    np.testing.assert_allclose(task_errors(zeros, drawings), [2 / 3, 0, 2 / 3, 0], atol=1e-6)


def test_a_smaller_alphabet_is_judged_as_if_it_were_alone():
    """What fills up its place in the array changes neither its measures nor a derivative."""
    rng = np.random.default_rng(0)
    large, small = (rng.normal(size=(count, 2, 6)).astype(np.float32) for count in (3, 2))
    _, layers = layers_of((0.0, 0.0, 0.0))
    alone = jax.tree.map(lambda x: x[1:2], layers)
    alone[-1] = jax.tree.map(lambda x: x[..., :2], alone[-1])
    pair, single = padded([large, small] * 2), padded([small] * 2)
    single = jax.tree.map(lambda x: x[:1], single)
    for measure in (task_nlls, task_errors):
        np.testing.assert_allclose(measure(layers, pair)[1], measure(alone, single)[0], rtol=1e-5)
    of_one = lambda layers: task_nlls(layers, pair)[1]
    slope = jax.grad(of_one)(layers)[-1]["w"][1]
    assert np.all(np.isfinite(slope)) and not np.any(slope[:, 2]) and np.any(slope[:, :2])


TINY = dict(
    seeds=2, side=7, hidden=(5, 4), alphabets=2, train=4, test=2, validation=1, steps=10, meta_steps=5
)


def test_the_experiment_keeps_all_and_only_learned_sharing_is_learned(tmp_path):
    path = write_zip(tmp_path / "drawings.zip")
    settings = dataclasses.replace(omniglot.FULL, path=path, **TINY)
    assert "5 meta-steps" in omniglot.plan(settings)
    report = omniglot.run(settings, tmp_path / "out", resume=False, progress=silent)
    assert {file.name for file in report.files} == {"table.md", "table.csv", "sharing.png", "sharing.csv"}
    assert "skipped: 0." in report.text and "nats" in report.text
    assert omniglot.run(settings, tmp_path / "out", resume=True, progress=silent) == report
    with pytest.raises(FileNotFoundError, match="brendenlake"):
        omniglot.plan(dataclasses.replace(settings, path=tmp_path / "nothing.zip"))


def test_all_methods_learn_the_same_but_for_sharing(tasks):
    settings = dataclasses.replace(omniglot.FULL, **TINY)
    pool = divide(tasks, np.random.default_rng(0), 4, 2)
    found = {method: omniglot._outcome(settings, method, pool, KEY) for method in omniglot.CORRELATIONS}
    start = {m: np.stack([sharing_matrix(4, rho) for rho in c]) for m, c in omniglot.CORRELATIONS.items()}
    moved = {method: np.abs(np.stack(found[method]["sharing"]) - start[method]).max() for method in start}
    assert moved[omniglot.SEPARATE] == moved[omniglot.TIED] == 0 < moved[omniglot.LEARNED]
    for method, outcome in found.items():
        for name in ("log_rates", "log_scales", "log_penalties"):
            assert np.all(np.isfinite(outcome[name])) and outcome[name].shape == (3,), (method, name)
        assert np.all(outcome["log_rates"] != 0)
