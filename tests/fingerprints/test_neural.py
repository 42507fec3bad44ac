"""Algorithm 2, exactly; and a molecule's fingerprint is its own, whatever is around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rdkit import Chem

from chainrule.core.testing import check_derivatives
from chainrule.fingerprints import (
    PREDICTION_BUCKETS,
    NeuralFingerprint,
    PropertyModel,
    atom_writes,
    collate,
    featurize,
    init_weights,
    neural,
    predict,
)
from chainrule.fingerprints import neural_fingerprint as eager_fingerprint

VARIANTS = ("talk", "original", "messages")
neural_fingerprint = jax.jit(eager_fingerprint)


def random_weights(variant, dtype, seed=0, **sizes):
    """Weights with biases that matter."""
    weights = init_weights(jax.random.key(seed), variant=variant, scale=3.0, dtype=dtype, **sizes)
    leaves, tree = jax.tree.flatten(weights)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [leaf + rng.normal(size=leaf.shape).astype(dtype) / 3 for leaf in leaves])


def slow_fingerprint(weights, table, row, variant):
    """Algorithm 2 atom by atom in NumPy, from the table's bonds alone."""
    first, last = table.atom_offsets[row], table.atom_offsets[row + 1]
    neighbors = {atom: [] for atom in range(first, last)}
    for bond in range(table.bond_offsets[row], table.bond_offsets[row + 1]):
        a, b = table.bond_ends[bond]
        neighbors[a].append((b, bond))
        neighbors[b].append((a, bond))
    r = {atom: table.atoms[atom].astype(np.float64) for atom in neighbors}
    weights = jax.tree.map(lambda w: np.asarray(w, np.float64), weights)
    f = np.zeros(weights.writes[0].bias.shape)

    def write(w):
        for atom in r:
            logits = r[atom] @ w.kernel + w.bias
            e = np.exp(logits - logits.max())
            f[:] += e / e.sum()

    writes = list(weights.writes)
    if variant == "messages":
        linear = lambda x, w: x @ w.kernel + w.bias
        r = {atom: np.maximum(linear(x, weights.embedding), 0) for atom, x in r.items()}
        state, r = r, {atom: (x - x.mean()) / np.sqrt(x.var() + 1e-5) for atom, x in r.items()}
        write(writes.pop(0))
        for layer, w in zip(weights.convolutions, writes, strict=True):
            for atom, around in neighbors.items():
                m = np.zeros(len(layer.atom.bias))
                for other, bond in around:
                    m += np.maximum(linear(r[other], layer.atom) + table.bonds[bond] @ layer.bond_kernel, 0)
                state[atom] = state[atom] + np.maximum(linear(np.concatenate([r[atom], m]), layer.update), 0)
            r = {atom: (x - x.mean()) / np.sqrt(x.var() + 1e-5) for atom, x in state.items()}
            write(w)
        return f
    if variant == "original":
        write(writes.pop(0))
    for convolution, w in zip(weights.convolutions, writes, strict=True):
        new = {}
        for atom, around in neighbors.items():
            total = np.zeros_like(r[atom])
            bonds = np.zeros(table.bonds.shape[1])
            for other, bond in around:
                total += r[other]
                bonds += table.bonds[bond]
            if variant == "talk":
                total += r[atom]
            v = np.concatenate([total, bonds]) @ convolution.degree_kernels[len(around)] + convolution.bias
            if variant == "original":
                v += r[atom] @ convolution.self_kernel
            new[atom] = np.maximum(v, 0)
        r = new
        write(w)
    return f


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)])
def test_equals_the_slow_loop_over_atoms(table, variant, dtype, tolerance):
    weights = random_weights(variant, dtype, depth=3, width=7, length=11)
    rows = np.arange(len(table))
    fast = neural_fingerprint(weights, collate(table, rows, PREDICTION_BUCKETS[2]))
    assert fast.dtype == dtype
    for row in rows:
        slow = slow_fingerprint(weights, table, row, variant)
        # entries grow with the number of atoms, so the tolerance is relative to that
        np.testing.assert_allclose(fast[row], slow, rtol=tolerance, atol=tolerance * slow.sum())


