"""Training that survives a kill: the state of `fit`, in a folder, by orbax.

    Folder(path, about)        where one run is kept; `about` says which
    .save(step, arrays, notes)  replace what is kept, whole or not at all
    .restore(like)              (arrays, notes), bit for bit; None where nothing is kept

Needs `pip install chainrule-svae[checkpoints]`.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


class Folder:
    """The latest state of one run.

    Raises:
        ModuleNotFoundError: without orbax.
    """

    def __init__(self, path: str | Path, about: dict[str, Any]):
        """
        Args:
            path: made when first saved to.
            about: numbers and words that tell this run from others; a run goes on only where they are equal.
        """
        try:
            import orbax.checkpoint as ocp
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"checkpoint={str(path)!r} needs orbax: pip install chainrule-svae[checkpoints]"
            ) from error
        self.path, self.about, self._ocp = Path(path).expanduser().absolute(), about, ocp

    def save(self, step: int, arrays: PyTree, notes: dict[str, Any]) -> None:
        """Replace what is kept, once this is written whole.

        Args:
            step: rises from call to call.
            arrays: a pytree of arrays, typed keys among them.
            notes: numbers, words and lists.
        """
        args = self._ocp.args
        about = self.about | {"shapes": _shapes(arrays)}
        numbers = jax.tree.map(_numbers, jax.tree.leaves(arrays))
        with self._manager() as manager:
            manager.save(
                step,
                args=args.Composite(
                    arrays=args.StandardSave(numbers), notes=args.JsonSave({"about": about, "notes": notes})
                ),
            )

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """What was saved last, or None.

        Args:
            like: arrays of the shapes and types that were saved.

        Raises:
            ValueError: if what is kept is another run, or arrays of other shapes.
        """
        if not self.path.exists():
            return None
        args = self._ocp.args
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            kept = manager.restore(step, args=args.Composite(notes=args.JsonRestore())).notes
            for name, own in ({"shapes": _shapes(like)} | self.about).items():
                other = kept["about"].get(name)
                if other == own:
                    continue
                if name == "shapes" and len(other) == len(own):  # those that differ, of many
                    differ = [pair for pair in zip(other, own, strict=True) if pair[0] != pair[1]]
                    other, own = zip(*differ, strict=True)
                raise ValueError(
                    f"{self.path} holds a run with {name} {other}, and this one has {own}: give another "
                    "checkpoint, or remove that folder to start anew"
                )
            leaves, structure = jax.tree.flatten(like)
            numbers = [_numbers(leaf) for leaf in leaves]
            found = manager.restore(step, args=args.Composite(arrays=args.StandardRestore(numbers))).arrays
        restored = [_like(number, leaf) for number, leaf in zip(found, leaves, strict=True)]
        return jax.tree.unflatten(structure, restored), kept["notes"]

    def _manager(self):
        options = self._ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return self._ocp.CheckpointManager(self.path, options=options)


def digest(*arrays: Any) -> str:
    """A word that tells arrays from others."""
    found = hashlib.sha256()
    for array in arrays:
        numbers = np.ascontiguousarray(_numbers(array))
        found.update(f"{numbers.shape} {numbers.dtype}".encode() + numbers.tobytes())
    return found.hexdigest()[:16]


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf):
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(numbers, leaf):
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else numbers


def _shapes(arrays):
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in map(jnp.asarray, jax.tree.leaves(arrays))]
