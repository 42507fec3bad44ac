"""Tanimoto search: RDKit's similarities, sorted, whatever the blocks and the devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from rdkit import DataStructs

from chainrule.fingerprints import circular_fingerprints, most_similar, pack_bits, tanimoto

rng = np.random.default_rng(0)
DATABASE = rng.random((1000, 100)) < 0.2
DATABASE[500] = DATABASE[3]  # equals
DATABASE[7] = False  # without bits
QUERIES = np.concatenate([DATABASE[[3, 7]], rng.random((3, 100)) < 0.2])


def by_rdkit(a, b):
    vectors = [
        [DataStructs.CreateFromBitString("".join(map(str, row.astype(int)))) for row in x] for x in (a, b)
    ]
    return np.array([DataStructs.BulkTanimotoSimilarity(one, vectors[1]) for one in vectors[0]])


def best(similarities, k):
    """The k best of each row, of equals the first."""
    rows = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, rows, axis=1), rows


def test_similarities_are_rdkits(table):
    fingerprints = circular_fingerprints(table, rule="morgan")
    packed = pack_bits(fingerprints)
    np.testing.assert_allclose(tanimoto(packed, packed), by_rdkit(fingerprints, fingerprints), rtol=1e-6)
    both = pack_bits(QUERIES), pack_bits(DATABASE)
    expected = by_rdkit(QUERIES, DATABASE)
    expected[1, 7] = 1  # where RDKit, of two without bits, says
    np.testing.assert_allclose(tanimoto(*both), expected, rtol=1e-6)


@pytest.mark.parametrize("k, block", [(1, 1000), (10, 64), (200, 7), (1000, 1 << 16)])
def test_the_best_come_first_whatever_the_blocks(k, block):
    found = most_similar(pack_bits(QUERIES), pack_bits(DATABASE), k, block=block)
    similarities, rows = best(np.asarray(tanimoto(pack_bits(QUERIES), pack_bits(DATABASE))), k)
    np.testing.assert_array_equal(found.similarities, similarities)
    np.testing.assert_array_equal(found.rows, rows)


def test_many_devices_find_the_same():
    program = """
import jax, numpy as np
from chainrule.fingerprints import most_similar
rng = np.random.default_rng(0)
queries, database = (rng.integers(2**32, size=(rows, 3), dtype=np.uint32) for rows in (4, 1003))
database[900] = database[2] = queries[0]
mesh = jax.make_mesh((4, 2), ("a", "b"))
one, many = most_similar(queries, database, 20), most_similar(queries, database, 20, mesh=mesh, block=50)
np.testing.assert_array_equal(one.similarities, many.similarities)
np.testing.assert_array_equal(one.rows, many.rows)
assert one.rows[0, :2].tolist() == [2, 900]
print("same on", jax.device_count())
"""
    eight = "--xla_force_host_platform_device_count=8"
    flags = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {eight}"}
    child = subprocess.run([sys.executable, "-c", program], env=flags, capture_output=True, text=True)
    assert child.stdout == "same on 8\n", child.stderr


def test_what_does_not_fit_is_refused():
    database = pack_bits(DATABASE)
    with pytest.raises(ValueError, match="k=1001 must be from 1 to 1000"):
        most_similar(database, database, 1001)
    with pytest.raises((ValueError, TypeError), match="4"):  # TypeError where annotations are checked
        most_similar(pack_bits(DATABASE[:, :32]), database)
    with pytest.raises(ValueError, match="fingerprint 1 is NaN: take the rows that are valid"):
        pack_bits(np.array([[0.0, 1.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"have shape \(100,\)"):
        pack_bits(DATABASE[0])


def test_memory_is_that_of_a_block():
    like = jax.ShapeDtypeStruct((1 << 16, 64), np.uint32)
    search = jax.jit(lambda queries, database: most_similar(queries, database, 10, block=1 << 10))
    compiled = search.lower(jax.ShapeDtypeStruct((8, 64), np.uint32), like).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2e6  # all similarities alone would take as much
