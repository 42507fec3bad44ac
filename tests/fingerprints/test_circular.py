"""Algorithm 1: equal environments write to the same entry, different ones almost never do."""

import jax
import numpy as np
import pytest
from rdkit import Chem

from chainrule.fingerprints import (
    Bucket,
    circular_fingerprint,
    circular_fingerprints,
    collate,
    environment_hashes,
    featurize,
    morgan_fingerprints,
)
from chainrule.fingerprints.batches import atom_slots

fingerprint = jax.jit(circular_fingerprint, static_argnames=("radius", "length", "counts", "write_atoms"))


def environments(table, row, radius):
    """For each radius, an exact name of every atom's environment: nested tuples, nothing hashed away."""
    first, last = table.atom_offsets[row], table.atom_offsets[row + 1]
    neighbors, incident = table.adjacency
    names = {a: tuple(table.atoms[a].tolist()) for a in range(first, last)}
    layers = [names]
    for _ in range(radius):
        names = {
            a: (
                layers[-1][a],
                tuple(
                    sorted(
                        (tuple(table.bonds[b].tolist()), layers[-1][n])
                        for n, b in zip(neighbors[a], incident[a], strict=True)
                        if n >= 0
                    )
                ),
            )
            for a in range(first, last)
        }
        layers.append(names)
    return [[layer[a] for a in range(first, last)] for layer in layers]


@pytest.mark.slow
def test_hashes_tell_environments_apart_exactly_as_they_differ(table):
    radius, rows = 3, np.arange(len(table))
    batch = collate(table, rows)
    slots = atom_slots(table, rows, batch)
    hashes = [np.asarray(layer)[slots] for layer in environment_hashes(batch, radius)]
    per_row = [environments(table, row, radius) for row in rows]
    for layer in range(radius + 1):
        names = [name for environment in per_row for name in environment[layer]]
        number = {name: k for k, name in enumerate(dict.fromkeys(names))}
        exact = np.array([number[name] for name in names])
        same_name = exact[:, None] == exact[None]
        same_hash = hashes[layer][:, None] == hashes[layer][None]
        np.testing.assert_array_equal(same_hash, same_name)


@pytest.mark.parametrize("write_atoms", [False, True])
def test_every_environment_is_written_to_its_entry(table, write_atoms):
    radius, length = 2, 1 << 20  # so long that nothing collides
    bucket = Bucket(len(table) + 1, 300, (64,) * 6)
    batch = collate(table, np.arange(len(table)), bucket)
    bits = np.asarray(fingerprint(batch, radius=radius, length=length, write_atoms=write_atoms))
    counts = np.asarray(
        fingerprint(batch, radius=radius, length=length, counts=True, write_atoms=write_atoms)
    )
    np.testing.assert_array_equal(bits, counts > 0)
    for row in range(len(table)):
        layers = environments(table, row, radius)[0 if write_atoms else 1 :]
        assert counts[row].sum() == sum(len(layer) for layer in layers)
        assert bits[row].sum() == sum(len(set(layer)) for layer in layers)
    assert not counts[len(table) :].any()


@pytest.mark.slow
def test_numbering_order_and_company_do_not_matter(table):
    rng = np.random.default_rng(0)
    expected = circular_fingerprints(table, radius=3, length=512, counts=True)
    spellings = []
    for smiles in table.smiles:
        mol = Chem.MolFromSmiles(smiles)
        order = rng.permutation(mol.GetNumAtoms()).tolist()
        spellings.append(Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False))
    order = rng.permutation(len(table))
    again = featurize([spellings[i] for i in order])
    np.testing.assert_array_equal(
        circular_fingerprints(again, radius=3, length=512, counts=True), expected[order]
    )
    alone = circular_fingerprints(table.take([4]), radius=3, length=512, counts=True)
    np.testing.assert_array_equal(alone[0], expected[4])


def test_invalid_rows_are_nan_in_their_place():
    values = circular_fingerprints(featurize(["CC", "bad", "CC"]), radius=1, length=32)
    assert np.isnan(values[1]).all()
    np.testing.assert_array_equal(values[0], values[2])


def test_similarities_are_those_of_rdkit_nearly(table):
    """Another rule for atoms and for repeated environments, yet the same notion of likeness."""

    def distances(x):
        smaller = np.minimum(x[:, None], x[None]).sum(axis=2)
        return 1 - (smaller / np.maximum(x[:, None], x[None]).sum(axis=2))[np.triu_indices(len(x), 1)]

    ours = circular_fingerprints(table, radius=2, length=2048, counts=True, write_atoms=True)
    rdkits = morgan_fingerprints(table, radius=2, length=2048, counts=True)
    assert np.corrcoef(distances(ours), distances(rdkits))[0, 1] > 0.9


def test_impossible_sizes_are_refused(table):
    with pytest.raises(ValueError, match="radius=-1"):
        circular_fingerprint(collate(table, [0]), radius=-1)
