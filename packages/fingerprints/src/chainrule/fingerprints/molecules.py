"""Tables of molecules as graphs in a few flat arrays.

One can
- turn any column of SMILES into graphs, row by row, nothing lost (`featurize`),
- ask of every row whether it became a graph, and if not why (`Molecules.valid`, `.reasons`),
- pick rows (`Molecules.take`), and keep the result on disk (`featurize(..., cache=...)`),
- compare with RDKit's own fingerprints (`morgan_fingerprints`).

What is read of each SMILES, atom and bond stands in `smiles`.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt32

from chainrule.fingerprints.rows import as_rows, gather_ranges
from chainrule.fingerprints.smiles import (
    ATOM_FEATURES,
    BOND_FEATURES,
    DEGREES,
    MAX_DEGREE,
    Codes,
    Unreadable,
    atom_features,
    bond_features,
    parse,
    quiet,
    rdkit_fingerprints,
)

# Raised whenever the same SMILES would give other arrays, so that no stale cache or checkpoint passes.
FEATURIZER_VERSION = 2


@dataclass(frozen=True)
class Molecules:
    """A table of molecules as concatenated graphs; row i of the input is row i here, valid or not.

    A row that could not be read has no atoms, `valid[i]` False and a reason. A row that was read but
    deserves a remark (a salt, a lone atom, an unlisted element) is valid and has a reason too.
    """

    smiles: tuple[str, ...]  # rows, as given
    valid: Bool[np.ndarray, " rows"]  # whether the row became a graph
    reasons: tuple[str, ...]  # rows; '' where there is nothing to say
    atom_offsets: Int[np.ndarray, " rows_plus_1"]  # atoms of row i: atom_offsets[i] to [i + 1]
    bond_offsets: Int[np.ndarray, " rows_plus_1"]  # bonds of row i, likewise
    atoms: UInt8[np.ndarray, "atoms atom_features"]  # multi-hot, in ATOM_FEATURES' order
    bonds: UInt8[np.ndarray, "bonds bond_features"]  # multi-hot, in BOND_FEATURES' order
    bond_ends: Int[np.ndarray, "bonds 2"]  # the two atoms of a bond, numbered within the whole table
    invariants: UInt32[np.ndarray, " atoms"]  # RDKit's connectivity invariants: where Morgan begins
    bond_types: UInt8[np.ndarray, " bonds"]  # RDKit's Chem.BondType, as a number

    def __len__(self) -> int:
        return len(self.smiles)

    @cached_property
    def atoms_per_molecule(self) -> Int[np.ndarray, " rows"]:
        return np.diff(self.atom_offsets)

    @cached_property
    def degrees(self) -> Int[np.ndarray, " atoms"]:
        """Number of neighbours of every atom, hydrogens not counted."""
        return np.bincount(self.bond_ends.ravel(), minlength=len(self.atoms))

    @cached_property
    def sizes(self) -> Int[np.ndarray, "rows degrees_plus_1"]:
        """For every row: its atoms of degree 0, 1, .. and, last, its bonds."""
        owner = np.repeat(np.arange(len(self)), self.atoms_per_molecule)
        cells = np.bincount(owner * DEGREES + self.degrees, minlength=len(self) * DEGREES)
        bonds = np.diff(self.bond_offsets)
        return np.concatenate([cells.reshape(-1, DEGREES), bonds[:, None]], axis=1)

    @cached_property
    def most_bonds(self) -> int:
        """Those of the molecule that has most."""
        return int(self.sizes[:, -1].max(initial=0))

    @cached_property
    def adjacency(self) -> tuple[np.ndarray, np.ndarray]:
        """`(neighbors, incident)`, both int[atoms, MAX_DEGREE]: in slot j the j-th neighbour of each
        atom and the bond to it, -1 in the unused slots."""
        ends = self.bond_ends
        n_bonds = len(ends)
        here = np.concatenate([ends[:, 0], ends[:, 1]])
        there = np.concatenate([ends[:, 1], ends[:, 0]])
        bond = np.tile(np.arange(n_bonds), 2)
        order = np.argsort(here, kind="stable")
        here, there, bond = here[order], there[order], bond[order]
        first = np.concatenate([[0], np.cumsum(self.degrees)])[here]
        slot = np.arange(2 * n_bonds) - first
        neighbors = np.full((len(self.atoms), MAX_DEGREE), -1, np.int32)
        incident = np.full((len(self.atoms), MAX_DEGREE), -1, np.int32)
        neighbors[here, slot] = there
        incident[here, slot] = bond
        return neighbors, incident

    def with_reasons(self, reasons: Sequence[str], valid: Bool[np.ndarray, " rows"]) -> Molecules:
        """The same graphs with other verdicts: rows may become invalid, none becomes valid."""
        return replace(self, reasons=tuple(reasons), valid=self.valid & valid)

    def take(self, rows: Sequence[int] | np.ndarray) -> Molecules:
        """The table of these rows, in this order; a row may be taken more than once."""
        rows = as_rows(rows, len(self))
        atoms, atom_offsets = gather_ranges(self.atom_offsets, rows)
        bonds, bond_offsets = gather_ranges(self.bond_offsets, rows)
        shift = np.repeat(atom_offsets[:-1] - self.atom_offsets[rows], np.diff(bond_offsets))
        return Molecules(
            smiles=tuple(self.smiles[i] for i in rows),
            valid=self.valid[rows],
            reasons=tuple(self.reasons[i] for i in rows),
            atom_offsets=atom_offsets,
            bond_offsets=bond_offsets,
            atoms=self.atoms[atoms],
            bonds=self.bonds[bonds],
            bond_ends=self.bond_ends[bonds] + shift[:, None].astype(np.int32),
            invariants=self.invariants[atoms],
            bond_types=self.bond_types[bonds],
        )


def featurize(smiles: Iterable[Any], *, cache: str | Path | None = None) -> Molecules:
    """Read SMILES into graphs, keeping every row.

    Args:
        smiles: one SMILES per row; surrounding blanks are ignored. `None`, NaN, an empty cell, text
            that is no SMILES or is longer than 10,000 characters, a dummy atom `*` and an atom with more
            than 5 neighbours make a row that is kept as invalid, with its reason.
        cache: a folder. The result is stored there under a name made of the SMILES and of the
            featuriser's version, and read back the next time.

    Returns:
        `Molecules` with as many rows as `smiles`.

    Raises:
        TypeError: `smiles` is one string; pass a list of them.

    Example:
        >>> table = featurize(["CCO", "not a molecule"])
        >>> table.valid.tolist(), table.atoms_per_molecule.tolist()
        ([True, False], [3, 0])

    Source: Duvenaud, Maclaurin et al., NIPS 2015, section 5; talk, "Neural graph fingerprints" (g).
    """
    if isinstance(smiles, str):
        raise TypeError(f"smiles is one string, {smiles!r}; pass a list of SMILES, [{smiles!r}]")
    rows = tuple(_as_text(cell) for cell in smiles)
    if cache is None:
        return _featurize(rows)
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:24]
    path = Path(cache).expanduser() / f"molecules-v{FEATURIZER_VERSION}-{digest}.npz"
    stored = _load(path, rows)
    if stored is None:
        stored = _featurize(rows)
        _save(path, stored)
    return stored


def morgan_fingerprints(
    molecules: Molecules, *, radius: int = 2, length: int = 2048, counts: bool = False
) -> Float[np.ndarray, "rows length"]:
    """RDKit's Morgan (ECFP-like) fingerprint of every row, in order; NaN where RDKit cannot read it.

    `circular_fingerprints(molecules, rule="morgan")` computes the same by XLA.
    """
    return rdkit_fingerprints(molecules.smiles, radius, length, counts)


def _as_text(cell: object) -> str:
    """The SMILES of a cell: '' for a missing one; what is no text is named as it is, to be refused."""
    if isinstance(cell, str):
        return cell.strip()
    missing = cell is None or (isinstance(cell, float) and cell != cell)
    return "" if missing else repr(cell)


def _featurize(rows: tuple[str, ...]) -> Molecules:
    atom_codes, bond_codes = Codes(), Codes()
    invariants: list[int] = []
    ends: list[tuple[int, int]] = []  # numbered within the molecule
    atom_counts, bond_counts, valid, reasons = [], [], [], []
    with quiet():
        for text in rows:
            try:
                graph = parse(text)
            except Unreadable as error:
                atom_counts.append(0)
                bond_counts.append(0)
                valid.append(False)
                reasons.append(str(error))
                continue
            atom_codes.add(graph.atoms)
            bond_codes.add(graph.bonds)
            invariants.extend(graph.invariants)
            ends.extend(graph.ends)
            atom_counts.append(len(graph.atoms))
            bond_counts.append(len(graph.bonds))
            valid.append(True)
            reasons.append(graph.remark)
    atom_offsets = np.concatenate([[0], np.cumsum(atom_counts, dtype=np.int64)])
    first_atom = np.repeat(atom_offsets[:-1], bond_counts)[:, None]  # of each bond's molecule
    return Molecules(
        smiles=rows,
        valid=np.array(valid, bool),
        reasons=tuple(reasons),
        atom_offsets=atom_offsets,
        bond_offsets=np.concatenate([[0], np.cumsum(bond_counts, dtype=np.int64)]),
        atoms=atom_codes.table(atom_features, np.zeros(len(ATOM_FEATURES), np.uint8)),
        bonds=bond_codes.table(bond_features, np.zeros(len(BOND_FEATURES), np.uint8)),
        bond_ends=(np.array(ends, np.int64).reshape(-1, 2) + first_atom).astype(np.int32),
        invariants=np.array(invariants, np.uint32),
        bond_types=bond_codes.table(lambda key: int(key[0]), np.zeros((), np.uint8)),
    )


def _save(path: Path, molecules: Molecules) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (field.name for field in fields(Molecules) if field.name not in ("smiles", "reasons"))
    arrays: dict[str, Any] = {name: getattr(molecules, name) for name in names}
    arrays["reasons"] = np.array(molecules.reasons, np.str_)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(part, path)  # whole or absent, also when two processes write at once


def _load(path: Path, rows: tuple[str, ...]) -> Molecules | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        reasons = tuple(str(reason) for reason in arrays.pop("reasons"))
        return Molecules(smiles=rows, reasons=reasons, **arrays)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zlib.error, zipfile.BadZipFile):
        return None  # absent or damaged: made anew
