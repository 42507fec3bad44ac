"""Public data: what is read is what was published, and what is missing or wrong is said."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from chainrule.fingerprints import (
    load,
    read_csv,
)
from chainrule.fingerprints.datasets import SOURCES, find
from chainrule.fingerprints.published import (
    MEAN,
    PUBLISHED,
)
from chainrule.fingerprints.smiles import canonical_smiles
from chainrule.fingerprints.tables import read_table
from chainrule.fingerprints.talk_table import ROWS


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_errors_of_the_mean_are_variances_of_targets_in_their_units(name):
    folder = Path(os.environ.get("CHAINRULE_DATA", "no such folder"))
    if not (folder / SOURCES[name].path).is_file():
        pytest.skip("the file is not there: set CHAINRULE_DATA to a folder that has it")
    assert find(SOURCES[name], folder) == folder / SOURCES[name].path
    assert hashlib.sha256((folder / SOURCES[name].path).read_bytes()).hexdigest() == SOURCES[name].sha256
    table = read_table(folder / SOURCES[name].path, columns=[SOURCES[name].target_column])
    targets = np.array(table.columns[SOURCES[name].target_column], np.float64)[: ROWS[name]]
    published = PUBLISHED[name][MEAN]
    assert abs(targets.var() - published.paper) < published.paper_error
    if name == "malaria":  # natural logarithms of concentrations up to 15 uM
        np.testing.assert_allclose(np.exp(targets.max()), 15.0)


def test_the_solubility_set_has_no_molecule_twice():
    dataset = load("solubility")
    names = [canonical_smiles(smiles) for smiles in dataset.molecules.smiles]
    assert len(dataset) == len(set(names)) == 1274
    assert dataset.molecules.valid.all() and np.isfinite(dataset.targets).all()
    np.testing.assert_allclose([dataset.targets.mean(), dataset.targets.std()], [-2.73, 2.04], atol=0.01)


def test_tables_keep_unusable_rows_with_their_reasons(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("name,smiles,y\na,CCO,1.5\nb,nonsense,2\nc,CC,unknown\nd,CCC ,inf\ne,C,-1\n")
    dataset = read_csv(file, smiles_column="smiles", target_column="y")
    assert dataset.molecules.valid.tolist() == [True, False, False, False, True]
    assert "target 'unknown' is not a number" in dataset.molecules.reasons[2]
    np.testing.assert_array_equal(dataset.targets, [1.5, np.nan, np.nan, np.nan, -1])
    with pytest.raises(ValueError, match=r"no column 'SMILES'; it has name, smiles, y"):
        read_csv(file, smiles_column="SMILES", target_column="y")


def test_a_table_in_another_encoding_is_an_error_that_says_where_and_how_to_read_it(tmp_path):
    file = tmp_path / "mine.csv"
    for mark in (b"", b"\xef\xbb\xbf"):  # a byte order mark is no part of the table, but of the file
        content = mark + "name,smiles,y\nwater,O,1\nAcétate,CC(=O)[O-],2\n".encode("latin-1")
        file.write_bytes(content)
        place = rf"mine\.csv is not utf-8.*line 3 has the byte 0xe9, number {content.index(0xE9)} of the file"
        with pytest.raises(ValueError, match=rf"{place}.*encoding='latin-1'"):
            read_csv(file, smiles_column="smiles", target_column="y")
    file.write_bytes(content[3:])
    dataset = read_csv(file, smiles_column="smiles", target_column="y", encoding="latin-1")
    assert dataset.targets.tolist() == [1, 2] and dataset.molecules.valid.all()
    file.write_text('smiles,y\nC,1\n"CC,' + "2\nCCC,3\n" * 20_000)
    with pytest.raises(ValueError, match=r"mine\.csv cannot be read as CSV beyond line 2 .*quote"):
        read_csv(file, smiles_column="smiles", target_column="y")


def test_missing_data_says_what_to_put_where(tmp_path, monkeypatch):
    import pooch

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.delenv("CHAINRULE_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(FileNotFoundError, match=r"no network.*put it at \$CHAINRULE_DATA/delaney/"):
        load("delaney", data_dir=tmp_path)
    (tmp_path / "delaney").mkdir()
    (tmp_path / SOURCES["delaney"].path).write_text("smiles\n")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("CHAINRULE_DATA", f"~/{tmp_path.name}")
    assert find(SOURCES["delaney"]) == tmp_path / SOURCES["delaney"].path
    with pytest.raises(ValueError, match="choose one of solubility, delaney, malaria, cep"):
        load("esol")


def test_delaney_is_read_in_its_own_order():
    folder = Path(os.environ.get("CHAINRULE_DATA", "no such folder"))
    if not (folder / "delaney/delaney-processed.csv").is_file():
        pytest.skip("Delaney's file is not there: set CHAINRULE_DATA to a folder with delaney/")
    dataset = load("delaney", data_dir=folder)
    assert len(dataset) == 1128 and dataset.molecules.valid.all()
    assert dataset.molecules.smiles[1] == "Cc1occc1C(=O)Nc2ccccc2" and dataset.targets[1] == -3.3
    np.testing.assert_allclose(dataset.targets.std(), 2.096, atol=1e-3)
