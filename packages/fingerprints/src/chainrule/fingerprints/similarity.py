"""Tanimoto similarity of binary fingerprints, and search for the most similar ones among millions.

One can
- pack fingerprints into 32 bits a word (`pack_bits`),
- compare all of some with all of others (`tanimoto`),
- find the most similar of a large set, on one device or on many (`most_similar`).

Tanimoto's similarity is the number of bits that both have, divided by the number that either has; of two
fingerprints without bits it is 1.

Source: Rogers and Hahn, Extended-connectivity fingerprints, J. Chem. Inf. Model. 50 (2010); the top of each
block, then the top of the tops.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

BLOCK = 1 << 16  # rows of a database compared at a time; memory is that of queries x BLOCK numbers


class Neighbors(NamedTuple):
    """The most similar rows of a database for every query, the best first; of equals the lower row."""

    similarities: Float[Array, "queries k"]  # from 0 to 1
    rows: Int[Array, "queries k"]


def pack_bits(fingerprints: np.ndarray) -> UInt32[np.ndarray, "rows words"]:
    """Fingerprints of zeros and ones, 32 entries a word; counts count as ones.

    Args:
        fingerprints: numbers or booleans, shape (rows, length).

    Raises:
        ValueError: not an array of two axes, or NaN in it, as in the rows of molecules that are not valid.
    """
    x = np.asarray(fingerprints)
    if x.ndim != 2:
        raise ValueError(f"fingerprints have shape {x.shape}; give rows of fingerprints, (rows, length)")
    if x.dtype.kind == "f" and np.isnan(x).any():
        row = int(np.argmax(np.isnan(x).any(axis=1)))
        raise ValueError(f"fingerprint {row} is NaN: take the rows that are valid, molecules.take(...)")
    padded = np.zeros((len(x), -(-x.shape[1] // 32) * 32), bool)
    padded[:, : x.shape[1]] = x > 0
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32)


@jax.jit
def tanimoto(
    a: UInt32[Array | np.ndarray, "rows words"], b: UInt32[Array | np.ndarray, "others words"]
) -> Float[Array, "rows others"]:
    """The similarity of every row of `a` with every row of `b`, both packed."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    bits = lambda x: lax.population_count(x).astype(jnp.int32).sum(axis=-1)
    bits_of_b = bits(b)

    def with_all(one):
        both = bits(one[None] & b)
        either = bits(one) + bits_of_b - both
        return jnp.where(either > 0, both / jnp.maximum(either, 1), 1).astype(jnp.float32)

    return lax.map(with_all, a)  # one at a time: what all have in common would not fit into memory


def most_similar(
    queries: UInt32[Array | np.ndarray, "queries words"],
    database: UInt32[Array | np.ndarray, "rows words"],
    k: int = 10,
    *,
    mesh: Mesh | None = None,
    block: int = BLOCK,
) -> Neighbors:
    """The `k` rows of a database that are most similar to each query.

    The database is gone through in blocks, so that memory grows with queries x block, not with its rows.

    Args:
        queries, database: packed fingerprints of one length, see `pack_bits`.
        k: how many; at most as many as the database has rows.
        mesh: devices to split the database over, along all axes of the mesh. Default: the device where it is.
        block: rows compared at a time on a device.

    Raises:
        ValueError: `k` out of range; fingerprints of different lengths.
    """
    n = len(database)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must be from 1 to {n}, the rows of the database")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} words and the database {database.shape[1]}: give fingerprints "
            "of one length"
        )
    shards = mesh.size if mesh else 1
    rows_per_shard = -(-n // shards)
    block = max(k, min(block, rows_per_shard))
    missing = shards * max(k, rows_per_shard) - n
    if mesh is None:
        queries, database = jnp.asarray(queries), jnp.asarray(database)
        return _search(queries, database, n, k=k, block=block)
    padded = np.pad(np.asarray(database), ((0, missing), (0, 0)))
    placed = jax.device_put(padded, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    queries = jax.device_put(queries, NamedSharding(mesh, PartitionSpec()))
    return _search_sharded(queries, placed, n, k=k, block=block, mesh=mesh)


@partial(jax.jit, static_argnames=("k", "block"))
def _search(queries, database, n, *, k, block, first=0):
    """The best of `database`, whose rows are numbered from `first`; those from `n` on are padding."""

    def look_at(best, start):
        begin = jnp.minimum(start, len(database) - block)  # the last block begins among rows already seen
        rows = (begin + jnp.arange(block)).astype(jnp.int32)
        found = tanimoto(queries, lax.dynamic_slice_in_dim(database, begin, block))
        found = jnp.where((rows >= start) & (first + rows < n), found, -1)
        rows = (first + rows).astype(jnp.int32)
        return _best(k, best, Neighbors(found, jnp.broadcast_to(rows, found.shape))), None

    nothing = jnp.full((len(queries), k), -1, jnp.float32)
    best = Neighbors(nothing, jnp.zeros(nothing.shape, jnp.int32))
    return lax.scan(look_at, best, jnp.arange(0, len(database), block))[0]


@partial(jax.jit, static_argnames=("k", "block", "mesh"))
def _search_sharded(queries, database, n, *, k, block, mesh):
    everywhere, split = PartitionSpec(), PartitionSpec(mesh.axis_names)

    def here(queries, part):
        first = lax.axis_index(mesh.axis_names) * len(part)
        found = _search(queries, part, n, k=k, block=block, first=first)
        every = lax.all_gather(found, mesh.axis_names, axis=1, tiled=True)
        return _best(k, every)

    search = jax.shard_map(
        here, mesh=mesh, in_specs=(everywhere, split), out_specs=everywhere, check_vma=False
    )
    return search(queries, database)


def _best(k: int, *several: Neighbors) -> Neighbors:
    """The best k of several lists; of equals the first, which is the lower row where lists are in order."""
    similarities, rows = (jnp.concatenate(each, axis=1) for each in zip(*several, strict=True))
    similarities, places = lax.top_k(similarities, k)
    return Neighbors(similarities, jnp.take_along_axis(rows, places, axis=1))
