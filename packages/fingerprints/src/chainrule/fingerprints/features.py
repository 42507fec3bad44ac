"""What a network sees of atoms and bonds: rows of zeros and ones, with a name for each column.

One can
- turn properties of atoms and bonds into rows (`atom_features`, `bond_features`),
- name the columns (`ATOM_FEATURES`, `BOND_FEATURES`).

They are the features of the original neural fingerprints: 62 for an atom, 6 for a bond, hydrogens
implicit.

Source: Duvenaud, Maclaurin et al., NIPS 2015, section 5.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

ELEMENTS = {  # atomic numbers of the listed ones; all others share a feature
    "C": 6,
    "N": 7,
    "O": 8,
    "S": 16,
    "F": 9,
    "Si": 14,
    "P": 15,
    "Cl": 17,
    "Br": 35,
    "Mg": 12,
    "Na": 11,
    "Ca": 20,
    "Fe": 26,
    "As": 33,
    "Al": 13,
    "I": 53,
    "B": 5,
    "V": 23,
    "K": 19,
    "Tl": 81,
    "Yb": 70,
    "Sb": 51,
    "Sn": 50,
    "Ag": 47,
    "Pd": 46,
    "Co": 27,
    "Se": 34,
    "Ti": 22,
    "Zn": 30,
    "H": 1,
    "Li": 3,
    "Ge": 32,
    "Cu": 29,
    "Au": 79,
    "Ni": 28,
    "Cd": 48,
    "In": 49,
    "Mn": 25,
    "Zr": 40,
    "Cr": 24,
    "Pt": 78,
    "Hg": 80,
    "Pb": 82,
}
MAX_DEGREE = 5  # Algorithm 2 has weights H^1 .. H^5; degree 0 (a lone atom) has its own
DEGREES = MAX_DEGREE + 1
_HYDROGENS = 5  # 0 .. 3, then "4 or more"
_VALENCES = 6  # 0 .. 4, then "5 or more"
ATOM_FEATURES = (
    *(f"symbol={s}" for s in ELEMENTS),
    "symbol=other",
    *(f"degree={d}" for d in range(DEGREES)),
    *(f"hydrogens={h}" for h in range(_HYDROGENS)),
    *(f"implicit_valence={v}" for v in range(_VALENCES)),
    "aromatic",
)
BOND_FEATURES = ("single", "double", "triple", "aromatic", "conjugated", "in_ring")

OTHER = len(ELEMENTS)
SYMBOL_OF_NUMBER = np.full(256, OTHER)  # by atomic number: its place in ELEMENTS
SYMBOL_OF_NUMBER[list(ELEMENTS.values())] = range(OTHER)
NONMETALS = np.zeros(256, bool)  # by atomic number, and half-metals; hydrogen, as an atom, is not among them
NONMETALS[[ELEMENTS[symbol] for symbol in "B C N O F Si P S Cl As Se Br I".split()]] = True
SINGLE, AROMATIC = 1, 12
BOND_TYPES = np.array([SINGLE, 2, 3, AROMATIC], np.uint8)  # RDKit's numbers for the first of BOND_FEATURES


def atom_features(
    numbers: UInt8[np.ndarray, " atoms"],
    degrees: UInt8[np.ndarray, " atoms"],
    *,
    hydrogens: UInt8[np.ndarray, " atoms"],
    implicit_valence: UInt8[np.ndarray, " atoms"],
    aromatic: UInt8[np.ndarray, " atoms"],
) -> UInt8[np.ndarray, "atoms atom_features"]:
    """One row for each atom, 1 where ATOM_FEATURES' name is true of it."""
    rows = np.zeros((len(numbers), len(ATOM_FEATURES)), np.uint8)
    start = 0
    for index, size in (
        (SYMBOL_OF_NUMBER[numbers], OTHER + 1),
        (degrees, DEGREES),
        (np.minimum(hydrogens, _HYDROGENS - 1), _HYDROGENS),
        (np.minimum(implicit_valence, _VALENCES - 1), _VALENCES),
    ):
        rows[np.arange(len(rows)), start + index] = 1
        start += size
    rows[:, start] = aromatic
    return rows


def bond_features(
    types: UInt8[np.ndarray, " bonds"],
    *,
    conjugated: UInt8[np.ndarray, " bonds"],
    in_ring: UInt8[np.ndarray, " bonds"],
) -> UInt8[np.ndarray, "bonds bond_features"]:
    """One row for each bond, 1 where BOND_FEATURES' name is true of it."""
    kinds = types[:, None] == BOND_TYPES  # a dative or zero-order bond has no kind of its own here
    return np.column_stack([kinds, conjugated, in_ring]).astype(np.uint8)
