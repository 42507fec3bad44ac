"""Why a model predicts what it does: what each atom adds, and the fragments that features respond to.

One can
- see what every atom adds to a prediction (`atom_contributions`),
- find the features that move predictions most (`most_predictive_features`), and the fragments that a
  feature responds to (`top_fragments`).

A fragment is an atom with all atoms within L bonds of it: what its entry in layer L can see. Every atom
writes a total of one to each layer of the fingerprint, whatever it is, so a feature says something only
by how its weight differs from the weight of average writing, and a fragment by how its activation
differs from that of the average atom. A softmax saturates, and many a fragment that occurs once has an
activation of one to all digits; so fragments are ranked by their z-score, in which occurrences count.
(The original picked the highest activation, however rare.)

Source: talk, "Interpretability"; Duvenaud, Maclaurin et al., NIPS 2015, section 5 and figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt32

from chainrule.fingerprints.batches import MoleculeBatch, atom_slots, molecule_sum, prediction_batches
from chainrule.fingerprints.circular import environment_hashes
from chainrule.fingerprints.messages import MessageWeights
from chainrule.fingerprints.model import Ensemble, Head, PropertyModel, head_of, members_of, size_of
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.neural import Weights, atom_writes
from chainrule.fingerprints.prediction import predict
from chainrule.fingerprints.smiles import fragment_smiles


class Contributions(NamedTuple):
    """A table's predictions as base + sum over the atoms + remainder; of a classifier, its log-odds."""

    atoms: list[Float[np.ndarray, " atoms"]]  # per row, in the target's units; empty if invalid
    base: float  # what the head answers where there are no atoms
    predictions: Float[np.ndarray, " rows"]  # NaN where the row is invalid
    remainders: Float[np.ndarray, " rows"]  # what no atom accounts for; of a linear head, rounding


class Fragment(NamedTuple):
    """An atom and its surroundings, in one of the molecules it occurs in."""

    row: int  # of the table
    atom: int  # the centre, numbered within the molecule
    radius: int  # bonds
    atoms: tuple[int, ...]  # all atoms within the radius, numbered within the molecule
    smiles: str  # of the fragment alone
    activation: float  # what each occurrence writes to the feature, 0 to 1
    occurrences: int  # in the table
    z_score: float  # (activation - mean) / deviation * sqrt(occurrences), of all atoms at this radius


class Feature(NamedTuple):
    """An entry of the fingerprint and what a linear head makes of it."""

    index: int  # of an ensemble, in its members' fingerprints side by side
    weight: float  # change of the prediction, in the target's units, per unit of the feature
    pull: float  # see `feature_pulls`
    fragments: list[Fragment]  # highest z-score first, each SMILES once


def atom_contributions(
    model: PropertyModel | Ensemble, molecules: Molecules, *, target: int = 0
) -> Contributions:
    """What every atom adds to the prediction of its molecule, in the target's units.

    An atom adds what it writes to the fingerprint times the head's gradient there ("gradient x
    activation"). For a linear head this is exact: prediction = base + sum over the atoms, to rounding.
    For a net it is not: the gradient holds near the molecule, not on the way from no atoms to all of
    them, and the atoms' sum misses the prediction by the remainder, which can be as large as the
    prediction itself. To add up, train with hidden=0.

    Of an ensemble, base and atoms are means over its members, as its prediction is. Only classifiers have
    the mean of their probabilities: what its log-odds are beyond the mean log-odds is in the remainder.

    Args:
        model: one model, or an ensemble.
        molecules: the table.
        target: the column to explain, if the model has several.

    Raises:
        ValueError: the model has no such column.
    """
    members = members_of(model)
    head = members[0].head
    columns = 1 if head.targets is None else head.targets
    if not 0 <= target < columns:
        raise ValueError(f"target={target} is not there; the model's columns are 0 to {columns - 1}")
    bases, scores, atoms = zip(*(_attributed(member, molecules, target) for member in members), strict=True)
    mean, std = _units(head, target)  # put on in float64, as `predict` does
    base = mean + std * float(np.mean(bases))
    along = std * np.mean(atoms, axis=0)
    per_row = np.split(along, molecules.atom_offsets[1:-1]) if len(molecules) else []
    per_row = [own if valid else own[:0] for own, valid in zip(per_row, molecules.valid, strict=True)]
    together = _log_odds(np.stack(scores)) if head.task == "classification" else np.mean(scores, axis=0)
    predictions = np.where(molecules.valid, mean + std * together, np.nan)
    sums = np.array([own.sum() for own in per_row])
    return Contributions(per_row, base, predictions, predictions - base - sums)


def adds_up(model: PropertyModel | Ensemble) -> bool:
    """Whether there is no remainder but rounding: linear heads, whose mean is the prediction."""
    of_one = model.task != "classification" or size_of(model) == 1
    return of_one and head_of(model).hidden is None


