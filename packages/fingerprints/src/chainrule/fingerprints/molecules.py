"""Tables of molecules as graphs in a few flat arrays.

One can
- turn any column of SMILES into graphs, row by row, nothing lost (`featurize`),
- ask of every row whether it became a graph, and if not why (`Molecules.valid`, `.reasons`),
- pick rows (`Molecules.take`), and keep the result on disk (`featurize(..., cache=...)`, `save_molecules`,
  `load_molecules`),
- compare with RDKit's own fingerprints (`morgan_fingerprints`).

What is read of each SMILES, atom and bond stands in `smiles`.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt32

from chainrule.fingerprints.features import ATOM_FEATURES, BOND_FEATURES, DEGREES, MAX_DEGREE
from chainrule.fingerprints.graphs import Graphs, parse
from chainrule.fingerprints.parallel import ordered_map
from chainrule.fingerprints.rows import as_rows, gather_ranges
from chainrule.fingerprints.smiles import rdkit_fingerprints

# Raised whenever the same SMILES would give other arrays, so that no stale cache or checkpoint passes.
FEATURIZER_VERSION = 3
_ROWS_AT_ONCE = 128  # few enough that RDKit's molecules of them fit into a processor's cache
_VERSION = "featurizer_version"  # beside the fields, in a file
_TEXTS = ("smiles", "reasons")
_COUNTS = ("atom_counts", "bond_counts")
_JOINED = ("valid", "atoms", "bonds", "invariants", "bond_types", *_COUNTS)


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

    def needs(self, rows: Sequence[int] | np.ndarray) -> Int[np.ndarray, " degrees_plus_1"]:
        """The sizes of these rows together."""
        return self.sizes[as_rows(rows, len(self))].sum(axis=0)

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


def featurize(smiles: Iterable[Any], *, cache: str | Path | None = None, processes: int = 1) -> Molecules:
    """Read SMILES into graphs, keeping every row.

    Args:
        smiles: one SMILES per row; surrounding blanks are ignored. `None`, NaN, an empty cell, text
            that is no SMILES or is longer than 10,000 characters, a dummy atom `*` and an atom with more
            than 5 neighbours make a row that is kept as invalid, with its reason.
        cache: a folder. The result is stored there under a name made of the SMILES and of the
            featuriser's version, and read back the next time.
        processes: how many processes read at a time; the result is the same. Each takes a second to start,
            so it pays from some 50,000 rows on.

    Returns:
        `Molecules` with as many rows as `smiles`.

    Raises:
        TypeError: `smiles` is one string; pass a list of them.
        ValueError: `processes` is less than 1.
        RuntimeError: a process died.

    Example:
        >>> table = featurize(["CCO", "not a molecule"])
        >>> table.valid.tolist(), table.atoms_per_molecule.tolist()
        ([True, False], [3, 0])

    Source: Duvenaud, Maclaurin et al., NIPS 2015, section 5; talk, "Neural graph fingerprints" (g).
    """
    if isinstance(smiles, str):
        raise TypeError(f"smiles is one string, {smiles!r}; pass a list of SMILES, [{smiles!r}]")
    rows = tuple(as_text(cell) for cell in smiles)
    if cache is None:
        return _featurize(rows, processes)
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:24]
    path = Path(cache).expanduser() / f"molecules-v{FEATURIZER_VERSION}-{digest}.npz"
    try:
        stored = load_molecules(path)
    except (FileNotFoundError, ValueError):  # absent or damaged: made anew
        stored = None
    if stored is None or stored.smiles != rows:
        stored = _featurize(rows, processes)
        save_molecules(path, stored)
    return stored


def morgan_fingerprints(
    molecules: Molecules, *, radius: int = 2, length: int = 2048, counts: bool = False
) -> Float[np.ndarray, "rows length"]:
    """RDKit's Morgan (ECFP-like) fingerprint of every row, in order; NaN where RDKit cannot read it.

    `circular_fingerprints(molecules, rule="morgan")` computes the same by XLA.
    """
    return rdkit_fingerprints(molecules.smiles, radius, length, counts)


def as_text(cell: object) -> str:
    """The SMILES of a cell: '' for a missing one; what is no text is named as it is, to be refused."""
    if isinstance(cell, str):
        return cell.strip()
    missing = cell is None or (isinstance(cell, float) and cell != cell)
    return "" if missing else repr(cell)


def _featurize(rows: tuple[str, ...], processes: int) -> Molecules:
    parts = [rows[i : i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE)] or [()]
    return _join(rows, list(ordered_map(parse, parts, processes=processes)))


def _join(rows: tuple[str, ...], parts: Sequence[Graphs]) -> Molecules:
    """The table of the parts, one after another."""
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _JOINED}
    atom_offsets, bond_offsets = (np.concatenate([[0], np.cumsum(joined.pop(counts))]) for counts in _COUNTS)
    first_atom = np.cumsum([0] + [len(part.atoms) for part in parts[:-1]])
    ends = np.concatenate([part.bond_ends + first for part, first in zip(parts, first_atom, strict=True)])
    return Molecules(
        smiles=rows,
        reasons=tuple(reason for part in parts for reason in part.reasons),
        atom_offsets=atom_offsets,
        bond_offsets=bond_offsets,
        bond_ends=ends.astype(np.int32),
        **joined,
    )


def save_molecules(path: str | Path, molecules: Molecules) -> None:
    """Write a table to one file, whole or not at all, also when two processes write it at once."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(molecules, field.name) for field in fields(Molecules)}
    for name in _TEXTS:  # as an array of text, each row would take the room of the longest
        arrays[name] = np.frombuffer(json.dumps(arrays[name]).encode(), np.uint8)
    arrays[_VERSION] = np.array(FEATURIZER_VERSION)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(part, path)


