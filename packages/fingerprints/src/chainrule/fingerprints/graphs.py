"""From SMILES to the arrays of graphs, many molecules at a time.

One can
- read cells of a table (`parse` -> `Graphs`).

To ask RDKit about an atom or a bond costs more than to reckon with the answer: an object is made for each,
and each question is a call from Python. So this asks what RDKit tells of a whole molecule at once (bond
orders, rings, invariants), derives the rest from these for all molecules together, and makes objects only
where it cannot:

- an atom's element and its hydrogens are those of any other atom of the same invariant (Rogers and Hahn's:
  a hash of element, degree, hydrogens, charge, isotope and whether it is in a ring);
- its hydrogens are implicit unless it stands in brackets, or is aromatic and no carbon;
- an aromatic bond is conjugated, and one between two saturated atoms is not.

Molecules of which that does not hold (metals and dative bonds, hydrogens that are atoms, unusual bonds) and
those so large that a matrix of all pairs of atoms is, are asked atom by atom and bond by bond.

What a network sees of an atom or a bond stands in `features`; what is read as a molecule, in `smiles`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32
from rdkit import Chem
from rdkit.Chem import Atom, Bond
from rdkit.Chem.rdMolDescriptors import GetConnectivityInvariants

from chainrule.fingerprints.features import (
    AROMATIC,
    BOND_TYPES,
    MAX_DEGREE,
    NONMETALS,
    OTHER,
    SINGLE,
    SYMBOL_OF_NUMBER,
    atom_features,
    bond_features,
)
from chainrule.fingerprints.smiles import Unreadable, quiet, read_cell, shown

LARGE = 300  # atoms of a molecule whose matrix of pairs is not asked for
UNUSUAL_BONDS = frozenset("~$<>")  # of no order, fourfold, dative
_ORDERS = np.array([1, 2, 3, 1.5])  # of BOND_TYPES
_CARBON = 6


class Graphs(NamedTuple):
    """What is read of some cells: the atoms and bonds of those that become graphs, one after another."""

    valid: Bool[np.ndarray, " cells"]
    reasons: list[str]  # cells; why one is not valid, or a remark, or ''
    atom_counts: Int[np.ndarray, " cells"]  # 0 where the cell is not valid
    bond_counts: Int[np.ndarray, " cells"]
    atoms: UInt8[np.ndarray, "atoms atom_features"]
    bonds: UInt8[np.ndarray, "bonds bond_features"]
    bond_ends: Int[np.ndarray, "bonds 2"]  # numbered within `atoms`; in ascending order, as are the rows
    invariants: UInt32[np.ndarray, " atoms"]  # RDKit's name for each atom by itself: where Morgan begins
    bond_types: UInt8[np.ndarray, " bonds"]  # Chem.BondType, as a number


def parse(texts: Sequence[str]) -> Graphs:
    """The graphs of whole cells."""
    reasons = [""] * len(texts)
    molecules = _read_cells(texts, reasons)
    atoms, bonds, degrees = _take_apart(texts, molecules)
    unusual = (SYMBOL_OF_NUMBER[atoms.numbers] == OTHER) | (degrees > MAX_DEGREE)
    if unusual.any() and _refuse(texts, molecules, reasons):
        atoms, bonds, degrees = _take_apart(texts, molecules)
    aromatic = np.zeros(len(degrees), bool)
    aromatic[bonds.ends[bonds.types == AROMATIC]] = True
    atom_counts, bond_counts = np.zeros((2, len(texts)), np.int64)
    atom_counts[list(molecules)] = atoms.counts
    bond_counts[list(molecules)] = np.bincount(atoms.owner[bonds.ends[:, 0]], minlength=len(molecules))
    return Graphs(
        valid=atom_counts > 0,
        reasons=reasons,
        atom_counts=atom_counts,
        bond_counts=bond_counts,
        atoms=atom_features(
            atoms.numbers,
            degrees.astype(np.uint8),
            hydrogens=atoms.hydrogens,
            implicit_valence=atoms.implicit_hydrogens(aromatic),
            aromatic=aromatic.astype(np.uint8),
        ),
        bonds=bond_features(
            bonds.types, conjugated=bonds.conjugated.astype(np.uint8), in_ring=_in_ring(atoms, bonds.ends)
        ),
        bond_ends=bonds.ends.astype(np.int32),
        invariants=atoms.invariants,
        bond_types=bonds.types,
    )


def _read_cells(texts: Sequence[str], reasons: list[str]) -> dict[int, Chem.Mol]:
    """The molecules of the cells that have one; of the others, and of salts and lone atoms, the reason."""
    molecules = {}
    with quiet():
        for cell, text in enumerate(texts):
            try:
                molecules[cell] = mol = read_cell(text)
            except Unreadable as error:
                reasons[cell] = str(error)
                continue
            if mol.GetNumAtoms() == 1:
                reasons[cell] = "a single atom, no bonds"
            elif "." in text and (pieces := len(Chem.GetMolFrags(mol))) > 1:
                reasons[cell] = f"{pieces} disconnected pieces (a salt or mixture), summed"
    return molecules


def _refuse(texts: Sequence[str], molecules: dict[int, Chem.Mol], reasons: list[str]) -> bool:
    """Drop the molecules with atoms for which there are no features, and remark on those of unlisted
    elements; whether any was dropped."""
    before = len(molecules)
    for cell, mol in list(molecules.items()):
        try:
            others = _unlisted(mol, shown(texts[cell]))
        except Unreadable as error:
            reasons[cell] = str(error)
            del molecules[cell]
            continue
        remarks = {f"{symbol} is read as 'other element'" for symbol in others} | {reasons[cell]}
        reasons[cell] = "; ".join(sorted(remarks - {""}))
    return len(molecules) < before


def _unlisted(mol: Chem.Mol, name: str) -> set[str]:
    """The elements that ELEMENTS does not list; or `Unreadable`, where an atom has no features."""
    symbols = set()
    for place, atom in enumerate(mol.GetAtoms()):
        number, degree = atom.GetAtomicNum(), atom.GetDegree()
        if number == 0:
            raise Unreadable(f"atom {place} of {name} is a dummy (*), not an element")
        if degree > MAX_DEGREE:
            why = f"has {degree} neighbours; the fingerprint has weights for {MAX_DEGREE}"
            raise Unreadable(f"atom {place} of {name} {why}")
        if SYMBOL_OF_NUMBER[number] == OTHER:
            symbols.add(atom.GetSymbol())
    return symbols


def _take_apart(
    texts: Sequence[str], molecules: dict[int, Chem.Mol]
) -> tuple[_Atoms, _Bonds, Int[np.ndarray, " atoms"]]:
    """The atoms, the bonds, and the number of neighbours of every atom."""
    atoms = _Atoms(texts, molecules)
    bonds = _bonds(atoms)
    return atoms, bonds, np.bincount(bonds.ends.ravel(), minlength=len(atoms.numbers))


class _Atoms:
    """All atoms of some molecules, one molecule after another, and what is known of them without bonds."""

    def __init__(self, texts: Sequence[str], molecules: dict[int, Chem.Mol]):
        self.molecules = list(molecules.values())
        self.counts = np.array([mol.GetNumAtoms() for mol in self.molecules], np.int64)
        self.first = np.cumsum(self.counts) - self.counts  # atom of each molecule
        self.owner = np.repeat(np.arange(len(self.molecules)), self.counts)
        self.bracketed = np.array(["[" in texts[cell] for cell in molecules], bool)
        invariants = [GetConnectivityInvariants(mol, includeRingMembership=True) for mol in self.molecules]
        self.invariants = np.fromiter(chain.from_iterable(invariants), np.uint32, len(self.owner))
        _, samples, kinds = np.unique(self.invariants, return_index=True, return_inverse=True)
        sampled = self.objects(samples)
        self.numbers = _asked(Atom.GetAtomicNum, sampled)[kinds]
        # With hydrogens that are atoms of their own, as the invariant has it; there are none but in odd ones:
        self.hydrogens = np.array([atom.GetTotalNumHs(True) for atom in sampled], np.uint8)[kinds]
        self.odd = self.counts > LARGE  # molecules
        self.odd |= np.array([not UNUSUAL_BONDS.isdisjoint(texts[cell]) for cell in molecules], bool)
        self.odd[self.owner[~NONMETALS[self.numbers]]] = True
        asked = np.flatnonzero(self.odd[self.owner])
        self.hydrogens[asked] = _asked(Atom.GetTotalNumHs, self.objects(asked))

    def objects(self, atoms: Int[np.ndarray, " some"]) -> list[Atom]:
        """RDKit's, by their place among all."""
        owners, places = self.owner[atoms], atoms - self.first[self.owner[atoms]]
        pairs = zip(owners.tolist(), places.tolist(), strict=True)
        return [self.molecules[owner].GetAtomWithIdx(place) for owner, place in pairs]

    def implicit_hydrogens(self, aromatic: Bool[np.ndarray, " atoms"]) -> UInt8[np.ndarray, " atoms"]:
        implicit = self.hydrogens.copy()
        unsure = (self.bracketed | self.odd)[self.owner] | (aromatic & (self.numbers != _CARBON))
        asked = np.flatnonzero(unsure & (implicit > 0))
        implicit[asked] = _asked(Atom.GetNumImplicitHs, self.objects(asked))
        return implicit


