"""Every row of a table survives; what became of it is said; the features are what they claim."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig

from chainrule.fingerprints import Molecules, canonical_smiles, featurize, molecules, morgan_fingerprints
from chainrule.fingerprints.features import ATOM_FEATURES, BOND_FEATURES
from chainrule.fingerprints.graphs import LARGE, parse
from chainrule.fingerprints.parallel import ordered_map
from chainrule.fingerprints.smiles import MAX_CHARACTERS, read


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


def atom_facts(atom):
    implicit = atom.GetValence(Chem.ValenceType.IMPLICIT)
    return atom.GetAtomicNum(), atom.GetDegree(), atom.GetTotalNumHs(), implicit, atom.GetIsAromatic()


def bond_facts(bond):
    return bond.GetBondType(), bond.GetIsConjugated(), bond.IsInRing(), bond.GetBeginAtomIdx()


def test_what_is_read_is_what_rdkit_reads_stereochemistry_aside(table):
    spellings = [Chem.MolToSmiles(Chem.AddHs(Chem.MolFromSmiles(smiles))) for smiles in table.smiles]
    odd = ["[H]n1cccc1", "[H][H]", "[2H]C", "[H]/C=C/F", "[H][C@](F)(Cl)Br", "C[B-]([H])(C)C", "[H]P([H])[H]"]
    for smiles in [*table.smiles, *spellings, *odd]:
        ours, whole = read(smiles), Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(whole)
        assert [atom_facts(a) for a in ours.GetAtoms()] == [atom_facts(a) for a in whole.GetAtoms()]
        assert [bond_facts(b) for b in ours.GetBonds()] == [bond_facts(b) for b in whole.GetBonds()]
        assert Chem.MolToSmiles(ours, isomericSmiles=False) == Chem.MolToSmiles(whole, isomericSmiles=False)


def test_an_element_that_rdkit_does_not_know_is_a_reason_and_no_crash():
    table = featurize(["C", "[#119]"])
    assert table.valid.tolist() == [True, False] and "Atomic number not found" in table.reasons[1]


def test_several_processes_give_the_same_table_in_order(table):
    rows = [*table.smiles, "bad", "*C", "FS(F)(F)(F)(F)F"]
    expected = featurize(rows).take(np.tile(np.arange(len(rows)), 40))  # read at once; below, in parts
    for processes in (1, 2):
        read_in_parts = featurize(rows * 40, processes=processes)
        for field in dataclasses.fields(Molecules):
            mine, other = getattr(read_in_parts, field.name), getattr(expected, field.name)
            np.testing.assert_array_equal(mine, other, err_msg=field.name, strict=True)


def test_less_than_one_process_is_refused():
    with pytest.raises(ValueError, match="processes=0 must be at least 1"):
        featurize(["C"], processes=0)


def test_a_process_that_dies_is_no_silence():
    with pytest.raises(RuntimeError, match="one of processes=2 died"):
        list(ordered_map(os._exit, [1], processes=2))


def test_tasks_are_read_as_their_results_are_taken():
    read_so_far = []
    tasks = (read_so_far.append(i) or -i for i in range(1000))
    results = ordered_map(abs, tasks, processes=2)
    assert [next(results) for _ in range(20)] == list(range(20))
    assert len(read_so_far) < 30


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
    kinds = table.bonds[:, :4].sum(axis=1)
    assert (kinds == 1).all()
    benzene = table.take([3])
    assert benzene.bonds.tolist() == [[0, 0, 0, 1, 1, 1]] * 6


ODD = "*C N->[Pt](<-N)(Cl)Cl C~C C$C F/C=C/F [H]B1([H])[H]B([H])([H])[H]1 [2H]C bad [Xe]C.C [CH2] BB".split()
ODD += "FS(F)(F)(F)(F)F [nH]1cccc1 C1=CNC=C1 [Fe]123456C7C1C2C3C4C57 C[Mg]Br [Na+].[Cl-] CN(=O)=O".split()
ODD += ["C" * (LARGE + 1) + "C=O", "C1CC1" * 30, "c1cc[se]c1", "C1=C[SiH2]C=C1", "[H][H]", "[C-]#[O+]"]
# Bonds between rings, which are in none; and at what has four neighbours, or five
ODD += "C1CC1C1CC1 C1CC1=C1CC1 C1CC12CC2 C12CC1C2 C=CP(=O)(C)C=C C=CS(=O)(=O)C=C C=C[N+](C)(C)C".split()
ODD += "c1ccccc1-c1ccccc1 C1CC1c1ccccc1C=CC=C1CC1 OP(=C)C=C C=CC=P(C)(C)C C=CI(=O)=O C=C[CH]C=C".split()


def test_rows_read_together_are_what_each_row_is_by_itself(table):
    """Dative, zero-order, quadruple and directed bonds too; bad rows do not shift their neighbours."""
    rows = [*ODD, *table.smiles]
    together = parse(rows)
    first = 0
    for row, text in enumerate(rows):
        alone = parse([text])
        assert together.reasons[row] == alone.reasons[0]
        assert together.valid[row] == alone.valid[0]
        last = first + alone.atom_counts[0]
        np.testing.assert_array_equal(together.atoms[first:last], alone.atoms)
        mine = (together.bond_ends[:, 0] >= first) & (together.bond_ends[:, 0] < last)
        np.testing.assert_array_equal(together.bond_ends[mine] - first, alone.bond_ends)
        np.testing.assert_array_equal(together.bonds[mine], alone.bonds)
        np.testing.assert_array_equal(together.bond_types[mine], alone.bond_types)
        first = last
    assert first == len(together.atoms)
    assert "Xe is read as 'other element'" in together.reasons[rows.index("[Xe]C.C")]


def assert_all_are_what_rdkit_says(rows):
    """RDKit is asked about every atom and every bond; we ask about few, see `graphs`."""
    graphs = parse(rows)
    atom = bond = 0
    for row in np.flatnonzero(graphs.valid):
        mol = read(rows[row])
        for place, here in enumerate(mol.GetAtoms()):
            names = {ATOM_FEATURES[i] for i in np.flatnonzero(graphs.atoms[atom + place])}
            assert names == named_atom(here), rows[row]
        bonds = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()): b for b in mol.GetBonds()}
        bonds = {tuple(sorted(ends)): b for ends, b in bonds.items()}
        mine = slice(bond, bond + len(bonds))
        assert [tuple(ends) for ends in (graphs.bond_ends[mine] - atom).tolist()] == sorted(bonds), rows[row]
        in_order = [bonds[ends] for ends in sorted(bonds)]
        np.testing.assert_array_equal(graphs.bond_types[mine], [int(b.GetBondType()) for b in in_order])
        names = [{BOND_FEATURES[i] for i in np.flatnonzero(features)} for features in graphs.bonds[mine]]
        assert names == [named_bond(b) for b in in_order], rows[row]
        atom, bond = atom + mol.GetNumAtoms(), bond + len(bonds)
    assert (atom, bond) == (len(graphs.atoms), len(graphs.bonds))


def test_what_is_derived_of_atoms_and_bonds_is_what_rdkit_says_of_each(table):
    """Together, as an atom may be taken for another of the same invariant; Kekulé's spellings and those
    with all hydrogens too."""
    readable = [Chem.MolFromSmiles(text) for text in table.smiles]
    spelled = [Chem.MolToSmiles(mol, kekuleSmiles=True) for mol in readable]
    spelled += [Chem.MolToSmiles(mol, allHsExplicit=True) for mol in readable]
    assert_all_are_what_rdkit_says([*ODD, *table.smiles, *spelled])
    assert_all_are_what_rdkit_says([])
    assert_all_are_what_rdkit_says(["bad"])


@pytest.mark.slow
def test_molecules_of_the_cancer_institute_are_what_rdkit_says_of_each():
    file = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    rows = [line.split()[0] for line in file.read_text().splitlines()[::3]]
    for start in range(0, len(rows), 1000):
        assert_all_are_what_rdkit_says(rows[start : start + 1000])


def named_atom(atom):
    """The features of an atom by name."""
    symbol = atom.GetSymbol() if f"symbol={atom.GetSymbol()}" in ATOM_FEATURES else "other"
    return {
        f"symbol={symbol}",
        f"degree={atom.GetDegree()}",
        f"hydrogens={min(atom.GetTotalNumHs(), 4)}",
        f"implicit_valence={min(atom.GetNumImplicitHs(), 5)}",
    } | ({"aromatic"} if atom.GetIsAromatic() else set())


def named_bond(bond):
    """The features of a bond by name; a dative or zero-order one has no kind."""
    kind = {str(bond.GetBondType()).lower()} & set(BOND_FEATURES)
    facts = {"conjugated": bond.GetIsConjugated(), "in_ring": bond.IsInRing()}
    return kind | {name for name, is_so in facts.items() if is_so}


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
    monkeypatch.setattr(molecules, "_featurize", lambda rows, processes: pytest.fail("featurized again"))
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


def test_a_stored_table_is_the_table(tmp_path, table):
    molecules.save_molecules(tmp_path / "a.npz", table)
    molecules.save_molecules(tmp_path / "b.npz", table)
    again = molecules.load_molecules(tmp_path / "a.npz")
    for field in dataclasses.fields(Molecules):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(table, field.name), strict=True)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a.npz is damaged"):
        molecules.load_molecules(tmp_path / "a.npz")


def changed(name, index, value):
    """A change of one entry of one array."""

    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(atoms=a["atoms"].astype(np.float32)), r"atoms is float32\[\d+, 62\], not uint8"),
        (lambda a: a.update(atoms=a["atoms"][:, :61]), r"atoms is uint8\[\d+, 61\], not uint8\[\d+, 62\]"),
        (lambda a: a.update(atoms=a["atoms"][:-1]), r"atoms is uint8\[\d+, 62\]"),
        (lambda a: a.update(bonds=a["bonds"][:-1]), r"bonds is"),
        (lambda a: a.update(invariants=a["invariants"][:-1]), r"invariants is"),
        (lambda a: a.update(bond_types=a["bond_types"][:, None]), r"bond_types is"),
        (lambda a: a.update(valid=a["valid"][:-1]), r"valid is bool\[14\], not bool\[15\]"),
        (lambda a: a.update(reasons=np.frombuffer(b"[]", np.uint8)), "0 reasons for 15 rows"),
        (changed("atom_offsets", 3, 10_000), "atom_offsets"),
        (changed("atom_offsets", 0, 1), "atom_offsets"),
        (changed("bond_offsets", -1, 1), "bond_offsets"),
        (changed("bond_ends", (0, 1), 5), "bond_ends"),  # an atom of another molecule
        (changed("bond_ends", (0, 1), -1), "bond_ends"),
        (lambda a: a.update(featurizer_version=np.array(2)), "featuriser of version 2, not 3"),
        (lambda a: a.pop("featurizer_version"), "featuriser of version None, not 3"),
        (lambda a: a.update(extra=np.zeros(3)), "extra"),
    ],
)
def test_a_file_of_other_arrays_is_refused(tmp_path, table, change, message):
    molecules.save_molecules(tmp_path / "a.npz", table)
    arrays = dict(np.load(tmp_path / "a.npz"))
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a\.npz.*{message}.*(again|anew)"):
        molecules.load_molecules(tmp_path / "a.npz")


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
