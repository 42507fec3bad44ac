"""Every row of a table survives; what became of it is said; the features are what they claim."""

import time

import numpy as np
import pytest
from rdkit import Chem

from chainrule.fingerprints import Molecules, canonical_smiles, featurize, molecules, morgan_fingerprints
from chainrule.fingerprints.smiles import ATOM_FEATURES, BOND_FEATURES, MAX_CHARACTERS, atom_key, read


def test_every_bad_row_is_kept_with_its_reason_and_the_rest_goes_on():
    rows = ["CCO", "nonsense", "", None, float("nan"), "F[P-](F)(F)(F)(F)F", "*CC", " CC \t", "C1CC"]
    table = featurize(rows)
    assert len(table) == len(rows)
    assert table.valid.tolist() == [True, False, False, False, False, False, False, True, False]
    assert "cannot read 'nonsense'" in table.reasons[1]
    assert "'C1CC'" in table.reasons[8]
    assert table.reasons[2] == table.reasons[3] == table.reasons[4] == "empty cell"
    assert "atom 1" in table.reasons[5] and "6 neighbours" in table.reasons[5]
    assert "dummy" in table.reasons[6]
    assert table.atoms_per_molecule.tolist() == [3, 0, 0, 0, 0, 0, 0, 2, 0]


def test_rows_worth_a_remark_are_valid_and_say_why():
    table = featurize(["C", "[Na+].[Cl-]", "[Xe]CC", "CC"])
    assert table.valid.all()
    assert "single atom" in table.reasons[0]
    assert "2 disconnected pieces" in table.reasons[1]
    assert "Xe" in table.reasons[2]
    assert table.reasons[3] == ""


def test_cells_that_are_no_text_or_more_than_a_smiles_say_so():
    table = featurize([b"CCO", 7, "CCO not a molecule", "C\udcff", "CC"])
    assert table.valid.tolist() == [False, False, False, False, True]
    assert "b'CCO'" in table.reasons[0] and "'7'" in table.reasons[1]
    assert "blanks" in table.reasons[2] and "ASCII" in table.reasons[3]