class _Bonds(NamedTuple):
    """All bonds of some molecules, in ascending order of their ends."""

    ends: Int[np.ndarray, "bonds 2"]  # the smaller number first
    types: UInt8[np.ndarray, " bonds"]  # Chem.BondType, as a number
    conjugated: Bool[np.ndarray, " bonds"]


def _bonds(atoms: _Atoms) -> _Bonds:
    usual, odd = _usual_bonds(atoms), _odd_bonds(atoms)
    if not len(odd.types):
        return usual
    ends, types, conjugated = (np.concatenate(both) for both in zip(usual, odd, strict=True))
    order = np.lexsort(ends.T[::-1])
    return _Bonds(ends[order], types[order], conjugated[order])


def _usual_bonds(atoms: _Atoms) -> _Bonds:
    """Those of the molecules whose matrix of bond orders tells all but whether a bond is conjugated."""
    usual = np.flatnonzero(~atoms.odd)
    matrices = [Chem.GetAdjacencyMatrix(atoms.molecules[k], useBO=True).ravel() for k in usual.tolist()]
    orders = np.concatenate([*matrices, np.zeros(0)])
    sizes = atoms.counts[usual]
    after = np.cumsum(sizes**2)
    entries = np.flatnonzero(orders)
    matrix = np.searchsorted(after, entries, side="right")
    row, column = np.divmod(entries - (after - sizes**2)[matrix], sizes[matrix])
    upper = row < column
    first = atoms.first[usual][matrix[upper], None]
    ends = np.stack([row, column], axis=1)[upper] + first
    types = BOND_TYPES[np.argmax(orders[entries[upper], None] == _ORDERS, axis=1)]
    unsaturated = np.zeros(len(atoms.owner), bool)
    unsaturated[ends[types != SINGLE]] = True
    conjugated = types == AROMATIC
    asked = np.flatnonzero(unsaturated[ends].any(axis=1) & ~conjugated)
    owners = atoms.owner[ends[asked, 0]]
    places = (ends - first)[asked]
    conjugated[asked] = [
        atoms.molecules[owner].GetBondBetweenAtoms(begin, end).GetIsConjugated()
        for owner, (begin, end) in zip(owners.tolist(), places.tolist(), strict=True)
    ]
    return _Bonds(ends, types, conjugated)


