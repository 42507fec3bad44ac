"""The rule of Morgan fingerprints: equal to RDKit's in every bit and count."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import rdFingerprintGenerator

from chainrule.fingerprints import (
    circular,
    circular_fingerprint,
    circular_fingerprints,
    collate,
    featurize,
    load,
)
from chainrule.fingerprints.fingerprinting import Circular, write_fingerprints
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.morgan import MOST_BONDS
from chainrule.fingerprints.tables import Table

DATA = Path(os.environ.get("CHAINRULE_DATA", "no such folder"))

# What the rule is about: symmetry, rings in rings, charges, isotopes, hydrogens, bonds of every type.
TRICKY = [
    "C1CC2CCC1CC2",
    "C12C3C4C1C5C2C3C45",
    "[2H]OC",
    "[13CH3]C",
    "[NH4+]",
    "[H][H]",
    "[Na+].[Cl-]",
    "C[N+](C)(C)CC(=O)[O-]",
    "N->[Cu]",
    "c1ccc2cc3ccccc3cc2c1",
    "CC(C)=CCCC(C)=CC(=O)",
    "C/C=C/C=C\\C",
    "N[C@@H](C)C(=O)O",
    "FP(F)(F)(F)F",
    "C#CC=CC#N",
    "O=S(=O)(O)c1ccc(Cl)cc1",
    "c1ccc(cc1)C(c1ccccc1)(c1ccccc1)c1ccccc1",
    "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1",
    "C1CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC1",  # more than 32 bonds, so more than a word
]


def rdkits(smiles, radius, length, counts):
    """RDKit's, of what its own parser reads."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=length)
    compute = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text.strip()) for text in smiles]
    return np.stack([np.full(length, np.nan) if mol is None else compute(mol) for mol in molecules])


def assert_equal_to_rdkits(table: Molecules, radius, length, counts):
    ours = circular_fingerprints(table, rule="morgan", radius=radius, length=length, counts=counts)
    np.testing.assert_array_equal(ours, rdkits(table.smiles, radius, length, counts))


@pytest.mark.parametrize("radius", [0, 4])  # which writes all radii between, too
def test_tricky_molecules_have_rdkits_counts(table, radius):
    both = featurize([*table.smiles, *TRICKY])
    assert both.valid.all()
    assert_equal_to_rdkits(both, radius, length=2048, counts=True)


@pytest.mark.parametrize("length", [1, 1000, 1 << 16])
def test_any_length_has_rdkits_bits(table, length):
    assert_equal_to_rdkits(table, radius=3, length=length, counts=False)


@pytest.mark.slow
def test_rdkits_own_nci_file_has_its_counts():
    """A thousand of five; those with atoms of more than five neighbours are RDKit's own, and say so."""
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
    table = featurize([line.split()[0] for line in lines if line.strip()][400:1400])
    with pytest.warns(
        UserWarning, match=r"left to RDKit: row \d+: atom 3 of .* has 6 neighbours.*; and \d+ more"
    ):
        assert_equal_to_rdkits(table, radius=2, length=2048, counts=True)


def test_molecules_of_very_many_bonds_are_left_to_rdkit_and_named(tmp_path):
    """XLA would compile for half a minute, and sort by a word for every 32 bonds of the largest."""
    smiles = ["CCO", "C" * 5000, "bad", f"{'C' * MOST_BONDS}C", f"C{'C' * MOST_BONDS}C"]
    for counts in (False, True):
        with pytest.warns(UserWarning, match=r"RDKit: row 1: 4999 bonds; beyond 512 .*; row 4: 513 bonds"):
            assert_equal_to_rdkits(featurize(smiles), radius=2, length=2048, counts=counts)
    whole = Table("long.smi", 100, {"smiles": smiles}, "smiles")
    tally = write_fingerprints([whole], tmp_path / "out.npz", Circular(radius=2))
    assert tally[:3] == (5, 1, 2) and tally.first_left.startswith("row 101: 4999 bonds")


@pytest.mark.parametrize("counts", [False, True])
def test_lone_atoms_are_left_out_of_rdkits_fingerprints_too(monkeypatch, table, counts):
    settings = {"rule": "morgan", "radius": 2, "length": 1000, "counts": counts, "write_atoms": False}
    expected = circular_fingerprints(table, **settings)
    monkeypatch.setattr(circular, "MOST_BONDS", 20)  # of the chain of 22 carbons
    with pytest.warns(UserWarning, match="row 12: 34 bonds.*row 13: 21 bonds"):
        np.testing.assert_array_equal(circular_fingerprints(table, **settings), expected)


def test_rows_that_cannot_be_read_are_nan_in_their_place():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to say of them
        values = circular_fingerprints(featurize(["CC", "bad", "CC"]), rule="morgan", radius=1, length=32)
    assert np.isnan(values).any(axis=1).tolist() == [False, True, False]


def test_company_padding_and_numbering_do_not_matter(table):
    rng = np.random.default_rng(0)
    settings = {"rule": "morgan", "radius": 3, "length": 512, "counts": True}
    expected = circular_fingerprints(table, **settings)
    for row in (4, 12):
        np.testing.assert_array_equal(circular_fingerprints(table.take([row]), **settings)[0], expected[row])
    mol = Chem.MolFromSmiles(table.smiles[12])
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    again = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
    np.testing.assert_array_equal(circular_fingerprints(featurize([again]), **settings)[0], expected[12])


def test_a_batch_without_invariants_and_an_unknown_rule_are_refused(table):
    with pytest.raises(ValueError, match=r"collate\(\.\.\., morgan=True\)"):
        circular_fingerprint(collate(table, [0]), rule="morgan")
    with pytest.raises((ValueError, TypeError), match="'ecfp'"):  # TypeError where annotations are checked
        circular_fingerprint(collate(table, [0]), rule="ecfp")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["delaney"])
def test_the_talks_molecules_have_rdkits_counts(name):
    file = DATA / name / f"{name}-processed.csv"
    if not file.exists():
        pytest.skip(f"{file} is not there: set CHAINRULE_DATA to a folder with the talk's data")
    assert_equal_to_rdkits(load(name).molecules, radius=3, length=2048, counts=True)
