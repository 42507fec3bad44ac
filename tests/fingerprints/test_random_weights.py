"""Large random weights give circular fingerprints, small ones do not."""

import csv

import numpy as np
import pytest

from chainrule.fingerprints import load, random_weights
from chainrule.fingerprints.__main__ import main
from chainrule.fingerprints.random_weights import (
    LARGE,
    SMALL,
    distance,
    random_fingerprints,
    random_pairs,
)


def test_distances_are_one_less_tanimotos():
    x = np.array([[1, 0, 2], [1, 1, 0], [1, 0, 2]], np.float32)
    pairs = np.array([[0, 1], [0, 2]])
    np.testing.assert_allclose(distance(x, pairs), [1 - 1 / 4, 0])


def test_pairs_are_of_different_rows_and_reach_all():
    pairs = random_pairs(7, 1000)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == 42


@pytest.mark.slow
def test_what_large_weights_write_is_nearly_a_count():
    """Most atoms choose one entry: what they add to it is nearly one."""
    some = load("solubility").molecules.take(np.arange(100))
    near = lambda scale: np.mean(np.abs(x - np.round(x)) < 0.01) if (x := hits(scale)).size else 0.0
    hits = lambda scale: (f := random_fingerprints(some, scale=scale, depth=2, seed=0))[f > 0.5]
    assert near(100.0) > 0.95 and near(1.0) < 0.8 and near(SMALL) == 0


@pytest.mark.slow
def test_the_command_draws_and_large_weights_are_circular(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(random_weights, "load", lambda *args, **options: load(*args, **options, rows=800))
    settings = "--pairs 2000 --seeds 2 --splits 2 --radius 2 --depth 1".split()
    assert main(["random-weights", "--out", str(tmp_path), *settings]) == 0
    assert "r with counts" in capsys.readouterr().out
    names = {"agreement.csv", "regression.csv", "random-weights.png", "random-weights.svg"}
    assert {file.name for file in tmp_path.iterdir()} == names
    agreement, regression = (
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
        for name in ("agreement", "regression")
    )
    assert len(agreement) == 8
    r = lambda scale, kind: np.mean([float(row[kind]) for row in agreement if float(row["scale"]) == scale])
    assert r(LARGE, "r bits") >= 0.8 and r(LARGE, "r counts") >= 0.9
    assert r(SMALL, "r bits") <= 0.35 and r(SMALL, "r counts") <= 0.4
    error = lambda name: np.mean([float([*row.values()][-1]) for row in regression if name in row.values()])
    assert error("large random weights") < error("circular, bits")
    assert abs(error("large random weights") / error("circular, counts") - 1) < 0.3


def test_nonsense_is_refused(tmp_path, capsys):
    assert main(["random-weights", "--out", str(tmp_path), "--seeds", "1"]) == 1
    assert "--seeds 1 must be at least 2" in capsys.readouterr().err
