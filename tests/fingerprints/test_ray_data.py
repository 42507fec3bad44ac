"""Under Ray, every row becomes the graph it is without."""

import dataclasses

import numpy as np
import pytest

from chainrule.fingerprints import featurize
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.ray_data import featurize_dataset, join_rows, split_rows

ROWS = ["CCO", "bad", "c1ccccc1", "C", "*C", "[Na+].[Cl-]", "CC(=O)O", "", "CS(=O)(=O)C", "N"]


def assert_same(left, right):
    for field in dataclasses.fields(Molecules):
        np.testing.assert_array_equal(
            getattr(left, field.name), getattr(right, field.name), err_msg=field.name
        )


def test_rows_split_and_joined_are_the_table():
    batch = {"name": np.arange(len(ROWS)), "text": np.array(ROWS, object)}
    rows = split_rows(batch, smiles_column="text")
    assert rows["name"] is batch["name"] and rows["bond_ends"][2].max() == 5  # numbered within the molecule
    assert_same(join_rows(rows, smiles_column="text"), featurize(ROWS))
    picked = [5, 0, 1]
    some = {name: column[picked] for name, column in rows.items()}
    assert_same(join_rows(some, smiles_column="text"), featurize([ROWS[i] for i in picked]))


def test_a_column_that_is_missing_or_would_be_lost_is_named():
    with pytest.raises(ValueError, match="has no 'smiles'"):
        split_rows({"text": np.array(ROWS, object)}, smiles_column="smiles")
    with pytest.raises(ValueError, match=r"has \['valid'\] already"):
        split_rows({"smiles": np.array(ROWS, object), "valid": np.ones(10)}, smiles_column="smiles")


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"chainrule-fingerprints\[ray\]"):
        featurize_dataset(None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns of settings of its own
def test_a_local_ray_gives_the_same_rows():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'chainrule-fingerprints[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    try:
        rows = ROWS * 20
        items = [{"smiles": text, "row": i} for i, text in enumerate(rows)]
        dataset = featurize_dataset(ray.data.from_items(items, override_num_blocks=3), batch_size=32)
        batches = list(dataset.iter_batches(batch_size=64, batch_format="numpy"))
        with pytest.raises(TypeError, match=r"ray.data.from_items"):
            featurize_dataset(items)
    finally:
        ray.shutdown()
    order = np.concatenate([batch["row"] for batch in batches])
    assert sorted(order) == list(range(len(rows)))
    at = 0
    for batch in batches:
        table = join_rows(batch)
        assert_same(table, featurize([rows[i] for i in order[at : at + len(table)]]))
        at += len(table)
