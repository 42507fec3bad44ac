"""What RDKit reads: a SMILES, its atoms and bonds, and the rows of features that they become.

One can
- read a cell of a table (`parse` -> `Graph`), or learn why it is no molecule (`Unreadable`),
- turn atoms and bonds into rows of features (`atom_features`, `bond_features`, `Codes`), with names
  (`ATOM_FEATURES`, `BOND_FEATURES`),
- name a molecule, or a part of it (`canonical_smiles`, `fragment_smiles`),
- compute RDKit's own Morgan fingerprints (`rdkit_fingerprints`).

The features are those of the original neural fingerprints (Duvenaud, Maclaurin et al., NIPS 2015,
section 5): 62 for an atom, 6 for a bond, hydrogens implicit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.rdMolDescriptors import GetConnectivityInvariants

# RDKit looks for rings and finds bonds in a time that grows with the square of the size: a second here.
MAX_CHARACTERS = 10_000

SYMBOLS = (
    "C N O S F Si P Cl Br Mg Na Ca Fe As Al I B V K Tl Yb Sb Sn Ag Pd Co Se Ti Zn H Li Ge Cu Au Ni "
    "Cd In Mn Zr Cr Pt Hg Pb"
).split()
MAX_DEGREE = 5  # Algorithm 2 has weights H^1 .. H^5; degree 0 (a lone atom) has its own
DEGREES = MAX_DEGREE + 1
_HYDROGENS = 5  # 0 .. 3, then "4 or more"
_VALENCES = 6  # 0 .. 4, then "5 or more"
ATOM_FEATURES = (
    *(f"symbol={s}" for s in SYMBOLS),
    "symbol=other",
    *(f"degree={d}" for d in range(DEGREES)),
    *(f"hydrogens={h}" for h in range(_HYDROGENS)),
    *(f"implicit_valence={v}" for v in range(_VALENCES)),
    "aromatic",
)
BOND_FEATURES = ("single", "double", "triple", "aromatic", "conjugated", "in_ring")

SYMBOL_INDEX = {Chem.GetPeriodicTable().GetAtomicNumber(s): i for i, s in enumerate(SYMBOLS)}
_IMPLICIT = Chem.ValenceType.IMPLICIT

AtomKey = tuple[int, int, int, int, bool]
BondKey = tuple[Chem.BondType, bool, bool]


def atom_key(atom: Chem.Atom) -> AtomKey:
    return (
        atom.GetAtomicNum(),
        atom.GetDegree(),
        atom.GetTotalNumHs(),
        atom.GetValence(_IMPLICIT),
        atom.GetIsAromatic(),
    )


def atom_features(key: AtomKey) -> np.ndarray:
    number, degree, hydrogens, valence, aromatic = key
    row = np.zeros(len(ATOM_FEATURES), np.uint8)
    start = 0
    for index, size in (
        (SYMBOL_INDEX.get(number, len(SYMBOLS)), len(SYMBOLS) + 1),
        (degree, DEGREES),
        (min(hydrogens, _HYDROGENS - 1), _HYDROGENS),
        (min(valence, _VALENCES - 1), _VALENCES),
    ):
        row[start + index] = 1
        start += size
    row[start] = aromatic
    return row


_BOND_INDEX = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
}


def bond_features(key: BondKey) -> np.ndarray:
    kind, conjugated, in_ring = key
    row = np.zeros(len(BOND_FEATURES), np.uint8)
    if kind in _BOND_INDEX:  # a dative or zero-order bond has no kind of its own here
        row[_BOND_INDEX[kind]] = 1
    row[4:] = conjugated, in_ring
    return row


class Codes:
    """Few distinct atoms make up all molecules: a row is computed once for each distinct one."""

    def __init__(self):
        self.index: dict[Any, int] = {}
        self.codes: list[int] = []

    def add(self, keys: Iterable[Hashable]) -> None:
        index = self.index
        self.codes.extend([index.setdefault(key, len(index)) for key in keys])

    def table(self, row: Callable[[Any], Any], like: np.ndarray) -> np.ndarray:
        """row(key) of all keys that were added, in order, with the dtype and shape that `like` has."""
        rows = np.array([row(key) for key in self.index], like.dtype).reshape(-1, *like.shape)
        return rows[np.array(self.codes, np.int64)]


class Unreadable(ValueError):
    """Why a row is no graph."""


def read_cell(text: str) -> Chem.Mol:
    """The molecule of a whole cell; or `Unreadable`."""
    if not text:
        raise Unreadable("empty cell")
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{_shown(text)} is {len(text)} characters long; at most {MAX_CHARACTERS} are read")
    if not text.isascii() or len(text.split()) > 1:  # RDKit would read up to a blank and drop the rest
        raise Unreadable(f"{_shown(text)} is not a SMILES: blanks or other than ASCII characters within")
    return read(text)


class Graph(NamedTuple):
    """What is read of a molecule."""

    atoms: list[AtomKey]
    bonds: list[BondKey]
    ends: list[tuple[int, int]]  # the two atoms of each bond
    invariants: Sequence[int]  # RDKit's name for each atom by itself, with which Morgan fingerprints begin
    remark: str  # '' where there is nothing to say


def parse(text: str) -> Graph:
    """The graph of a whole cell; or `Unreadable`."""
    mol = read_cell(text)
    keys = list(map(atom_key, map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))))
    if not keys:
        raise Unreadable(f"no atoms in {text!r}")
    remarks = set()
    for key in set(keys):
        number, degree, *_ = key
        if number in SYMBOL_INDEX and degree <= MAX_DEGREE:
            continue
        atom = f"atom {keys.index(key)} of {_shown(text)}"
        if number == 0:
            raise Unreadable(f"{atom} is a dummy (*), not an element")
        if degree > MAX_DEGREE:
            raise Unreadable(f"{atom} has {degree} neighbours; the fingerprint has weights for {MAX_DEGREE}")
        remarks.add(f"{Chem.GetPeriodicTable().GetElementSymbol(number)} is read as 'other element'")
    if len(keys) == 1:
        remarks.add("a single atom, no bonds")
    elif "." in text and (pieces := len(Chem.GetMolFrags(mol))) > 1:
        remarks.add(f"{pieces} disconnected pieces (a salt or mixture), summed")
    bonds = list(map(mol.GetBondWithIdx, range(mol.GetNumBonds())))  # GetBonds() is twice as slow
    return Graph(
        keys,
        [(b.GetBondType(), b.GetIsConjugated(), b.IsInRing()) for b in bonds],
        [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in bonds],
        GetConnectivityInvariants(mol, includeRingMembership=True),
        "; ".join(sorted(remarks)),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without RDKit's own messages: ours are in the reasons."""
    with rdBase.BlockLogs():
        yield


_AS_WRITTEN = Chem.SmilesParserParams()
_AS_WRITTEN.sanitize = _AS_WRITTEN.removeHs = False


def read(text: str) -> Chem.Mol:
    """What Chem.MolFromSmiles reads, but for stereochemistry: no feature sees it, and to assign it takes
    RDKit a time that grows with the square of the number of branches."""
    mol = Chem.MolFromSmiles(text, _AS_WRITTEN)
    try:
        if mol is not None:
            return Chem.RemoveHs(mol, updateExplicitCount=True)  # sanitises too
        why = ""
    except Chem.MolSanitizeException as error:
        why = f": {error}"
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
    """Canonical SMILES of some atoms of a molecule and the bonds between them, without stereochemistry."""
    return Chem.MolFragmentToSmiles(read(smiles), atomsToUse=list(atoms), isomericSmiles=False)


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