def load_molecules(path: str | Path) -> Molecules:
    """Read what `save_molecules` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, something else, or of another version.
    """
    try:
        with Path(path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays: dict[str, Any] = dict(stored)
        version = arrays.pop(_VERSION, None)
        if version != FEATURIZER_VERSION:
            raise ValueError(f"it is by the featuriser of version {version}, not {FEATURIZER_VERSION}")
        for name in _TEXTS:
            arrays[name] = tuple(json.loads(arrays[name].tobytes()))
        _check(arrays)
        return Molecules(**arrays)
    except (EOFError, KeyError, TypeError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or holds no molecules: {error}; make it anew") from error


def _check(arrays: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: these are not the fields of a table.
    """
    rows, reasons = len(arrays["smiles"]), len(arrays["reasons"])
    if reasons != rows:
        raise ValueError(f"there are {reasons} reasons for {rows} rows")
    for name in ("atom_offsets", "bond_offsets"):
        _check_array(arrays, name, np.int64, rows + 1)
        if arrays[name][0] != 0 or np.any(np.diff(arrays[name]) < 0):
            raise ValueError(f"{name} must begin with 0 and never fall")
    of_atoms, of_bonds = arrays["atom_offsets"], arrays["bond_offsets"]
    atoms, bonds = int(of_atoms[-1]), int(of_bonds[-1])
    _check_array(arrays, "valid", np.bool, rows)
    _check_array(arrays, "atoms", np.uint8, atoms, len(ATOM_FEATURES))
    _check_array(arrays, "invariants", np.uint32, atoms)
    _check_array(arrays, "bonds", np.uint8, bonds, len(BOND_FEATURES))
    _check_array(arrays, "bond_types", np.uint8, bonds)
    _check_array(arrays, "bond_ends", np.int32, bonds, 2)
    first, after = np.repeat(np.stack([of_atoms[:-1], of_atoms[1:]]), np.diff(of_bonds), axis=1)[:, :, None]
    if np.any((arrays["bond_ends"] < first) | (arrays["bond_ends"] >= after)):
        raise ValueError("bond_ends has an atom that is not of the bond's molecule")


def _check_array(arrays: Mapping[str, Any], name: str, dtype: type, *shape: int) -> None:
    array, expected = arrays[name], np.dtype(dtype)
    if array.dtype != expected or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not {expected}{list(shape)}")
