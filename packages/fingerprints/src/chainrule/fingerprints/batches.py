"""Batches of molecules as flat arrays whose shapes come from a short list, so that little is compiled.

One can
- put molecules side by side as one graph, atoms sorted by degree (`collate` -> `MoleculeBatch`),
- go through a whole table in order (`prediction_batches`), in shapes that fit any molecules at all
  (`PREDICTION_BUCKETS`).

Nothing is padded to the largest molecule: atoms of all molecules are concatenated, and each degree's
group of atoms is padded to a capacity. Sorting by degree turns Algorithm 2's degree-specific weights
into one matrix product per degree over consecutive rows, and a neighbour sum into a gather of exactly
`degree` rows.

Source: talk, "Neural graph fingerprints" (H_L^N: a weight for each number of neighbours N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from chainrule.fingerprints.features import DEGREES, MAX_DEGREE
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.rows import as_rows, gather_ranges

Arrays = Array | np.ndarray  # a batch is collated by NumPy and used by JAX


class MorganInputs(NamedTuple):
    """What Morgan fingerprints need beside the graph."""

    invariants: UInt32[Arrays, " atoms"]
    bond_types: UInt32[Arrays, " bonds"]
    bond_bits: UInt32[Arrays, "bonds words"]  # a bit for each bond of a molecule, to make sets of them


class Layer(NamedTuple):
    """What each row of a layer takes in: numbers of rows in the layer before, and of bonds."""

    own: Int[Arrays, " rows"] | None  # where the same atom was; None: in the same row
    neighbors: tuple[Int[Arrays, "rows_d degree"], ...]  # for degree 0, 1, ..
    incident: tuple[Int[Arrays, "rows_d degree"], ...]  # likewise: the bonds to these

    @property
    def ends(self) -> list[int]:
        """The row after the last of each degree but the highest: where to split the rows."""
        return list(accumulate(index.shape[0] for index in self.neighbors))[:-1]


class MoleculeBatch(NamedTuple):
    """A pytree of arrays: some molecules as one graph, rows sorted by degree, capacities filled up.

    Padding is inert: a padding atom belongs to no molecule and is its own neighbour.
    """

    atoms: Float[Arrays, "atoms atom_features"]  # features of every atom, zero rows as padding
    bonds: Float[Arrays, "bonds bond_features"]  # features of every bond; the last row is all zero
    neighbors: tuple[Int[Arrays, "atoms_d degree"], ...]  # for degree 0, 1, ..: rows of `atoms`
    incident: tuple[Int[Arrays, "atoms_d degree"], ...]  # likewise: rows of `bonds`
    molecule: Int[Arrays, " atoms"]  # the molecule of every atom; `molecules` where there is none
    molecule_mask: Float[Arrays, " molecules"]  # 1 for a molecule, 0 for padding
    morgan: MorganInputs | None = None

    @property
    def n_molecules(self) -> int:
        """How many molecules fit in: the rows of every result."""
        return self.molecule_mask.shape[0]

    def layers(self, depth: int) -> list[Layer]:
        """What every layer takes in; here all the same."""
        return [Layer(None, self.neighbors, self.incident)] * depth

    def total(self, writes: Sequence[Float[Array, "atoms features"]]) -> Float[Array, "molecules features"]:
        """For every molecule the sum of what its atoms write, in all layers."""
        return molecule_sum(self, reduce(jnp.add, writes))


class Bucket(NamedTuple):
    """The shapes of a batch: what is compiled once for each."""

    molecules: int
    bonds: int
    atoms: tuple[int, ...]  # capacity for atoms of degree 0, 1, ..


AnyBucket = TypeVar("AnyBucket")  # a tree of capacities


def _general_bucket(base: int) -> Bucket:
    # The mix of degrees in drug-like molecules: about 1 : 2 : 1 of degrees 1, 2, 3, few of 4, rarely
    # others. The slack lets a single molecule of 136 atoms, whatever its shape, into the second one.
    share = (1 / 8, 3 / 4, 5 / 4, 3 / 4, 1 / 4, 1 / 16)
    return Bucket(base // 2, 4 * base, tuple(max(8, int(base * s)) for s in share))


PREDICTION_BUCKETS = tuple(_general_bucket(base) for base in (32, 128, 512, 2048))


def collate(
    molecules: Molecules,
    rows: Sequence[int] | np.ndarray,
    bucket: Bucket | None = None,
    *,
    morgan: bool = False,
) -> MoleculeBatch:
    """The molecules in these rows as one batch of NumPy arrays.

    Args:
        molecules: the table; invalid rows have no atoms, so their fingerprint is zero.
        rows: which rows, in which order; row k of every result belongs to `rows[k]`.
        bucket: the shapes to fill up to. Default: exactly what is needed.
        morgan: add what Morgan fingerprints need.

    Raises:
        ValueError: the molecules do not fit into the bucket.
    """
    rows = as_rows(rows, len(molecules))
    atoms, atom_offsets = gather_ranges(molecules.atom_offsets, rows)
    bonds, bond_offsets = gather_ranges(molecules.bond_offsets, rows)
    degree = molecules.degrees[atoms]
    per_degree = np.bincount(degree, minlength=DEGREES)
    size = Bucket(len(rows), len(bonds) + 1, tuple(int(c) for c in per_degree))
    bucket = bucket or size
    if not holds(bucket, size):
        raise ValueError(f"{len(rows)} molecules need {size}, which does not fit into {bucket}")

    slot = _slots(degree, bucket.atoms)
    n_atoms = sum(bucket.atoms)
    count = np.diff(atom_offsets)
    owner = np.repeat(np.arange(len(rows)), count)  # position in `rows`
    # An atom's number in the table, less its molecule's first, plus where the molecule went:
    atom_shift = np.repeat(atom_offsets[:-1] - molecules.atom_offsets[rows], count)[:, None]
    bond_shift = np.repeat(bond_offsets[:-1] - molecules.bond_offsets[rows], count)[:, None]
    table_neighbors, table_incident = molecules.adjacency
    used = np.arange(MAX_DEGREE) < degree[:, None]

    features = np.zeros((n_atoms, molecules.atoms.shape[1]), np.float32)
    features[slot] = molecules.atoms[atoms]
    molecule = np.full(n_atoms, bucket.molecules, np.int32)
    molecule[slot] = owner
    neighbors = np.repeat(np.arange(n_atoms, dtype=np.int32)[:, None], MAX_DEGREE, axis=1)
    neighbors[slot] = slot[np.where(used, table_neighbors[atoms] + atom_shift, 0)]
    incident = np.full((n_atoms, MAX_DEGREE), bucket.bonds - 1, np.int32)
    incident[slot] = np.where(used, table_incident[atoms] + bond_shift, bucket.bonds - 1)
    bond_features = np.zeros((bucket.bonds, molecules.bonds.shape[1]), np.float32)
    bond_features[: len(bonds)] = molecules.bonds[bonds]
    starts = np.cumsum((0, *bucket.atoms))
    groups = [(starts[d], starts[d + 1], d) for d in range(DEGREES)]
    return MoleculeBatch(
        atoms=features,
        bonds=bond_features,
        neighbors=tuple(neighbors[a:b, :d] for a, b, d in groups),
        incident=tuple(incident[a:b, :d] for a, b, d in groups),
        molecule=molecule,
        molecule_mask=(np.arange(bucket.molecules) < len(rows)).astype(np.float32),
        morgan=_morgan_inputs(molecules, atoms, slot, bonds, bond_offsets, bucket) if morgan else None,
    )


def _morgan_inputs(molecules, atoms, slot, bonds, bond_offsets, bucket) -> MorganInputs:
    invariants = np.zeros(sum(bucket.atoms), np.uint32)
    invariants[slot] = molecules.invariants[atoms]
    bond_types = np.zeros(bucket.bonds, np.uint32)
    bond_types[: len(bonds)] = molecules.bond_types[bonds]
    # One number of words for a whole table, rounded up, so that little is compiled.
    words = 1
    while 32 * words < molecules.most_bonds:
        words *= 2
    number = np.arange(len(bonds)) - np.repeat(bond_offsets[:-1], np.diff(bond_offsets))
    bond_bits = np.zeros((bucket.bonds, words), np.uint32)
    bond_bits[np.arange(len(bonds)), number // 32] = np.uint32(1) << (number % 32).astype(np.uint32)
    return MorganInputs(invariants, bond_types, bond_bits)


def atom_slots(
    molecules: Molecules, rows: np.ndarray, batch: MoleculeBatch
) -> Int[np.ndarray, " atoms_of_rows"]:
    """Where in the batch of these rows their atoms are, row by row, in the molecules' own order."""
    atoms, _ = gather_ranges(molecules.atom_offsets, np.asarray(rows, np.int64))
    return _slots(molecules.degrees[atoms], [index.shape[0] for index in batch.neighbors])


