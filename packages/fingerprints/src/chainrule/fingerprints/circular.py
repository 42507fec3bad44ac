"""Circular fingerprints: Algorithm 1 of the talk, on the same batches as the neural ones, in XLA.

One can
- compute binary or counted fingerprints of a batch (`circular_fingerprint`),
- see the identifier of every atom's environment (`environment_hashes`).

Every atom repeatedly hashes its own identifier together with its neighbours', each with its bond. The
identifier picks the entry of the fingerprint to which a 1 is written. The neural fingerprint replaces
the hash by a smooth layer and the choice of an entry by a softmax.

Line 8 concatenates the neighbours, which takes an order; here their hashes are added modulo 2^32, so
that the numbering of the atoms does not matter (sorting them first, as RDKit does, would serve too, and
compiles ten times slower).

Where we differ further from what chemists call ECFP or Morgan fingerprints (Rogers and Hahn, 2010; for these
see `morgan_fingerprints`): as in the talk, the lone atoms (radius 0) are not written unless asked for,
an environment that another one already covers is written again, and an atom is described by the
neural fingerprint's features.

Source: talk, "Circular fingerprints"; Duvenaud, Maclaurin et al., NIPS 2015, Algorithm 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from chainrule.fingerprints.batches import MoleculeBatch, prediction_batches
from chainrule.fingerprints.molecules import Molecules


def circular_fingerprint(
    batch: MoleculeBatch,
    *,
    radius: int = 2,
    length: int = 2048,
    counts: bool = False,
    write_atoms: bool = False,
) -> Float[Array, "molecules length"]:
    """Circular fingerprints of a batch of molecules.

    Args:
        batch: from `collate`; atom and bond features must be small whole numbers, as those are.
        radius: number of rounds, R; the environments written reach 1 to R bonds.
        length: entries of the fingerprint, S.
        counts: number of environments that fall on an entry, instead of 1 if there is any.
        write_atoms: also write the environments of radius 0, as ECFP does.

    Raises:
        ValueError: `radius` is negative or `length` not positive.
    """
    if radius < 0 or length < 1:
        raise ValueError(f"radius={radius} must be at least 0 and length={length} at least 1")
    layers = environment_hashes(batch, radius)
    written = layers if write_atoms else layers[1:]
    fingerprint = jnp.zeros((batch.n_molecules, length), jnp.float32)
    for hashes in written:
        place = fingerprint.at[batch.molecule, (hashes % np.uint32(length)).astype(jnp.int32)]
        # padding atoms name a molecule that does not exist, and are dropped
        fingerprint = place.add(1.0, mode="drop") if counts else place.max(1.0, mode="drop")
    return fingerprint


def environment_hashes(batch: MoleculeBatch, radius: int) -> list[UInt32[Array, " atoms"]]:
    """The identifier of every atom's environment of 0, 1, .. `radius` bonds.

    Equal environments get equal identifiers; different ones share one with a chance of about 2^-32.
    """
    hashes = _hash_rows(jnp.asarray(batch.atoms), seed=0)
    bonds = _hash_rows(jnp.asarray(batch.bonds), seed=1)
    layers = [hashes]
    for layer in range(radius):
        around = jnp.concatenate(
            [
                _scatter(_mix(bonds[incident], hashes[neighbors])).sum(axis=1, dtype=jnp.uint32)
                for neighbors, incident in zip(batch.neighbors, batch.incident, strict=True)
            ]
        )
        hashes = _scatter(_mix(_mix(jnp.full_like(hashes, layer), hashes), around))
        layers.append(hashes)
    return layers


def circular_fingerprints(molecules: Molecules, **settings) -> Float[np.ndarray, "rows length"]:
    """`circular_fingerprint` of every row of a table, in order; NaN where the row is invalid."""
    length = settings.get("length", 2048)
    values = np.full((len(molecules), length), np.nan, np.float32)
    for rows, batch in prediction_batches(molecules):
        values[rows] = _compiled(batch, **settings)[: len(rows)]
    values[~molecules.valid] = np.nan
    return values


_compiled = jax.jit(circular_fingerprint, static_argnames=("radius", "length", "counts", "write_atoms"))


def _hash_rows(features: Float[Array, "rows features"], *, seed: int) -> UInt32[Array, " rows"]:
    """Identifiers of rows of small whole numbers: a random linear map modulo 2^32, then scattered."""
    draw = np.random.default_rng(seed).integers(2**32, size=features.shape[1], dtype=np.uint32)
    products = features.astype(jnp.uint32) * draw[None]
    return _scatter(products.sum(axis=1, dtype=jnp.uint32))


# The mixing and scattering steps of MurmurHash3 (Appleby, public domain), 32 bits: every bit of the
# input changes every bit of the output with a chance of about a half.
def _mix(state: UInt32[Array, "..."], value: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    value = value * np.uint32(0xCC9E2D51)
    value = _rotate(value, 15) * np.uint32(0x1B873593)
    return _rotate(state ^ value, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _scatter(value: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return value ^ (value >> np.uint32(16))


def _rotate(value: UInt32[Array, "..."], bits: int) -> UInt32[Array, "..."]:
    return (value << np.uint32(bits)) | (value >> np.uint32(32 - bits))