@pytest.mark.parametrize("variant, writes", [("talk", 3), ("original", 4), ("messages", 4)])
def test_every_atom_writes_a_total_of_one_per_written_layer(table, variant, writes):
    weights = random_weights(variant, np.float64, depth=3, width=5, length=9)
    total = neural_fingerprint(weights, collate(table, np.arange(len(table)))).sum(axis=1)
    np.testing.assert_allclose(total, table.atoms_per_molecule * writes, rtol=1e-12)


def test_degrees_have_weights_of_their_own(table):
    """Changing H^N changes exactly the molecules that have an atom of degree N."""
    weights = random_weights("talk", np.float64, depth=1, width=5, length=9)
    batch = collate(table, np.arange(len(table)))
    before = neural_fingerprint(weights, batch)
    for degree in range(6):
        kernels = weights.convolutions[0].degree_kernels.at[degree].add(1.0)
        changed = weights._replace(convolutions=(weights.convolutions[0]._replace(degree_kernels=kernels),))
        moved = np.abs(np.asarray(neural_fingerprint(changed, batch) - before)).max(axis=1) > 1e-9
        np.testing.assert_array_equal(moved, table.sizes[:, degree] > 0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_numbering_of_atoms_does_not_matter(table, variant, dtype, tolerance):
    weights = random_weights(variant, dtype, depth=4, width=8, length=16)
    rng = np.random.default_rng(0)
    rows = [4, 5, 8, 12]
    fingerprint = neural_fingerprint(weights, collate(table, rows, PREDICTION_BUCKETS[2]))
    for k, row in enumerate(rows):
        mol = Chem.MolFromSmiles(table.smiles[row])
        spellings = []
        for _ in range(25):  # 100 renumberings in all
            order = rng.permutation(mol.GetNumAtoms()).tolist()
            spellings.append(Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False))
        assert len(set(spellings)) > 1
        again = featurize(spellings)
        others = neural_fingerprint(weights, collate(again, np.arange(len(again)), PREDICTION_BUCKETS[2]))[
            : len(again)
        ]
        scale = float(fingerprint[k].sum())
        np.testing.assert_allclose(
            others, np.tile(fingerprint[k], (len(again), 1)), atol=tolerance * scale, rtol=0
        )


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_order_company_and_padding_do_not_matter(table, variant):
    weights = random_weights(variant, np.float32, depth=4, width=8, length=16)
    everything = np.asarray(neural_fingerprint(weights, collate(table, np.arange(len(table)))))
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = np.asarray(neural_fingerprint(weights, collate(table, order)))
    scale = table.atoms_per_molecule.max()
    np.testing.assert_allclose(shuffled, everything[order], atol=1e-5 * scale, rtol=0)
    for row in range(len(table)):
        # exact shapes, compiled for each molecule, for a few; shared ones for all
        for bucket in (*PREDICTION_BUCKETS[1:3], *((None,) if row in (0, 4, 7) else ())):
            alone = np.asarray(neural_fingerprint(weights, collate(table, [row], bucket)))
            np.testing.assert_allclose(alone[0], everything[row], atol=1e-5 * scale, rtol=0)
            assert (alone[1:] == 0).all()


