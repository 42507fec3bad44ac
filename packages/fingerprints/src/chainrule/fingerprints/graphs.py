"""From SMILES to the arrays of graphs, many molecules at a time.

One can
- read cells of a table (`parse` -> `Graphs`).

To ask RDKit about an atom or a bond costs more than to reckon with the answer: an object is made for each,
and each question is a call from Python. So this asks what RDKit tells of a whole molecule at once (bond
orders, invariants), derives the rest from these for many molecules together, and makes objects only where
it cannot:

- an atom's element, its hydrogens and whether it is in a ring are those of any other atom of the same
  invariant (Rogers and Hahn's: a hash of element, degree, hydrogens, charge, isotope and the ring);
- its hydrogens are implicit unless it stands in brackets, or is aromatic and no carbon;
- an aromatic bond is conjugated; a single one is not, if both ends are saturated, or one has four neighbours;
- a bond between atoms in rings is in a ring, if one of them has only one other such bond.

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
_TYPES = np.zeros(7, np.uint8)  # by twice the order of a bond
_TYPES[[2, 4, 6, 3]] = BOND_TYPES
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
            bonds.types,
            conjugated=bonds.conjugated.astype(np.uint8),
            in_ring=bonds.in_ring.astype(np.uint8),
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
        invariants = [GetConnectivityInvariants(mol, includeRingMembership=True) for mol in self.molecules]
        self.counts = np.array(list(map(len, invariants)), np.int64)
        self.first = np.cumsum(self.counts) - self.counts  # atom of each molecule
        self.owner = np.repeat(np.arange(len(self.molecules)), self.counts)
        self.bracketed = np.array(["[" in texts[cell] for cell in molecules], bool)
        self.invariants = np.fromiter(chain.from_iterable(invariants), np.uint32, len(self.owner))
        _, samples, kinds = np.unique(self.invariants, return_index=True, return_inverse=True)
        sampled = self.objects(samples)
        self.numbers = _asked(Atom.GetAtomicNum, sampled)[kinds]
        self.in_ring = _asked(Atom.IsInRing, sampled, bool)[kinds]
        # With hydrogens that are atoms of their own, as the invariant has it; there are none but in odd ones:
        self.hydrogens = np.array([atom.GetTotalNumHs(True) for atom in sampled], np.uint8)[kinds]
        self.odd = self.counts > LARGE  # molecules
        self.odd |= np.array([not UNUSUAL_BONDS.isdisjoint(texts[cell]) for cell in molecules], bool)
        self.odd[self.owner[~NONMETALS[self.numbers]]] = True
        if self.odd.any():
            asked = np.flatnonzero(self.odd[self.owner])
            self.hydrogens[asked] = _asked(Atom.GetTotalNumHs, self.objects(asked))

    def objects(self, atoms: Int[np.ndarray, " some"]) -> list[Atom]:
        """RDKit's, by their place among all."""
        owners, places = self.owner[atoms], atoms - self.first[self.owner[atoms]]
        pairs = zip(owners.tolist(), places.tolist(), strict=True)
        return [self.molecules[owner].GetAtomWithIdx(place) for owner, place in pairs]

    def bonds(self, ends: Int[np.ndarray, "some 2"]) -> list[Bond]:
        """RDKit's, by their ends."""
        owners = self.owner[ends[:, 0]]
        pairs = zip(owners.tolist(), (ends - self.first[owners, None]).tolist(), strict=True)
        return [self.molecules[owner].GetBondBetweenAtoms(*places) for owner, places in pairs]

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
    in_ring: Bool[np.ndarray, " bonds"]


def _bonds(atoms: _Atoms) -> _Bonds:
    usual = _usual_bonds(atoms)
    if not atoms.odd.any():
        return usual
    bonds = _Bonds._make(map(np.concatenate, zip(usual, _odd_bonds(atoms), strict=True)))
    order = np.lexsort(bonds.ends.T[::-1])
    return _Bonds._make(column[order] for column in bonds)


def _usual_bonds(atoms: _Atoms) -> _Bonds:
    """Those of the molecules whose matrix of bond orders tells nearly all."""
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
    types = _TYPES[(2 * orders[entries[upper]]).astype(np.int64)]
    conjugated = types == AROMATIC
    multiple = types != SINGLE
    unsaturated = np.zeros(len(atoms.owner), bool)
    unsaturated[ends[multiple]] = True
    neighbors = atoms.hydrogens + np.bincount(ends.ravel(), minlength=len(atoms.owner))
    perhaps = unsaturated[ends].any(axis=1) & (neighbors[ends] <= 3).all(axis=1)
    unsure = (multiple | perhaps) & ~conjugated
    conjugated[unsure] = _asked(Bond.GetIsConjugated, atoms.bonds(ends[unsure]), bool)
    in_ring = atoms.in_ring[ends[:, 0]] & atoms.in_ring[ends[:, 1]]
    of_rings = np.bincount(ends[in_ring].ravel(), minlength=len(atoms.owner))  # such bonds of an atom
    unsure = in_ring & (of_rings[ends] > 2).all(axis=1)
    in_ring[unsure] = _asked(Bond.IsInRing, atoms.bonds(ends[unsure]), bool)
    return _Bonds(ends, types, conjugated, in_ring)


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
        _asked(Bond.GetIsConjugated, bonds, bool),
        _asked(Bond.IsInRing, bonds, bool),
    )


def _asked(what: Callable[[Any], int], of: list[Any], dtype: type = np.uint8) -> np.ndarray:
    """what(atom) of some atoms, or what(bond) of some bonds."""
    return np.fromiter(map(what, of), dtype, len(of))
