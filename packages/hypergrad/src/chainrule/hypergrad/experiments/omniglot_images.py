"""Omniglot's drawings of characters, from the zip file in which they are published.

One can
- read the alphabets of a file (`read_alphabets`), from where `find` finds it,
- make tasks of them, each alphabet and the same turned by 90 degrees (`make_tasks`).

Nothing is downloaded. The file images_background_small1.zip (1.3 MB, MIT licence) is to be had at
https://github.com/brendenlake/omniglot, in the folder python; its SHA-256 begins with f38eb80f801274ac. It
has 5 alphabets, 136 characters, each drawn by 20 people.

Source: B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 2015. Turned copies as tasks: Maclaurin et al., section 4.3.
"""

import io
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NAME = "images_background_small1.zip"
SOURCE = "https://github.com/brendenlake/omniglot, python/" + NAME + " (MIT licence)"


class Alphabet(NamedTuple):
    """The drawings of one alphabet."""

    name: str
    drawings: Float[np.ndarray, "characters drawings side side"]  # 1 is ink, 0 paper


def find(path: Path | None = None) -> Path:
    """The zip file: that given, or the one in $CHAINRULE_DATA/omniglot.

    Raises:
        FileNotFoundError: with what to put where.
    """
    folder = os.environ.get("CHAINRULE_DATA")
    places = [path] if path else [Path(folder) / "omniglot" / NAME] if folder else []
    for place in places:
        if place.is_file():
            return place
    missing = f"there is no file {places[0]}" if places else "neither --path nor $CHAINRULE_DATA is set"
    raise FileNotFoundError(
        f"omniglot: {missing}. Get {SOURCE}, and put it into $CHAINRULE_DATA/omniglot, or give its --path"
    )


def read_alphabets(path: Path, side: int) -> list[Alphabet]:
    """The alphabets in order of their names, each drawing averaged down to side x side pixels."""
    if not 1 <= side <= 105:
        raise ValueError(f"omniglot: side {side} must be from 1 to 105 pixels, which the drawings have")
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    with zipfile.ZipFile(path) as file:
        for name in sorted(file.namelist()):
            if not name.endswith(".png"):
                continue
            alphabet, character, _ = PurePosixPath(name).parts[-3:]
            drawing = _drawing(file.read(name), side)
            found.setdefault(alphabet, {}).setdefault(character, []).append(drawing)
    counts = {len(drawings) for characters in found.values() for drawings in characters.values()}
    if len(counts) != 1:
        raise ValueError(
            f"omniglot: {path} must hold alphabet/character/drawing.png with equally many drawings of all "
            f"characters, it has {sorted(counts) or 'no drawings'}; get {SOURCE}"
        )
    return [Alphabet(name, np.array([*characters.values()])) for name, characters in found.items()]


def make_tasks(alphabets: list[Alphabet]) -> list[Float[np.ndarray, "characters drawings pixels"]]:
    """All alphabets, then all of them turned, in the same order."""
    turned = [np.rot90(alphabet.drawings, axes=(2, 3)) for alphabet in alphabets]
    flat = lambda drawings: drawings.reshape(*drawings.shape[:2], -1)
    return [*(flat(alphabet.drawings) for alphabet in alphabets), *map(flat, turned)]


def _drawing(png: bytes, side: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("L").resize((side, side), Image.Resampling.BOX)
        return 1 - np.asarray(small, np.float32) / 255