def _slots(degree: np.ndarray, capacity: Sequence[int]) -> np.ndarray:
    """A place for every atom in the group of its degree, in order of appearance."""
    per_degree = np.bincount(degree, minlength=DEGREES)
    group_starts = np.cumsum((0, *capacity))[:-1]
    rank = np.arange(len(degree)) - np.repeat(np.cumsum(per_degree) - per_degree, per_degree)
    slot = np.empty(len(degree), np.int64)
    slot[np.argsort(degree, kind="stable")] = np.repeat(group_starts, per_degree) + rank
    return slot


def prediction_batches(
    molecules: Molecules, buckets: Sequence[Bucket] = PREDICTION_BUCKETS, *, morgan: bool = False
) -> Iterator[tuple[np.ndarray, MoleculeBatch]]:
    """The whole table in order as batches of `(rows, batch)`, each in the smallest bucket it fits.

    A molecule too large for the largest bucket gets that bucket's shapes doubled until it fits.
    """
    sizes = molecules.sizes
    largest = buckets[-1]
    first = 0
    while first < len(sizes):
        total = np.cumsum(sizes[first : first + largest.molecules], axis=0)
        fits = np.all(total <= (*largest.atoms, largest.bonds - 1), axis=1)
        n = max(1, int(np.argmin(fits)) if not fits.all() else len(fits))
        rows = np.arange(first, first + n)
        yield (
            rows,
            collate(molecules, rows, smallest(buckets, size_of(n, sizes[rows].sum(axis=0))), morgan=morgan),
        )
        first += n


