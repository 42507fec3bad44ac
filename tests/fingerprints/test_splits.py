"""No row is in two parts of a split, and what belongs together stays together."""

import numpy as np
import pytest

from chainrule.fingerprints import (
    column_split,
    contiguous_folds,
    random_splits,
    scaffold_smiles,
    scaffold_split,
)


def test_random_splits_are_disjoint_complete_and_reproducible():
    splits = random_splits(1274, 5, seed=0)
    assert len({tuple(split.test) for split in splits}) == 5
    for split, again in zip(splits, random_splits(1274, 5, seed=0), strict=True):
        everything = np.concatenate(split)
        np.testing.assert_array_equal(np.sort(everything), np.arange(1274))
        assert [len(part) for part in split] == [1020, 127, 127]
        np.testing.assert_array_equal(everything, np.concatenate(again))
    assert not np.array_equal(splits[0].test, random_splits(1274, 1, seed=1)[0].test)
    with pytest.raises(ValueError, match="each needs a row"):
        random_splits(5)


def test_contiguous_folds_each_test_once():
    splits = contiguous_folds(1128)
    np.testing.assert_array_equal(np.sort(np.concatenate([s.test for s in splits])), np.arange(1128))
    for f, split in enumerate(splits):
        np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(1128))
        assert np.all(np.diff(split.validation) == 1) and np.all(np.diff(split.test) == 1)
        np.testing.assert_array_equal(split.test, splits[(f + 1) % 5].validation)
    with pytest.raises(ValueError, match="n_folds=2"):
        contiguous_folds(10, 2)


def test_a_scaffold_is_in_one_part_only():
    smiles = [core + "C" * n for core in ("c1ccccc1", "C1CCCC1", "c1ccncc1", "C1CC1") for n in range(1, 13)]
    smiles += ["C" * n for n in range(1, 53)]  # without rings: each by itself
    scaffolds = [scaffold_smiles(text) for text in smiles]
    assert scaffolds[:1] == ["c1ccccc1"] and scaffolds[-1] == ""
    for seed in range(5):
        split = scaffold_split(scaffolds, seed=seed, validation=0.2, test=0.3)
        np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(100))
        parts = [{scaffolds[row] for row in rows} - {""} for rows in split]
        assert sum(map(len, parts)) == 4  # each scaffold once
        assert len(split.test) <= 30 and len(split.validation) <= 20 and len(split.test) > 15
        for again, rows in zip(
            scaffold_split(scaffolds, seed=seed, validation=0.2, test=0.3), split, strict=True
        ):
            np.testing.assert_array_equal(again, rows)
    with pytest.raises(ValueError, match="no scaffold is small enough"):
        scaffold_split(["c1ccccc1"] * 50)


def test_a_column_says_which_row_is_for_what():
    split = column_split(["train", "Test ", "val", "TRAIN", "valid", "validation"])
    assert [rows.tolist() for rows in split] == [[0, 3], [2, 4, 5], [1]]
    with pytest.raises(ValueError, match="row 1 has the split 'holdout'"):
        column_split(["train", "holdout"])
    with pytest.raises(ValueError, match="no row has the split train"):
        column_split(["test"])


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="must leave something"):
        random_splits(100, validation=0.5, test=0.5)
    assert len(random_splits(100, 1, test=0.0)[0].test) == 0
