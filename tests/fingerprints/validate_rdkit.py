"""Every molecule of the talk's three sets and of RDKit's NCI file, against RDKit: some minutes, so by

    python3 noxfile.py -s validate-fingerprints

and by no other session. The sets are those in $CHAINRULE_DATA.
"""

import dataclasses
import os
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import rdFingerprintGenerator

from chainrule.fingerprints import circular_fingerprints, featurize, graphs
from chainrule.fingerprints.datasets import SOURCES
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.tables import read_table

DATA = Path(os.environ.get("CHAINRULE_DATA", "no such folder")).expanduser()
NCI = Path(RDConfig.RDDataDir, "NCI", "first_5K.smi")
FILES = {"nci": NCI} | {name: Path(DATA, source.path) for name, source in SOURCES.items()}
ROWS = 4096  # at a time: their fingerprints take 32 MB


@cache
def smiles_of(name):
    if not FILES[name].exists():
        pytest.skip(f"{FILES[name]} is not there: set CHAINRULE_DATA to a folder with the talk's data")
    return read_table(FILES[name]).smiles


def parts(name, rows=ROWS):
    smiles = smiles_of(name)
    return [smiles[first : first + rows] for first in range(0, len(smiles), rows)]


def assert_fingerprints_are_rdkits(smiles, radius, length, counts):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=length)
    compute = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    with rdBase.BlockLogs(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Morgan fingerprints left to RDKit", UserWarning)
        ours = circular_fingerprints(
            featurize(smiles), rule="morgan", radius=radius, length=length, counts=counts
        )
        for row, text in enumerate(smiles):
            mol = Chem.MolFromSmiles(text)
            expected = np.full(length, np.nan) if mol is None else compute(mol)
            np.testing.assert_array_equal(ours[row], expected, err_msg=text)


@pytest.mark.parametrize("radius", range(5))
@pytest.mark.parametrize(("length", "counts"), [(2048, True), (1000, False)])
@pytest.mark.parametrize("name", FILES)
def test_fingerprints_are_rdkits(name, length, counts, radius):
    for smiles in parts(name):
        assert_fingerprints_are_rdkits(smiles, radius, length, counts)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("length", [1, 64, 1 << 16])
def test_fingerprints_of_any_length_are_rdkits(length, counts):
    for smiles in parts("delaney", rows=282):
        assert_fingerprints_are_rdkits(smiles, 2, length, counts)


@pytest.mark.parametrize("name", FILES)
def test_graphs_are_what_rdkit_says_of_every_atom_and_bond(monkeypatch, name):
    """Asked about each, as is done for large molecules, it says what is otherwise derived."""
    for smiles in parts(name):
        derived = featurize(smiles)
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "LARGE", 0)
            asked = featurize(smiles)
        for field in dataclasses.fields(Molecules):
            mine, other = getattr(derived, field.name), getattr(asked, field.name)
            np.testing.assert_array_equal(mine, other, err_msg=field.name, strict=True)
