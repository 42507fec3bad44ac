"""What is read of an atom and of a bond, and the rows of features that it becomes.

One can
- see the names of the features (`ATOM_FEATURES`, `BOND_FEATURES`),
- read an atom or a bond of RDKit's (`atom_key`, `bond_key`), and
- turn what was read into rows, each distinct one computed once (`Codes`).

The features are those of the original neural fingerprints (Duvenaud, Maclaurin et al., NIPS 2015,
section 5): 62 for an atom, 6 for a bond, hydrogens implicit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
from rdkit import Chem

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


def bond_key(bond: Chem.Bond) -> BondKey:
    return bond.GetBondType(), bond.GetIsConjugated(), bond.IsInRing()


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
