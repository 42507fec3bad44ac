"""The state of a run in one file of plain arrays, there whole or not at all, whenever the process is killed.

RunFile(folder, identity).write(state, columns), .read(like)      to the disk and back, bit for bit
digests(**trees)                                                  tells apart what runs begin with

The file is folder/fit.npz: `numpy.load` opens it. `columns` are the arrays of the history by their names; the
leaves of the state are state_0, state_1, ... in the order of jax.tree.leaves.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

NAME = "fit.npz"


class RunFile:
    """One run's file; a run goes on only where its identity is the same."""

    def __init__(self, folder: str | Path, identity: dict[str, Any]):
        """
        Args:
            folder: made where it is not there.
            identity: what the run depends on, in JSON's types, or numbers of NumPy.
        """
        self.path = Path(folder).expanduser().absolute() / NAME
        self.identity = {name: _in_json(setting) for name, setting in identity.items()}

    def read(self, like: PyTree) -> tuple[PyTree, dict[str, np.ndarray]] | None:
        """What was last written, the state a tree as `like` is; None where nothing was.

        Raises:
            ValueError: the folder holds another run, or something else than a run.
        """
        folder = self.path.parent
        if not self.path.exists():
            if folder.exists() and any(path.name != self._part.name for path in folder.iterdir()):
                raise ValueError(f"fit: {folder} is not empty and holds no run; give another folder")
            return None
        with np.load(self.path, allow_pickle=False) as file:
            found = dict(file)
        identity = json.loads(str(found.pop("identity")))
        for name in {**identity, **self.identity}:
            if identity.get(name) != self.identity.get(name):
                raise ValueError(
                    f"fit: {folder} holds another run, with {name} {identity.get(name)}, this one has "
                    f"{self.identity.get(name)}; give another folder, or delete {NAME} to begin anew"
                )
        leaves, structure = jax.tree.flatten(like)
        state = [_array(found.pop(f"state_{i}"), leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, state), found

    def prepare(self) -> None:
        """Makes the folder, and fails where no state could be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()

    def write(self, state: PyTree, columns: dict[str, np.ndarray]) -> None:
        """The file has the old content or the new."""
        arrays: dict[str, Any] = {f"state_{i}": _plain(x) for i, x in enumerate(jax.tree.leaves(state))}
        arrays |= columns | {"identity": np.asarray(json.dumps(self.identity))}
        self.prepare()
        with self._part.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._part, self.path)

    @property
    def _part(self) -> Path:
        return self.path.with_suffix(".part")


def digests(**trees: PyTree) -> dict[str, str]:
    """A word for each tree, by the shapes, dtypes and numbers of its leaves."""
    words = {}
    for name, tree in trees.items():
        content = hashlib.sha256(str(jax.tree.structure(tree)).encode())
        for leaf in jax.tree.leaves(tree):
            array = np.ascontiguousarray(_plain(leaf))
            content.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
        words[name] = content.hexdigest()[:24]
    return words


def _in_json(setting: Any) -> Any:
    return setting.item() if isinstance(setting, np.generic) else setting


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(x: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _array(stored: np.ndarray, like: Array) -> Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(stored), impl=jax.random.key_impl(like))
    return jax.numpy.asarray(stored.view(like.dtype))  # bfloat16 comes back as bytes