@pytest.mark.slow
def test_a_prediction_does_not_depend_on_the_rest_of_the_table(table):
    """The original normalised by the statistics of the test batch, and failed this."""
    model = PropertyModel(rngs=nnx.Rngs(0))
    together = predict(model, table)
    alone = [predict(model, table.take([row]))[0] for row in range(len(table))]
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(together).max(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_derivatives_with_respect_to_all_weights(table, variant):
    weights = random_weights(variant, np.float64, depth=2, width=4, length=5)
    batch = collate(table, [2, 4, 7], PREDICTION_BUCKETS[0])
    smooth = lambda w: eager_fingerprint(w, batch, activation=jnp.tanh) ** 2  # no kink near a difference
    # Normalised features are so curved that a central difference is good to some 1e-4.
    rtol = 1e-3 if variant == "messages" else 1e-5
    check_derivatives(jax.jit(smooth), (weights,), order=1, rtol=rtol)


@pytest.mark.slow
def test_gradients_do_not_see_padding(table):
    weights = random_weights("talk", np.float64, depth=3, width=4, length=5)

    def gradient(bucket):
        batch = collate(table, [4, 5], bucket)
        loss = lambda w: jnp.sum(jnp.sin(neural_fingerprint(w, batch)))
        return jax.tree.leaves(jax.grad(loss)(weights))

    for tight, loose in zip(gradient(None), gradient(PREDICTION_BUCKETS[2]), strict=True):
        np.testing.assert_allclose(loose, tight, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_large_batch_is_summed_in_blocks_to_the_same_values_and_derivatives(table, variant, monkeypatch):
    """Also where the last block is not full, and where rows are padding."""
    weights = random_weights(variant, np.float64, depth=2, width=4, length=9)
    batch = collate(table, np.arange(len(table)), PREDICTION_BUCKETS[2])

    def values():
        loss = lambda w: (eager_fingerprint(w, batch) ** 2).sum()
        return jax.tree.leaves((eager_fingerprint(weights, batch), jax.jit(jax.grad(loss))(weights)))

    whole = values()
    monkeypatch.setattr(neural, "LARGE", 0)
    monkeypatch.setattr(neural, "BLOCK", 9 * 37)
    assert "scan" in str(jax.make_jaxpr(lambda w: eager_fingerprint(w, batch))(weights))
    for blocks, at_once in zip(values(), whole, strict=True):
        np.testing.assert_allclose(blocks, at_once, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_module_is_the_pure_function_with_its_weights(table, variant):
    layer = NeuralFingerprint(depth=2, width=4, length=8, variant=variant, rngs=nnx.Rngs(0))
    batch = collate(table, [1, 4, 5])
    np.testing.assert_array_equal(layer(batch), eager_fingerprint(layer.weights, batch))
    graphdef, state = nnx.split(layer)
    as_function = jax.jit(lambda state: nnx.merge(graphdef, state)(batch))
    np.testing.assert_allclose(as_function(state), layer(batch), rtol=1e-5)
    gradient = jax.grad(lambda layer: jnp.sum(layer(batch)[:, 0]))(layer)
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_an_ensemble_is_one_vmap(table):
    batch = collate(table, [1, 4, 5])
    stacked = jax.vmap(lambda key: init_weights(key, depth=2, width=4, length=8))(
        jax.random.split(jax.random.key(0), 3)
    )
    together = jax.vmap(neural_fingerprint, in_axes=(0, None))(stacked, batch)
    for member in range(3):
        weights = jax.tree.map(lambda leaf, member=member: leaf[member], stacked)
        np.testing.assert_allclose(together[member], neural_fingerprint(weights, batch), rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_large_random_weights_make_every_write_a_hard_choice(table):
    """The limit in which a neural fingerprint is a circular one."""
    weights = init_weights(jax.random.key(0), depth=2, width=20, length=32, scale=100.0)
    for layer in atom_writes(weights, collate(table, np.arange(len(table)))):
        assert float(np.median(layer.max(axis=1))) > 0.999


def test_impossible_sizes_and_names_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="'gcn' is unknown; choose one of"):
        init_weights(key, variant="gcn")
    with pytest.raises(ValueError, match="depth=0"):
        init_weights(key, depth=0, variant="talk")
    weights = init_weights(key, depth=3)
    with pytest.raises(ValueError, match="1 writes for 3 convolutions"):
        eager_fingerprint(weights._replace(writes=weights.writes[:1]), collate(featurize(["CC"]), [0]))
