"""What RDKit reads: SMILES, and what it knows of their atoms and bonds.

One can
- read cells of a table, many at a time (`parse` -> `Graphs`), or one (`read_cell`), or learn why it is
  no molecule (`Unreadable`),
- name a molecule, or a part of it (`canonical_smiles`, `fragment_smiles`, `scaffold_smiles`),
- compute RDKit's own Morgan fingerprints (`rdkit_fingerprints`).

What a network sees of an atom or a bond stands in `features`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt32
from rdkit import Chem, rdBase
from rdkit.Chem import Atom, Bond, rdFingerprintGenerator
from rdkit.Chem.rdMolDescriptors import GetConnectivityInvariants
from rdkit.Chem.Scaffolds import MurckoScaffold

from chainrule.fingerprints.features import (
    BOND_TYPES,
    MAX_DEGREE,
    OTHER,
    SYMBOL_OF_NUMBER,
    atom_features,
    bond_features,
)

# RDKit looks for rings and finds bonds in a time that grows with the square of the size: a second here.
MAX_CHARACTERS = 10_000

# By the symbol of a bond in SMARTS:
TYPE_OF_SYMBOL: dict[str, int] = dict(zip("-=#:", BOND_TYPES.tolist(), strict=True))


class Graphs(NamedTuple):
    """What is read of some cells: the atoms and bonds of those that become graphs, one after another."""

    valid: Bool[np.ndarray, " cells"]
    reasons: list[str]  # cells; why one is not valid, or a remark, or ''
    atom_counts: Int[np.ndarray, " cells"]  # 0 where the cell is not valid
    bond_counts: Int[np.ndarray, " cells"]
    atoms: UInt8[np.ndarray, "atoms atom_features"]
    bonds: UInt8[np.ndarray, "bonds bond_features"]
    bond_ends: Int[np.ndarray, "bonds 2"]  # numbered within `atoms`
    invariants: UInt32[np.ndarray, " atoms"]  # RDKit's name for each atom by itself: where Morgan begins
    bond_types: UInt8[np.ndarray, " bonds"]  # Chem.BondType, as a number


def parse(texts: Sequence[str]) -> Graphs:
    """The graphs of whole cells.

    To ask RDKit costs more than to reckon with the answer: so a property is asked of all atoms or bonds in
    one sweep, which keeps RDKit's and Python's code from pushing each other out of the processor's cache,
    and the rest is NumPy's.
    """
    reasons = [""] * len(texts)
    molecules = _read_cells(texts, reasons)
    atoms = _atoms(molecules)
    numbers, degrees = _asked(Atom.GetAtomicNum, atoms), _asked(Atom.GetDegree, atoms)
    unusual = (SYMBOL_OF_NUMBER[numbers] == OTHER) | (degrees > MAX_DEGREE)
    if unusual.any() and _refuse(texts, molecules, reasons):
        atoms = _atoms(molecules)
        numbers, degrees = _asked(Atom.GetAtomicNum, atoms), _asked(Atom.GetDegree, atoms)
    bonds: list[Bond] = []
    for mol in molecules.values():
        bonds += map(mol.GetBondWithIdx, range(mol.GetNumBonds()))  # GetBonds() is twice as slow
    types = _bond_types(bonds)
    atom_counts, bond_counts = np.zeros((2, len(texts)), np.int64)
    atom_counts[list(molecules)] = [mol.GetNumAtoms() for mol in molecules.values()]
    bond_counts[list(molecules)] = [mol.GetNumBonds() for mol in molecules.values()]
    first_atom = np.repeat(np.cumsum(atom_counts) - atom_counts, bond_counts)  # of each bond's molecule
    ends = [_asked(end, bonds, np.int32) + first_atom for end in (Bond.GetBeginAtomIdx, Bond.GetEndAtomIdx)]
    invariants = [GetConnectivityInvariants(mol, includeRingMembership=True) for mol in molecules.values()]
    return Graphs(
        valid=atom_counts > 0,
        reasons=reasons,
        atom_counts=atom_counts,
        bond_counts=bond_counts,
        atoms=atom_features(
            numbers,
            degrees,
            hydrogens=_asked(Atom.GetTotalNumHs, atoms),
            implicit_valence=_asked(Atom.GetNumImplicitHs, atoms),
            aromatic=_asked(Atom.GetIsAromatic, atoms),
        ),
        bonds=bond_features(
            types, conjugated=_asked(Bond.GetIsConjugated, bonds), in_ring=_asked(Bond.IsInRing, bonds)
        ),
        bond_ends=np.stack(ends, axis=1).astype(np.int32),
        invariants=np.fromiter(chain.from_iterable(invariants), np.uint32, len(atoms)),
        bond_types=types,
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
            others = _unlisted(mol, _shown(texts[cell]))
        except Unreadable as error:
            reasons[cell] = str(error)
            del molecules[cell]
            continue
        remarks = {f"{symbol} is read as 'other element'" for symbol in others} | {reasons[cell]}
        reasons[cell] = "; ".join(sorted(remarks - {""}))
    return len(molecules) < before


def _unlisted(mol: Chem.Mol, shown: str) -> set[str]:
    """The elements that ELEMENTS does not list; or `Unreadable`, where an atom has no features."""
    symbols = set()
    for place, atom in enumerate(mol.GetAtoms()):
        number, degree = atom.GetAtomicNum(), atom.GetDegree()
        if number == 0:
            raise Unreadable(f"atom {place} of {shown} is a dummy (*), not an element")
        if degree > MAX_DEGREE:
            why = f"has {degree} neighbours; the fingerprint has weights for {MAX_DEGREE}"
            raise Unreadable(f"atom {place} of {shown} {why}")
        if SYMBOL_OF_NUMBER[number] == OTHER:
            symbols.add(atom.GetSymbol())
    return symbols


def _atoms(molecules: dict[int, Chem.Mol]) -> list[Atom]:
    """All atoms, molecule by molecule."""
    atoms: list[Atom] = []
    for mol in molecules.values():
        atoms += map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))  # GetAtoms() is twice as slow
    return atoms


def _asked(what: Callable[[Any], int], of: list[Any], dtype: type = np.uint8) -> np.ndarray:
    """what(atom) of all atoms, or what(bond) of all bonds."""
    return np.fromiter(map(what, of), dtype, len(of))


def _bond_types(bonds: list[Bond]) -> UInt8[np.ndarray, " bonds"]:
    """GetBondType() of all bonds: mostly by the SMARTS symbol, which RDKit hands over in half the time."""
    types = np.array([TYPE_OF_SYMBOL.get(bond.GetSmarts(True), 0) for bond in bonds], np.uint8)
    for i in np.flatnonzero(types == 0):  # "/", "->", ..
        types[i] = bonds[i].GetBondType()
    return types


class Unreadable(ValueError):
    """Why a row is no graph."""


def read_cell(text: str) -> Chem.Mol:
    """The molecule of a whole cell, which has an atom at least; or `Unreadable`."""
    if not text:
        raise Unreadable("empty cell")
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{_shown(text)} is {len(text)} characters long; at most {MAX_CHARACTERS} are read")
    if not text.isascii() or len(text.split()) > 1:  # RDKit would read up to a blank and drop the rest
        raise Unreadable(f"{_shown(text)} is not a SMILES: blanks or other than ASCII characters within")
    mol = read(text)
    if not mol.GetNumAtoms():
        raise Unreadable(f"no atoms in {_shown(text)}")
    return mol


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without RDKit's own messages: ours are in the reasons."""
    with rdBase.BlockLogs():
        yield


