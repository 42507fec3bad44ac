"""Why a model predicts what it does: the fragments that a fingerprint's features respond to.

One can
- find the fragments that activate a feature most (`top_fragments`), the feature being chosen by the
  weight that a linear head gives it (`most_predictive_features`),
- see what every atom adds to a prediction (`atom_contributions`).

A fragment is an atom with all atoms within L bonds of it: what its entry in layer L can see.

Source: talk, "Interpretability"; Duvenaud, Maclaurin et al., NIPS 2015, section 5 and figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from chainrule.fingerprints.batches import MoleculeBatch, atom_slots, prediction_batches
from chainrule.fingerprints.model import PropertyModel
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.neural import Weights, atom_writes
from chainrule.fingerprints.smiles import fragment_smiles


class Fragment(NamedTuple):
    """An atom and its surroundings, in one of the molecules it occurs in."""

    row: int  # of the table
    atom: int  # the centre, numbered within the molecule
    radius: int  # bonds
    atoms: tuple[int, ...]  # all atoms within the radius, numbered within the molecule
    smiles: str  # of the fragment alone, the same for all its occurrences
    activation: float  # what the atom writes to the feature, 0 to 1


class Feature(NamedTuple):
    """An entry of the fingerprint and what a linear head makes of it."""

    index: int
    weight: float  # change of the prediction, in the target's units, per unit of the feature
    fragments: list[Fragment]  # most active first, each distinct fragment once


def most_predictive_features(model: PropertyModel, n: int = 1) -> tuple[list[int], list[int]]:
    """The features with the highest and with the lowest weights in a linear head.

    Every atom writes a total of one per layer, so only differences between weights tell features
    apart; the order is not affected.

    Raises:
        ValueError: the head is not linear, so no feature has a weight of its own.
    """
    order = np.argsort(feature_weights(model))
    return order[::-1][:n].tolist(), order[:n].tolist()


def feature_weights(model: PropertyModel) -> Float[np.ndarray, " length"]:
    """What one unit of each feature adds to the prediction of a linear head, in the target's units."""
    head = model.head
    if head.hidden is not None:
        raise ValueError("the head has a hidden layer; train a PropertyModel with hidden=0")
    scale = head.input_scale * np.asarray(head.std[...])
    return scale * np.asarray(cast(nnx.Param, head.output.kernel)[...])[:, 0]


def atom_contributions(
    model: PropertyModel, molecules: Molecules
) -> tuple[list[Float[np.ndarray, " atoms"]], float]:
    """What every atom adds to the prediction of a linear head: `(contributions per row, base)`.

    The prediction of a row is the base plus the sum over its atoms, to rounding, for the fingerprint is
    a sum over atoms and the head is linear.
    """
    head = model.head
    base = float(head.mean[...] + head.std[...] * cast(nnx.Param, head.output.bias)[...][0])
    scores = _scores(model, molecules, feature_weights(model)[:, None]).sum(axis=(0, 2))
    per_row = np.split(scores, molecules.atom_offsets[1:-1]) if len(molecules) else []
    return per_row, base


def top_fragments(
    model: PropertyModel, molecules: Molecules, features: Sequence[int], n: int = 6
) -> list[Feature]:
    """For each feature the n distinct fragments that activate it most, over all rows and radii.

    Fragments with the same SMILES count once; of their occurrences the most active is named.
    """
    weights = feature_weights(model)
    choice = np.eye(len(weights), dtype=np.float32)[:, list(features)]
    scores = _scores(model, molecules, choice)
    weights_of = model.fingerprint.weights
    first_radius = len(weights_of.convolutions) + 1 - len(weights_of.writes)
    owner = np.repeat(np.arange(len(molecules)), molecules.atoms_per_molecule)
    result = []
    for k, feature in enumerate(features):
        fragments: dict[str, Fragment] = {}
        for place in np.argsort(-scores[:, :, k], axis=None, kind="stable"):
            layer, atom = divmod(int(place), scores.shape[1])
            if len(fragments) == n:
                break
            row = int(owner[atom])
            atoms = surroundings(molecules, atom, first_radius + layer)
            base = int(molecules.atom_offsets[row])
            within = tuple(sorted(int(a) - base for a in atoms))
            name = fragment_smiles(molecules.smiles[row], within)
            if name not in fragments:
                activation = float(scores[layer, atom, k])
                radius = first_radius + layer
                fragments[name] = Fragment(row, atom - base, radius, within, name, activation)
        result.append(Feature(int(feature), float(weights[feature]), list(fragments.values())))
    return result


def surroundings(molecules: Molecules, atom: int, radius: int) -> set[int]:
    """The atoms within `radius` bonds of an atom; all numbered within the whole table."""
    neighbors, _ = molecules.adjacency
    reached = frontier = {int(atom)}
    for _ in range(radius):
        frontier = {int(b) for a in frontier for b in neighbors[a] if b >= 0} - reached
        reached = reached | frontier
    return reached


def _scores(
    model: PropertyModel, molecules: Molecules, directions: Float[np.ndarray, "length k"]
) -> Float[np.ndarray, "layers atoms k"]:
    """Projections of what every atom of the table writes in every written layer."""
    parts = [np.zeros((len(model.fingerprint.weights.writes), 0, directions.shape[1]), np.float32)]
    for rows, batch in prediction_batches(molecules):
        scores = np.asarray(_project(model.fingerprint.weights, batch, directions))
        parts.append(scores[:, atom_slots(molecules, rows, batch)])
    return np.concatenate(parts, axis=1)


@jax.jit
def _project(
    weights: Weights, batch: MoleculeBatch, directions: Float[Array, "length k"]
) -> Float[Array, "layers atoms k"]:
    return jnp.stack(atom_writes(weights, batch)) @ directions