def size_of(n: int, total: Int[np.ndarray, " degrees_plus_1"]) -> Bucket:
    """What n molecules need that have so many atoms and bonds together."""
    return Bucket(n, int(total[-1]) + 1, tuple(int(t) for t in total[:-1]))


def smallest(buckets: Sequence[AnyBucket], size: AnyBucket) -> AnyBucket:
    """The first to hold so much, or the last one doubled until it does."""
    for bucket in buckets:
        if holds(bucket, size):
            return bucket
    bucket = buckets[-1]
    while not holds(bucket, size):
        bucket = jax.tree.map(lambda n: max(1, 2 * n), bucket)
    return bucket


def holds(bucket: AnyBucket, size: AnyBucket) -> bool:
    """Whether each capacity suffices.

    Raises:
        ValueError: they are capacities of different things.
    """
    if jax.tree.structure(bucket) != jax.tree.structure(size):
        raise ValueError(f"{bucket} is a bucket of another kind than {size}; make it for the same table")
    return jax.tree.all(jax.tree.map(lambda have, need: have >= need, bucket, size))


def own_rows(layer: Layer, rows: Float[Array, "before features"]) -> Float[Array, "rows features"]:
    """For every row of a layer, what its atom was in the layer before."""
    return rows if layer.own is None else rows[layer.own]


def neighbor_sum(layer: Layer, rows: Float[Array, "before features"]) -> Float[Array, "rows features"]:
    """For every row of a layer the sum of its neighbours' rows: sum_i r_i of Algorithm 2, line 8."""
    return _sum_of(layer.neighbors, rows)


def surrounding_sum(layer: Layer, rows: Float[Array, "before features"]) -> Float[Array, "rows features"]:
    """For every row of a layer the sum of its atom's row and its neighbours': v_a of the talk's variant."""
    own = np.arange(rows.shape[0]) if layer.own is None else layer.own
    per_degree = zip(jnp.split(own, layer.ends), layer.neighbors, strict=True)
    return _sum_of([jnp.concatenate([own[:, None], around], axis=1) for own, around in per_degree], rows)


def incident_sum(
    layer: Layer, bonds: Float[Array, "bonds bond_features"]
) -> Float[Array, "rows bond_features"]:
    """For every row of a layer the sum of the features of its bonds."""
    return _sum_of(layer.incident, bonds)


def _sum_of(
    index: Sequence[Int[Arrays, "_ _"]], of: Float[Array, "before features"]
) -> Float[Array, "rows features"]:
    """All at once; a sum for each degree by itself has a derivative that takes twice as long."""
    counts = np.repeat([own.shape[1] for own in index], [own.shape[0] for own in index])
    into = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    terms = of[jnp.concatenate([own.ravel() for own in index])]
    return jax.ops.segment_sum(terms, into, num_segments=len(counts), indices_are_sorted=True)


def molecule_sum(
    batch: MoleculeBatch, rows: Float[Array, "atoms features"]
) -> Float[Array, "molecules features"]:
    """For every molecule the sum of its atoms' rows; padding atoms belong to none."""
    return jax.ops.segment_sum(rows, batch.molecule, num_segments=batch.n_molecules)
