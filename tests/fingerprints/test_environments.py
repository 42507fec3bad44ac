"""Distinct environments have the fingerprints and derivatives of their atoms, and there are fewer of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from chainrule.fingerprints import (
    Bucket,
    Ensemble,
    EnvironmentBucket,
    NeuralFingerprint,
    PropertyModel,
    TrainConfig,
    collate,
    collate_environments,
    distinct_environments,
    environment_hashes,
    featurize,
    init_weights,
    neural,
    neural_fingerprint,
    shuffled_rows,
    train,
    training,
    training_batch,
    training_buckets,
)

VARIANTS = ("talk", "original", "messages")
DEPTH = 3


@pytest.fixture(scope="module")
def environments(table):
    return distinct_environments(table, DEPTH)


def random_weights(variant, dtype, depth=DEPTH):
    """Weights with biases that matter."""
    weights = init_weights(
        jax.random.key(0), depth=depth, width=6, length=9, variant=variant, scale=3.0, dtype=dtype
    )
    leaves, tree = jax.tree.flatten(weights)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [leaf + rng.normal(size=leaf.shape).astype(dtype) / 3 for leaf in leaves])


def value_and_gradient(weights, batch, n):
    """The fingerprints of the first n molecules, and the derivative of something that sees all entries."""

    @jax.jit
    def loss(weights, batch):
        fingerprints = neural_fingerprint(weights, batch)[:n]
        return jnp.sin(fingerprints).sum(), fingerprints

    gradient, fingerprints = jax.grad(loss, has_aux=True)(weights, batch)
    return fingerprints, jax.tree.leaves(gradient)


def assert_same(batch, other, weights, n, tolerance):
    (one, its), (two, others) = (value_and_gradient(weights, b, n) for b in (batch, other))
    np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * float(two.sum(axis=1).max()))
    largest = max(float(jnp.abs(g).max()) for g in others)
    for left, right in zip(its, others, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_fingerprints_and_derivatives_are_those_of_atoms(table, environments, variant, dtype, tolerance):
    rows = [5, 0, 12, 7, 8, 5, 13]  # in any order, one twice
    weights = random_weights(variant, dtype)
    batch = collate_environments(environments, rows)
    assert_same(batch, collate(table, rows), weights, len(rows), tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_does_not_matter(table, environments, variant):
    rows = np.array([2, 4, 12])
    exact = collate_environments(environments, rows)
    loose = EnvironmentBucket(7, 90, ((8, 50, 60, 40, 9, 3),) * DEPTH)
    padded = collate_environments(environments, rows, loose)
    assert padded.index.shape == (DEPTH * 170, 11) and padded.n_molecules == 7
    assert padded.molecule_mask.tolist() == [1, 1, 1, 0, 0, 0, 0]
    weights = random_weights(variant, np.float64)
    assert_same(padded, exact, weights, 3, 1e-12)
    assert not np.asarray(neural_fingerprint(weights, padded))[3:].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_made_again_for_the_derivative_is_the_same(environments, variant, monkeypatch):
    batch, weights = collate_environments(environments, np.arange(15)), random_weights(variant, np.float64)
    kept = value_and_gradient(weights, batch, 15)
    monkeypatch.setattr(neural, "LARGE", 0)
    assert "remat" in str(jax.make_jaxpr(lambda w: neural_fingerprint(w, batch))(weights))
    again = value_and_gradient(weights, batch, 15)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_as_many_as_an_independent_hash_tells_apart(table):
    """`environment_hashes` goes over atoms, in XLA."""
    everything = collate(table, np.arange(len(table)))
    real = np.asarray(everything.molecule) < len(table)
    hashes = [len(np.unique(np.asarray(own)[real])) for own in environment_hashes(everything, 4)]
    found = distinct_environments(table, 4)
    counts = [len(found.atoms), *np.add.reduceat(np.diff(found.first), range(0, 24, 6))]
    assert counts == hashes


def test_each_layer_has_what_one_counts_by_hand():
    """Octane: CH3 and CH2; beside each a CH3 or not; and so on to the middle. Benzene has one of all."""
    table = distinct_environments(featurize(["CCCCCCCC", "c1ccccc1"]), 4)
    count = lambda rows: table.needs(rows)[:-1].reshape(4, 6).sum(axis=1).tolist()
    assert count([0]) == [3, 4, 4, 4]
    assert count([1]) == [1, 1, 1, 1]
    assert count([0, 1, 0]) == [4, 5, 5, 5]
    assert table.occurrences[:, 2].sum() == 14  # atoms
    assert table.sizes.sum(axis=1).tolist() == [3 + 4 + 4 + 4 + 4, 1 + 1 + 1 + 1 + 1]


def test_bonds_tell_apart_what_atoms_do_not():
    """Naphthalene's and a chain's carbons may have like neighbours; a double bond is no single one."""
    table = distinct_environments(featurize(["C=C", "CC", "C=CC=C"]), 1)
    alone = [table.needs([row])[:-1].sum() for row in range(3)]
    assert alone == [1, 1, 2]
    assert table.needs(np.arange(3))[:-1].sum() == 4  # the ends of butadiene have a CH beside them


def test_rows_without_atoms_and_no_rows_at_all():
    table = featurize(["CC", "not a molecule", "C"])
    weights = random_weights("original", np.float64)
    environments = distinct_environments(table, DEPTH)
    fingerprints = neural_fingerprint(weights, collate_environments(environments, [1, 0, 2]))
    np.testing.assert_allclose(fingerprints.sum(axis=1), [0, 8, 4])
    assert neural_fingerprint(weights, collate_environments(environments, [])).shape == (0, 9)
    assert distinct_environments(featurize([]), DEPTH).needs([]).sum() == 0
    nothing = distinct_environments(featurize(["bad"]), DEPTH)
    padded = collate_environments(nothing, [0], EnvironmentBucket(2, 8, ((8,) * 6,) * DEPTH))
    assert not np.asarray(neural_fingerprint(weights, padded)).any()


def test_no_layers_leave_the_atoms_themselves(table):
    weights = random_weights("original", np.float64, depth=0)
    batch = collate_environments(distinct_environments(table, 0), np.arange(len(table)))
    assert_same(batch, collate(table, np.arange(len(table))), weights, len(table), 1e-12)


def test_what_does_not_fit_is_an_error_that_says_so(environments):
    with pytest.raises(ValueError, match="environments of 3 layers, the network 5"):
        batch = collate_environments(environments, [0])
        neural_fingerprint(random_weights("talk", np.float32, depth=5), batch)
    with pytest.raises(ValueError, match="does not fit"):
        collate_environments(environments, [12], EnvironmentBucket(1, 2, ((1,) * 6,) * DEPTH))
    for bucket in (EnvironmentBucket(100, 2000, ((1000,) * 6,)), Bucket(100, 2000, (1000,) * 6)):
        with pytest.raises(ValueError, match="bucket of another kind"):
            training_batch(environments, np.array([0]), [bucket])
    with pytest.raises(ValueError, match="row 15 is not there"):
        training_batch(environments, np.array([0, 15]), training_buckets(environments, 2))
    with pytest.raises(ValueError, match="row -1 is not there"):
        environments.needs([-1])
    with pytest.raises(ValueError, match="depth=-1"):
        distinct_environments(featurize(["C"]), -1)


def test_training_shapes_are_at_most_three_even_for_the_worst_batch(environments):
    buckets = training_buckets(environments, 5)
    assert len(buckets) <= 3
    worst = [np.argsort(column)[-5:] for column in environments.sizes.T]
    order = shuffled_rows(np.arange(len(environments)), 5, seed=0)
    for rows in [*worst, *(next(order) for _ in range(200))]:
        assert training_batch(environments, rows, buckets).bucket in buckets


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("members", [1, 2])
def test_training_learns_from_them_what_it_learns_from_atoms(variant, members, monkeypatch):
    chains = featurize(
        [a + b for a in ("C", "CC", "c1ccccc1", "OC", "C(C)") for b in ("O", "C(C)C", "CN", "CCCl")]
    )
    targets = chains.atoms_per_molecule - 3.0 * np.array(["N" in s for s in chains.smiles])
    config = TrainConfig(steps=25, batch_size=8, evaluate_every=5, learning_rate=1e-2)
    make = lambda seed: PropertyModel(
        depth=2, width=6, length=8, hidden=5, variant=variant, rngs=nnx.Rngs(seed)
    )
    model = make(0) if members == 1 else Ensemble([make(0), make(1)])

    def history():
        return train(model, chains, targets, np.arange(16), np.arange(16, 20), config).history

    ours = history()
    monkeypatch.setattr(training, "depth_of", lambda model: None)
    for one, other in zip(ours, history(), strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-3)


class PerAtom(NeuralFingerprint):
    """Looks at the atoms."""

    def __call__(self, batch):
        atoms = jax.ops.segment_sum(jnp.ones(batch.molecule.shape), batch.molecule, batch.n_molecules)
        return super().__call__(batch) / jnp.maximum(atoms, 1)[:, None]


def test_a_fingerprint_of_ones_own_is_given_the_atoms():
    model = PropertyModel(depth=2, length=4, hidden=3, rngs=nnx.Rngs(0))
    model.fingerprint = PerAtom(depth=2, length=4, rngs=nnx.Rngs(1))
    config = TrainConfig(steps=3, batch_size=4)
    table = featurize(["C" * k for k in range(1, 9)])
    history = train(model, table, np.arange(8.0), np.arange(8), config=config).history
    assert np.isfinite(history[-1]["train_mse"])