_AS_WRITTEN = Chem.SmilesParserParams()
_AS_WRITTEN.sanitize = _AS_WRITTEN.removeHs = False
_STEPS = Chem.SanitizeFlags
_SANITIZE = int(_STEPS.SANITIZE_ALL) & ~int(
    _STEPS.SANITIZE_SETHYBRIDIZATION | _STEPS.SANITIZE_CLEANUPCHIRALITY | _STEPS.SANITIZE_CLEANUPATROPISOMERS
)  # nothing here looks at what these three steps find


def read(text: str) -> Chem.Mol:
    """What Chem.MolFromSmiles reads, but for stereochemistry: no feature sees it, and to assign it takes
    RDKit a time that grows with the square of the number of branches."""
    mol = Chem.MolFromSmiles(text, _AS_WRITTEN)
    why = ""
    if mol is not None:
        try:
            if mol.GetNumHeavyAtoms() < mol.GetNumAtoms():
                return Chem.RemoveHs(mol, updateExplicitCount=True)  # a copy, and sanitises it
            Chem.SanitizeMol(mol, _SANITIZE)
            return mol
        except (Chem.MolSanitizeException, RuntimeError) as error:  # RuntimeError: such as element 119
            why = f": {' '.join(str(error).split('Violation occurred')[0].split())}"
    raise Unreadable(f"RDKit cannot read {_shown(text)} as SMILES{why}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:80]!r}..."


def canonical_smiles(smiles: str) -> str:
    """One name for one graph: RDKit's canonical SMILES without stereochemistry, which no feature here
    sees, so that two spellings or mirror images of a molecule count as the same.

    Raises:
        ValueError: RDKit cannot read it.
    """
    return Chem.MolToSmiles(read(smiles), isomericSmiles=False)


def fragment_smiles(smiles: str, atoms: Sequence[int]) -> str:
    """Canonical SMILES of some atoms of a molecule and the bonds between them, without stereochemistry.

    Every atom names its hydrogens, as nothing says what else it was bound to.
    """
    return Chem.MolFragmentToSmiles(
        read(smiles), atomsToUse=list(atoms), isomericSmiles=False, allHsExplicit=True
    )


def scaffold_smiles(smiles: str) -> str:
    """The rings of a molecule and what links them, as canonical SMILES; '' of a molecule without rings.

    Source: Bemis and Murcko, J. Med. Chem. 39, 2887, 1996.
    """
    return MurckoScaffold.MurckoScaffoldSmiles(mol=read(smiles))


def read_sdf(path: str | Path, property_name: str) -> tuple[list[str], list[str]]:
    """SMILES and one property (as text, '' if absent) of every record of an SD file."""
    smiles, values = [], []
    for mol in Chem.SDMolSupplier(str(path)):
        smiles.append("" if mol is None else Chem.MolToSmiles(mol))
        values.append(mol.GetProp(property_name) if mol and mol.HasProp(property_name) else "")
    return smiles, values


def rdkit_fingerprints(
    smiles: Sequence[str], radius: int, length: int, counts: bool
) -> Float[np.ndarray, "rows length"]:
    """RDKit's Morgan fingerprint of every cell; NaN where it cannot be read."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=length)
    compute = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    values = np.full((len(smiles), length), np.nan, np.float32)
    with quiet():
        for row, text in enumerate(smiles):
            with contextlib.suppress(Unreadable):
                values[row] = compute(read_cell(text))
    return values