def most_predictive_features(
    model: PropertyModel | Ensemble, molecules: Molecules, n: int = 1
) -> tuple[list[int], list[int]]:
    """The features that pull predictions for these molecules up most, and those that pull down most.

    Those of an ensemble are its members', side by side: the features of member 1 come after those of 0.

    Raises:
        ValueError: the head is not linear, so no feature has a weight of its own.
    """
    order = np.argsort(feature_pulls(model, molecules))
    return order[::-1][:n].tolist(), order[:n].tolist()


def feature_weights(model: PropertyModel | Ensemble) -> Float[np.ndarray, " features"]:
    """What one unit of each feature adds to the prediction of a linear head, in the target's units."""
    members, head = members_of(model), head_of(model)
    if head.hidden is not None:
        raise ValueError("the head has a hidden layer; train a PropertyModel with hidden=0")
    if head.targets is not None:
        raise ValueError(f"the head has {head.targets} columns; its features have a weight for each")
    kernels = [np.asarray(cast(nnx.Param, one.head.output.kernel)[...], np.float64)[:, 0] for one in members]
    return _units(head, 0)[1] * head.input_scale * np.concatenate(kernels) / len(members)


def feature_pulls(model: PropertyModel | Ensemble, molecules: Molecules) -> Float[np.ndarray, " features"]:
    """How far each feature moves the average prediction, in the target's units.

    That is (w_k - sum_j w_j p_j) f_k, where w are the weights of a linear head, f is the average
    fingerprint of the molecules and p = f / sum(f) how average writing is spread over the features. A
    high weight alone would not do: it may belong to a feature that hardly any molecule has.
    """
    weights = feature_weights(model)
    if not molecules.valid.any():
        return np.zeros(len(weights))
    members = members_of(model)
    pulls = []
    for member, own in zip(members, np.split(weights, len(members)), strict=True):
        fingerprints = predict(member.fingerprint, molecules)[molecules.valid].astype(np.float64)
        average = fingerprints.mean(axis=0)
        pulls.append((own - own @ average / average.sum()) * average)
    return np.concatenate(pulls)


def top_fragments(
    model: PropertyModel | Ensemble, molecules: Molecules, features: Sequence[int], n: int = 6
) -> list[Feature]:
    """For each feature the n distinct fragments of highest z-score, over all rows and radii.

    What a layer cannot tell apart, it activates equally, and is one fragment here; of several with one
    SMILES the one of highest z-score is named, in the first molecule that it occurs in.

    Raises:
        ValueError: no such feature, or the head is not linear.
    """
    weights, pulls = feature_weights(model), feature_pulls(model, molecules)
    for feature in features:
        if not 0 <= feature < len(weights):
            raise ValueError(f"feature {feature} is not there; the features are 0 to {len(weights) - 1}")
    members = members_of(model)
    writes = _written(members, molecules, np.asarray(features, np.int64))
    layers, atoms, _ = writes.shape
    first_radius = len(members[0].fingerprint.weights.convolutions) + 1 - layers
    environments = _environments(molecules, first_radius, layers)
    kinds = environments.astype(np.uint64) + (np.arange(layers, dtype=np.uint64)[:, None] << np.uint64(32))
    _, first, counts = np.unique(kinds, return_index=True, return_counts=True)
    owner = np.repeat(np.arange(len(molecules)), molecules.atoms_per_molecule)
    result = []
    for k, feature in enumerate(features):
        z_scores = _standardized(writes[:, :, k]).ravel()[first] * np.sqrt(counts)
        fragments: dict[str, Fragment] = {}
        for kind in np.argsort(-z_scores, kind="stable"):
            if len(fragments) == n:
                break
            layer, atom = divmod(int(first[kind]), atoms)
            row = int(owner[atom])
            base = int(molecules.atom_offsets[row])
            within = tuple(sorted(a - base for a in surroundings(molecules, atom, first_radius + layer)))
            name = fragment_smiles(molecules.smiles[row], within)
            if name not in fragments:
                fragments[name] = Fragment(
                    row=row,
                    atom=atom - base,
                    radius=first_radius + layer,
                    atoms=within,
                    smiles=name,
                    activation=float(writes[layer, atom, k]),
                    occurrences=int(counts[kind]),
                    z_score=float(z_scores[kind]),
                )
        index = int(feature)
        result.append(Feature(index, float(weights[index]), float(pulls[index]), list(fragments.values())))
    return result


def surroundings(molecules: Molecules, atom: int, radius: int) -> set[int]:
    """The atoms within `radius` bonds of an atom; all numbered within the whole table."""
    neighbors, _ = molecules.adjacency
    reached = frontier = {int(atom)}
    for _ in range(radius):
        frontier = {int(b) for a in frontier for b in neighbors[a] if b >= 0} - reached
        reached = reached | frontier
    return reached