def test_a_row_too_long_to_be_read_in_time_is_kept_with_its_reason():
    """RDKit assigns stereochemistry and finds rings in quadratic time: a long row would stall the batch."""
    most = MAX_CHARACTERS
    table = featurize(["CCO", "C(C)" * (most // 4), "C" * (most + 1)])
    assert table.valid.tolist() == [True, True, False]
    assert table.atoms_per_molecule.tolist() == [3, most // 2, 0]
    assert table.reasons[2].endswith(f"is {most + 1} characters long; at most {most} are read")
    for endless in ("c1ccccc1" * 100_000, "C(" * 300_000 + "C" + ")" * 300_000):
        (reason,) = featurize([endless]).reasons
        assert "characters long" in reason and len(reason) < 200


@pytest.mark.parametrize("text", ["C(C)" * 2500, "C=C" * 3333, "N[C@@H](CCCCN)C(=O)" * 500 + "O"])
def test_reading_without_stereochemistry_is_not_slower_than_linear(text):
    """What MolFromSmiles spends on stereochemistry in these is 0.3 to 5 seconds."""
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 0.2


def test_what_is_read_is_what_rdkit_reads_stereochemistry_aside(table):
    spellings = [Chem.MolToSmiles(Chem.AddHs(Chem.MolFromSmiles(smiles))) for smiles in table.smiles]
    odd = ["[H]n1cccc1", "[H][H]", "[2H]C", "[H]/C=C/F", "[H][C@](F)(Cl)Br", "C[B-]([H])(C)C", "[H]P([H])[H]"]
    for smiles in [*table.smiles, *spellings, *odd]:
        ours, whole = read(smiles), Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(whole)
        assert [atom_key(a) for a in ours.GetAtoms()] == [atom_key(a) for a in whole.GetAtoms()]
        assert Chem.MolToSmiles(ours, isomericSmiles=False) == Chem.MolToSmiles(whole, isomericSmiles=False)


def test_tables_of_no_rows_or_bad_ones_are_handled(table):
    assert len(table.take([])) == 0 and len(table.take(np.zeros(len(table), bool))) == 0
    for wrong in ([-1], [len(table)], np.ones(2, bool), np.array([0.5])):
        with pytest.raises(ValueError):
            table.take(wrong)


def test_a_single_string_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"pass a list of SMILES, \['CCO'\]"):
        featurize("CCO")


def test_an_empty_table_is_a_table():
    table = featurize([])
    assert len(table) == 0 and table.atoms.shape == (0, 62) and table.bonds.shape == (0, 6)


def test_features_are_what_rdkit_says(table):
    assert table.atoms.shape[1] == len(ATOM_FEATURES) == 62
    assert table.bonds.shape[1] == len(BOND_FEATURES) == 6
    name = {feature: i for i, feature in enumerate(ATOM_FEATURES)}
    at = 0
    for smiles in table.smiles:
        for atom in Chem.MolFromSmiles(smiles).GetAtoms():
            expected = {
                f"symbol={atom.GetSymbol()}",
                f"degree={atom.GetDegree()}",
                f"hydrogens={atom.GetTotalNumHs()}",
                f"implicit_valence={atom.GetNumImplicitHs()}",
            } | ({"aromatic"} if atom.GetIsAromatic() else set())
            assert {f for f, i in name.items() if table.atoms[at, i]} == expected
            at += 1
    assert at == len(table.atoms)
    kinds = table.bonds[:, :4].sum(axis=1)
    assert (kinds == 1).all()
    benzene = table.take([3])
    assert benzene.bonds.tolist() == [[0, 0, 0, 1, 1, 1]] * 6


def test_adjacency_names_each_bond_from_both_ends(table):
    neighbors, incident = table.adjacency
    for atom, bond in zip(*np.nonzero(incident >= 0), strict=True):
        ends = set(table.bond_ends[incident[atom, bond]].tolist())
        assert ends == {atom, neighbors[atom, bond]}
    assert (np.sum(neighbors >= 0, axis=1) == table.degrees).all()


def test_take_gives_the_same_rows_as_featurizing_them(table):
    rows = [4, 0, 4, 13]
    taken, fresh = table.take(rows), featurize([table.smiles[i] for i in rows])
    for name, value in vars(fresh).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(taken, name), value, err_msg=name)
    assert taken.reasons == fresh.reasons


def test_a_table_is_featurized_once_and_then_cached(tmp_path, monkeypatch):
    rows = ["CCO", "bad", "c1ccccc1"]
    first = featurize(rows, cache=tmp_path)
    monkeypatch.setattr(molecules, "_featurize", lambda rows: pytest.fail("featurized again"))
    again = featurize(rows, cache=tmp_path)
    assert isinstance(again, Molecules) and again.reasons == first.reasons
    np.testing.assert_array_equal(again.atoms, first.atoms)
    monkeypatch.undo()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])  # cut off by a kill: made anew, not trusted
    np.testing.assert_array_equal(featurize(rows, cache=tmp_path).atoms, first.atoms)
    for damaged in (b"", b"PK" + bytes(200)):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(featurize(rows, cache=tmp_path).atoms, first.atoms)
    monkeypatch.setattr(molecules, "FEATURIZER_VERSION", -1)
    featurize(rows, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # another featuriser does not read the old file


def test_spellings_and_mirror_images_have_one_name():
    assert canonical_smiles("OCC") == canonical_smiles("CCO")
    assert canonical_smiles("C[C@H](N)O") == canonical_smiles("C[C@@H](N)O")
    with pytest.raises(ValueError, match="'C1'"):
        canonical_smiles("C1")


def test_morgan_rows_that_rdkit_cannot_read_are_nan():
    """A molecule may have no graph here, for its degrees, and yet an RDKit fingerprint."""
    table = featurize(["CCO", "bad", "FS(F)(F)(F)(F)F", "CCO ethanol"])
    values = morgan_fingerprints(table, radius=2, length=64)
    assert values.shape == (4, 64) and table.valid.tolist() == [True, False, False, False]
    assert np.isnan(values).any(axis=1).tolist() == [False, True, False, True] and values[0].sum() > 0
