"""Circular fingerprints: Algorithm 1 of the talk, on the same batches as the neural ones, in XLA.

One can
- compute binary or counted fingerprints of a batch (`circular_fingerprint`) or of a whole table
  (`circular_fingerprints`), by Algorithm 1 or by the rule of Morgan fingerprints, also known as ECFP,
- ask which rows of a table have their Morgan fingerprints from RDKit, and why (`left_to_rdkit`),
- see the identifier of every atom's environment (`environment_hashes`).

Every atom repeatedly hashes its own identifier together with its neighbours', each with its bond. The
identifier picks the entry of the fingerprint to which a 1 is written. The neural fingerprint replaces
the hash by a smooth layer and the choice of an entry by a softmax.

Line 8 concatenates the neighbours, which takes an order; here their hashes are added modulo 2^32, so
that the numbering of the atoms does not matter (sorting them first, as `morgan` does, would serve too, and
compiles ten times slower). As in the talk, the lone atoms (radius 0) are not written unless asked for,
an environment that another one already covers is written again, and an atom is described by the
neural fingerprint's features. Chemists' Morgan fingerprints differ in all three, see `morgan`.

Source: talk, "Circular fingerprints"; Duvenaud, Maclaurin et al., NIPS 2015, Algorithm 1.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from chainrule.fingerprints.batches import MoleculeBatch, prediction_batches
from chainrule.fingerprints.molecules import Molecules, morgan_fingerprints
from chainrule.fingerprints.morgan import MOST_BONDS, morgan_environments

Rule = Literal["algorithm 1", "morgan"]


def circular_fingerprint(
    batch: MoleculeBatch,
    *,
    rule: Rule = "algorithm 1",
    radius: int = 2,
    length: int = 2048,
    counts: bool = False,
    write_atoms: bool | None = None,
) -> Float[Array, "molecules length"]:
    """Circular fingerprints of a batch of molecules.

    Args:
        batch: from `collate`; for Morgan fingerprints, from `collate(..., morgan=True)`. Otherwise atom and
            bond features must be small whole numbers, as those are.
        rule: "algorithm 1" of the talk; or "morgan", equal in every bit and count to what RDKit's
            rdFingerprintGenerator.GetMorganGenerator(radius, fpSize=length) makes.
        radius: number of rounds, R; the environments written reach 1 to R bonds.
        length: entries of the fingerprint, S.
        counts: number of environments that fall on an entry, instead of 1 if there is any.
        write_atoms: also write the environments of radius 0; default: as the rule has it, which for
            Morgan is yes.

    Raises:
        ValueError: `radius` is negative or `length` not positive; `rule` is none of these; the batch lacks
            what the rule needs.
    """
    if radius < 0 or length < 1:
        raise ValueError(f"radius={radius} must be at least 0 and length={length} at least 1")
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r} must be one of {get_args(Rule)}")
    if rule == "morgan":
        layers = morgan_environments(batch, radius)
    else:
        layers = [(hashes, True) for hashes in environment_hashes(batch, radius)]
    write_atoms = rule == "morgan" if write_atoms is None else write_atoms
    fingerprint = jnp.zeros((batch.n_molecules, length), jnp.float32)
    for hashes, is_written in layers if write_atoms else layers[1:]:
        place = fingerprint.at[batch.molecule, (hashes % np.uint32(length)).astype(jnp.int32)]
        one = jnp.where(is_written, 1.0, 0.0)
        # padding atoms name a molecule that does not exist, and are dropped
        fingerprint = place.add(one, mode="drop") if counts else place.max(one, mode="drop")
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


def circular_fingerprints(
    molecules: Molecules,
    *,
    rule: Rule = "algorithm 1",
    radius: int = 2,
    length: int = 2048,
    counts: bool = False,
    write_atoms: bool | None = None,
) -> Float[np.ndarray, "rows length"]:
    """`circular_fingerprint` of every row of a table, in order; NaN where the row is invalid.

    Some Morgan fingerprints are RDKit's own (`left_to_rdkit`), with a warning that says which and why.
    """
    settings: dict[str, Any] = {"radius": radius, "length": length, "counts": counts}
    values = np.full((len(molecules), length), np.nan, np.float32)
    morgan = rule == "morgan"
    here, table = np.arange(len(molecules)), molecules
    if morgan and molecules.most_bonds > MOST_BONDS:
        here = np.flatnonzero(molecules.sizes[:, -1] <= MOST_BONDS)
        table = molecules.take(here)
    for rows, batch in prediction_batches(table, morgan=morgan):
        values[here[rows]] = _compiled(batch, rule=rule, write_atoms=write_atoms, **settings)[: len(rows)]
    values[~molecules.valid] = np.nan
    if morgan and (why := left_to_rdkit(molecules)):
        rows = np.array(list(why))
        values[rows] = found = _by_rdkit(molecules.take(rows), write_atoms=write_atoms, **settings)
        _warn(rows[~np.isnan(found[:, 0])], why)
    return values


def left_to_rdkit(molecules: Molecules) -> dict[int, str]:
    """The rows of which RDKit makes the Morgan fingerprint, where it can read them, each with the reason.

    These are the rows that have no graph here, such as those with an atom of more than five neighbours, and
    molecules so large that XLA would take long.
    """
    bonds, no_graph = molecules.sizes[:, -1], molecules.atoms_per_molecule == 0
    return {
        row: molecules.reasons[row]
        if no_graph[row]
        else f"{bonds[row]} bonds; beyond {MOST_BONDS} XLA takes long"
        for row in np.flatnonzero(no_graph | (molecules.valid & (bonds > MOST_BONDS))).tolist()
    }


def _by_rdkit(molecules: Molecules, *, radius, length, counts, write_atoms) -> np.ndarray:
    """Morgan fingerprints; NaN where RDKit cannot read a row."""
    values = morgan_fingerprints(molecules, radius=radius, length=length, counts=True)
    if write_atoms is False:  # every atom counts by itself
        values -= morgan_fingerprints(molecules, radius=0, length=length, counts=True)
    return values if counts else np.minimum(values, 1)


def _warn(rows: np.ndarray, why: dict[int, str]) -> None:
    if len(rows):
        named = "; ".join(f"row {row}: {why[row]}" for row in rows[:3].tolist())
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        warnings.warn(f"Morgan fingerprints left to RDKit: {named}{more}", stacklevel=3)


_compiled = jax.jit(
    circular_fingerprint, static_argnames=("rule", "radius", "length", "counts", "write_atoms")
)


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