def _odd_bonds(atoms: _Atoms) -> _Bonds:
    bonds: list[Bond] = []
    first: list[int] = []
    for odd in np.flatnonzero(atoms.odd).tolist():
        bonds += atoms.molecules[odd].GetBonds()
        first += [atoms.first[odd]] * atoms.molecules[odd].GetNumBonds()
    ends = [_asked(end, bonds, np.int64) for end in (Bond.GetBeginAtomIdx, Bond.GetEndAtomIdx)]
    return _Bonds(
        np.sort(np.stack(ends, axis=1) + np.array(first, np.int64)[:, None], axis=1),
        _asked(Bond.GetBondType, bonds),
        _asked(Bond.GetIsConjugated, bonds).astype(bool),
    )


def _in_ring(atoms: _Atoms, ends: Int[np.ndarray, "bonds 2"]) -> UInt8[np.ndarray, " bonds"]:
    """Whether the ends of a bond are neighbours in one of the rings that RDKit found."""
    rings = [mol.GetRingInfo().AtomRings() for mol in atoms.molecules]
    lengths = np.array([len(ring) for of_one in rings for ring in of_one], np.int64)
    members = np.fromiter(chain.from_iterable(chain.from_iterable(rings)), np.int64, int(lengths.sum()))
    counts = np.array([len(of_one) for of_one in rings], np.int64)
    members += np.repeat(np.repeat(atoms.first, counts), lengths)
    following = np.arange(1, len(members) + 1)
    following[np.cumsum(lengths) - 1] -= lengths  # the last is a neighbour of the first
    pairs = np.sort(np.stack([members, members[following]]), axis=0)
    n_atoms = len(atoms.owner)
    return np.isin(ends @ (n_atoms, 1), n_atoms * pairs[0] + pairs[1]).astype(np.uint8)


def _asked(what: Callable[[Any], int], of: list[Any], dtype: type = np.uint8) -> np.ndarray:
    """what(atom) of some atoms, or what(bond) of some bonds."""
    return np.fromiter(map(what, of), dtype, len(of))
