"""A batch holds the molecules it was given, nothing else, in one of few shapes."""

from itertools import islice

import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.fingerprints import (
    PREDICTION_BUCKETS,
    Bucket,
    collate,
    featurize,
    prediction_batches,
    shuffled_rows,
    training_batch,
    training_buckets,
)
from chainrule.fingerprints.batches import atom_slots, incident_sum, molecule_sum, neighbor_sum


def shape(batch):
    return Bucket(batch.n_molecules, batch.bonds.shape[0], tuple(index.shape[0] for index in batch.neighbors))


@pytest.mark.parametrize("bucket", [None, PREDICTION_BUCKETS[1], PREDICTION_BUCKETS[2]])
def test_sums_over_neighbours_bonds_and_molecules_are_those_of_the_table(table, bucket):
    rows = np.array([5, 0, 12, 7, 8])
    batch = collate(table, rows, bucket)
    (layer,) = batch.layers(1)
    sums = np.asarray(neighbor_sum(layer, jnp.asarray(batch.atoms)))
    bond_sums = np.asarray(incident_sum(layer, jnp.asarray(batch.bonds)))
    slots = atom_slots(table, rows, batch)
    atoms = np.concatenate([np.arange(table.atom_offsets[r], table.atom_offsets[r + 1]) for r in rows])
    neighbors, incident = table.adjacency
    for slot, atom in zip(slots, atoms, strict=True):
        np.testing.assert_array_equal(batch.atoms[slot], table.atoms[atom])
        around = table.atoms[neighbors[atom][neighbors[atom] >= 0]].sum(axis=0)
        np.testing.assert_array_equal(sums[slot], around)
        bonds = table.bonds[incident[atom][incident[atom] >= 0]].sum(axis=0)
        np.testing.assert_array_equal(bond_sums[slot], bonds)
    totals = np.asarray(molecule_sum(batch, jnp.asarray(batch.atoms)))
    for k, row in enumerate(rows):
        own = table.atoms[table.atom_offsets[row] : table.atom_offsets[row + 1]]
        np.testing.assert_array_equal(totals[k], own.sum(axis=0))
    assert (totals[len(rows) :] == 0).all()
    assert batch.molecule_mask.sum() == len(rows)


def test_nothing_is_padded_to_the_largest_molecule(table):
    batch = collate(table, np.arange(len(table)))
    assert batch.atoms.shape[0] == len(table.atoms)


def test_a_bucket_too_small_is_an_error_that_names_both(table):
    with pytest.raises(ValueError, match="does not fit"):
        collate(table, [12], Bucket(1, 4, (1, 1, 1, 1, 1, 1)))


def test_an_epoch_visits_every_row_and_no_batch_one_twice():
    rows = np.arange(10, 33)
    batches = list(islice(shuffled_rows(rows, 5, seed=3), 23))
    assert all(len(set(batch)) == 5 for batch in batches)
    visits = np.bincount(np.concatenate(batches), minlength=33)[10:]
    assert (visits == 5).all()  # 23 batches of 5 are 5 epochs of 23
    again = list(islice(shuffled_rows(rows, 5, seed=3), 23))
    np.testing.assert_array_equal(batches, again)
    assert not np.array_equal(batches, list(islice(shuffled_rows(rows, 5, seed=4), 23)))


def test_training_shapes_are_at_most_three_even_for_the_worst_batch(table):
    buckets = training_buckets(table, 5)
    assert len(buckets) <= 3
    worst = [np.argsort(table.sizes[:, d])[-5:] for d in range(table.sizes.shape[1])]
    random = list(islice(shuffled_rows(np.arange(len(table)), 5, seed=0), 200))
    shapes = {shape(training_batch(table, rows, buckets)) for rows in [*worst, *random]}
    assert shapes <= set(buckets)


def test_prediction_goes_through_all_rows_in_order_whatever_their_size():
    smiles = ["C" * n for n in (1, 136, 5, 3000)] + ["", "bad"] + ["C1" + "C" * n + "1" for n in range(2, 60)]
    table = featurize(smiles)
    batches = list(prediction_batches(table))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches]), np.arange(len(table)))
    total = sum(float(batch.atoms.sum()) for _, batch in batches)
    assert total == table.atoms.sum()