def _attributed(
    model: PropertyModel, molecules: Molecules, target: int
) -> tuple[float, Float[np.ndarray, " rows"], Float[np.ndarray, " atoms"]]:
    """The score without atoms, the score of every row, and what every atom of the table adds to it."""
    graphdef, state = nnx.split(model)
    atoms, scores = [np.zeros(0)], [np.zeros(0)]
    for rows, batch in prediction_batches(molecules):
        score, along = _attribute(graphdef, state, batch, target=target)
        scores.append(np.asarray(score, np.float64)[: len(rows)])
        atoms.append(np.asarray(along, np.float64)[atom_slots(molecules, rows, batch)])
    base = float(_score(model.head, jnp.zeros((1, model.fingerprint.length)), target)[0])
    return base, np.concatenate(scores), np.concatenate(atoms)


def _log_odds(scores: Float[np.ndarray, "members rows"]) -> Float[np.ndarray, " rows"]:
    """Of the mean of the probabilities that have these log-odds; of one, its own."""
    yes, no = (np.logaddexp.reduce(-np.logaddexp(0, -sign * scores), axis=0) for sign in (1, -1))
    return yes - no


def _units(head: Head, target: int) -> tuple[float, float]:
    """What to add to and multiply a score with; a classifier's log-odds have no units."""
    if head.task == "classification":
        return 0.0, 1.0
    mean, std = np.atleast_1d(head.mean[...]), np.atleast_1d(head.std[...])
    return float(mean[target]), float(std[target])


def _score(head: Head, features: Float[Array, "rows features"], target: int) -> Float[Array, " rows"]:
    """The number of each row that is explained: the first that the network makes for the target."""
    raw = head.raw(features)
    return raw[:, 0] if head.targets is None else raw[:, target, 0]


@partial(jax.jit, static_argnames=("graphdef", "target"))
def _attribute(
    graphdef: nnx.GraphDef, state: PyTree, batch: MoleculeBatch, *, target: int
) -> tuple[Float[Array, " molecules"], Float[Array, " atoms"]]:
    """The score of every molecule, and of every atom its writes times its molecule's gradient."""
    model = nnx.merge(graphdef, state)
    written = reduce(jnp.add, atom_writes(model.fingerprint.weights, batch))
    scores, pullback = jax.vjp(partial(_score, model.head, target=target), molecule_sum(batch, written))
    (gradients,) = pullback(jnp.ones_like(scores))
    return scores, jnp.sum(written * gradients[batch.molecule], axis=1)


def _written(
    members: Sequence[PropertyModel], molecules: Molecules, features: Int[np.ndarray, " k"]
) -> Float[np.ndarray, "layers atoms k"]:
    """What every atom of the table writes to these features, in every written layer."""
    length = members[0].fingerprint.length
    owner, entry = np.divmod(features, length)
    choice = np.eye(length, dtype=np.float32)
    wanted = np.unique(owner).tolist() or [0]
    parts = [_writes(members[k], molecules, choice[:, entry[owner == k]]) for k in wanted]
    order = np.argsort(np.argsort(owner, kind="stable"))  # back from members side by side
    return np.concatenate(parts, axis=2)[:, :, order]


def _writes(
    model: PropertyModel, molecules: Molecules, directions: Float[np.ndarray, "length k"]
) -> Float[np.ndarray, "layers atoms k"]:
    """Projections of what every atom of the table writes in every written layer."""
    parts = [np.zeros((len(model.fingerprint.weights.writes), 0, directions.shape[1]))]
    for rows, batch in prediction_batches(molecules):
        writes = np.asarray(_project(model.fingerprint.weights, batch, directions), np.float64)
        parts.append(writes[:, atom_slots(molecules, rows, batch)])
    return np.concatenate(parts, axis=1)


def _standardized(writes: Float[np.ndarray, "layers atoms"]) -> Float[np.ndarray, "layers atoms"]:
    """With mean 0 and standard deviation 1 in each layer; zeros in a layer that writes the same always."""
    if not writes.size:
        return writes
    centred = writes - writes.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


@jax.jit
def _project(
    weights: Weights | MessageWeights, batch: MoleculeBatch, directions: Float[Array, "length k"]
) -> Float[Array, "layers atoms k"]:
    return jnp.stack(atom_writes(weights, batch)) @ directions


def _environments(molecules: Molecules, first: int, n: int) -> UInt32[np.ndarray, "layers atoms"]:
    """The identifiers of what n layers see of every atom, beginning with the radius `first`."""
    parts = [np.zeros((n, 0), np.uint32)]
    for rows, batch in prediction_batches(molecules):
        hashes = np.stack(_hashes(batch, radius=first + n - 1)[first:])
        parts.append(hashes[:, atom_slots(molecules, rows, batch)])
    return np.concatenate(parts, axis=1)


_hashes = jax.jit(environment_hashes, static_argnames="radius")
