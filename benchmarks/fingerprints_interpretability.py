"""What the most and the least soluble feature respond to, counted by SMARTS over seeds.

For each seed (of the split, the weights and the batches) a neural fingerprint with a linear head is
trained on measured solubilities, with much weight decay: without it, the weights of different features
cancel, and no single one says much. Then the features that pull predictions up and down most are taken
by `most_predictive_features`, their five leading fragments by `top_fragments`; neither looks at a SMARTS.
Counted are the fragments that hold -OH, and those that hold a carbon between two fused aromatic rings
or a chlorinated aromatic one; beside each, the share among all atoms' surroundings of the same radii.

    python benchmarks/fingerprints_interpretability.py            seeds 0 to 4
    python benchmarks/fingerprints_interpretability.py 5 6 7 8 9  others
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flax import nnx
from rdkit import Chem

from chainrule.fingerprints import (
    Fragment,
    PropertyModel,
    load,
    most_predictive_features,
    predict,
    random_splits,
    top_fragments,
    train,
)
from chainrule.fingerprints.explain import surroundings
from chainrule.fingerprints.methods import NEURAL_TRAINING

FRAGMENTS = 5
WEIGHT_DECAY = 1.0  # as of the demo's pictures; costs a third of the accuracy
HYDROXYL = ("[OX2H]",)
FUSED_OR_CHLORINATED = ("c(:c)(:c):c", "c-Cl")


def main() -> None:
    seeds = [int(argument) for argument in sys.argv[1:]] or list(range(5))
    dataset = load("solubility")
    print(f"{len(dataset)} molecules, {FRAGMENTS} fragments of each feature, weight decay {WEIGHT_DECAY}")
    print("seed  test MSE   -OH in the most soluble (base)   fused or chlorinated in the least (base)")
    counts = []
    for seed in seeds:
        model, test_mse = trained(dataset, seed)
        up, down = most_predictive_features(model, dataset.molecules)
        soluble, insoluble = top_fragments(model, dataset.molecules, [*up, *down], FRAGMENTS)
        oh, oh_base = share(dataset.molecules, soluble.fragments, HYDROXYL)
        ring, ring_base = share(dataset.molecules, insoluble.fragments, FUSED_OR_CHLORINATED)
        counts.append((oh, ring))
        print(
            f"{seed:4}{test_mse:10.2f}{oh:10} of {FRAGMENTS} ({oh_base:.2f}){ring:25} of {FRAGMENTS} "
            f"({ring_base:.2f})",
            flush=True,
        )
        print("      up:  ", " ".join(fragment.smiles for fragment in soluble.fragments))
        print("      down:", " ".join(fragment.smiles for fragment in insoluble.fragments), flush=True)
    mean, spread = np.mean(counts, axis=0), np.std(counts, axis=0)
    for name, column in (("-OH", 0), ("fused or chlorinated", 1)):
        majority = sum(count[column] > FRAGMENTS / 2 for count in counts)
        print(
            f"{name}: {mean[column]:.1f} +- {spread[column]:.1f} of {FRAGMENTS}; "
            f"a majority in {majority} of {len(seeds)} seeds"
        )


def trained(dataset, seed: int) -> tuple[PropertyModel, float]:
    """A model of this seed, and its mean squared error on the test rows of its split."""
    (split,) = random_splits(len(dataset), 1, seed=seed)
    config = replace(NEURAL_TRAINING, weight_decay=WEIGHT_DECAY, seed=seed)
    model = PropertyModel(hidden=0, rngs=nnx.Rngs(seed))
    model = train(model, dataset.molecules, dataset.targets, split.train, split.validation, config).model
    errors = predict(model, dataset.molecules.take(split.test)) - dataset.targets[split.test]
    return model, float(np.mean(errors**2))


def share(molecules, fragments: Sequence[Fragment], smarts: Sequence[str]) -> tuple[int, float]:
    """How many fragments hold a match, and the share of all atoms' surroundings of their radii that do."""
    patterns = [Chem.MolFromSmarts(text) for text in smarts]
    matches = [
        [set(match) for pattern in patterns for match in mol.GetSubstructMatches(pattern)]
        for mol in map(Chem.MolFromSmiles, molecules.smiles)
    ]
    found = sum(holds(fragment.atoms, matches[fragment.row]) for fragment in fragments)
    bases = {radius: base(molecules, matches, radius) for radius in {f.radius for f in fragments}}
    return found, float(np.mean([bases[fragment.radius] for fragment in fragments]))


def holds(atoms, matches: Sequence[set[int]]) -> bool:
    return any(match <= set(atoms) for match in matches)


def base(molecules, matches, radius: int) -> float:
    owner = np.repeat(np.arange(len(molecules)), molecules.atoms_per_molecule)
    found = 0
    for atom, row in enumerate(owner):
        if matches[row]:
            first = int(molecules.atom_offsets[row])
            found += holds([a - first for a in surroundings(molecules, atom, radius)], matches[row])
    return found / len(owner)


if __name__ == "__main__":
    main()
