"""Data-parallel training: each device takes an equal part of every batch, and all hold the same weights.

One can
- share out rows among the devices of a mesh (`one_axis`, `shares`, `own_shares`),
- place what this process made of its parts (`place_parts`), hold arrays on all devices (`replicate`) and
  have them back on one (`local`),
- apply a function to each part where it is (`on_parts`),
- let processes agree on a number (`first_says`), or find that they do not (`check_agreement`).

Without a mesh (None) all of it does nothing: what was one array stays the same one. With several processes
(`jax.distributed`) each calls everything here with the same arguments, and none needs another's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

PARTS = "parts"  # the axis of a mesh, along which a batch is split
EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec(PARTS)


def one_axis(mesh: Mesh | None) -> Mesh | None:
    """All devices of a mesh in one row.

    Raises:
        ValueError: none of them belongs to this process.
    """
    mesh = None if mesh is None else Mesh(mesh.devices.ravel(), (PARTS,))
    if not own_shares(mesh):
        raise ValueError(
            f"no device of the mesh belongs to process {jax.process_index()}; make it of jax.devices(), or "
            "call in the processes whose devices it has"
        )
    return mesh


def in_several_processes(mesh: Mesh | None) -> bool:
    """Whether some devices are another process's."""
    return mesh is not None and len(own_shares(mesh)) < mesh.size


def shares(rows: Int[np.ndarray, " batch"], mesh: Mesh | None) -> Int[np.ndarray, "parts rows_of_part"]:
    """The rows of a batch in order, equally many for each device.

    Raises:
        ValueError: the number of devices does not divide that of the rows.
    """
    parts = mesh.size if mesh else 1
    if len(rows) % parts:
        raise ValueError(
            f"a batch of {len(rows)} rows cannot be shared equally by the {parts} devices of the mesh; give "
            f"a batch_size that {parts} divides and that is at most the number of training rows, or a mesh "
            "of other size"
        )
    return rows.reshape(parts, -1)


def own_shares(mesh: Mesh | None) -> list[int]:
    """The parts that belong to devices of this process."""
    if mesh is None:
        return [0]
    return [part for part, device in enumerate(mesh.devices) if device.process_index == jax.process_index()]


def place_parts(parts: Sequence[PyTree], mesh: Mesh | None) -> PyTree:
    """This process's parts, in order, each on its device: every array their concatenation, and split.

    Numbers in a part that point into it still do, because `on_parts` shows each device its part alone.
    """
    if mesh is None:
        (whole,) = parts
        return whole
    place = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, SPLIT))
    return jax.tree.map(lambda *arrays: place(np.concatenate(arrays)), *parts)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays on all devices."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, EVERYWHERE)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda _: leaf, dtype=leaf.dtype),
        tree,
    )


def local(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays that are on all devices, as one of this process has them."""
    return tree if mesh is None else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def on_parts(
    function: Callable[[PyTree, PyTree], Array], state: PyTree, batch: PyTree, mesh: Mesh | None, *, axis: int
) -> Array:
    """function(state, part) for the part of each device, concatenated along an axis; for use under jit.

    Args:
        state: on all devices. Its derivative is the sum over the parts.
        batch: from `place_parts`.
        axis: of the result, counted from its end (negative).
    """
    if mesh is None:
        return function(state, batch)
    of_part = lambda state, part: jnp.moveaxis(function(state, part), axis, 0)
    # Not every function that a user's model is made of says what varies among devices: nothing is checked.
    each = jax.shard_map(of_part, mesh=mesh, in_specs=(EVERYWHERE, SPLIT), out_specs=SPLIT, check_vma=False)
    return jnp.moveaxis(each(state, batch), 0, axis)


def first_says(number: float, mesh: Mesh | None) -> float:
    """The number that the first process has.

    Processors may differ in the last digit, and what is decided by it must be decided alike.
    """
    if mesh is None or not in_several_processes(mesh):
        return number
    return float(np.frombuffer(_from_all(np.float64(number).tobytes(), mesh)[0])[0])


def check_agreement(mesh: Mesh | None, **things: PyTree) -> None:
    """That all processes were given the same.

    Args:
        things: pytrees of arrays and numbers, by name.

    Raises:
        ValueError: they were not; raised in all of them, so that none is left waiting.
    """
    if mesh is None or not in_several_processes(mesh):
        return
    for name, thing in things.items():
        said = _from_all(_digest(thing), mesh)
        for part, other in enumerate(said):
            if other != said[0]:
                process = mesh.devices[part].process_index
                raise ValueError(
                    f"process {process} was given other {name} than process {mesh.devices[0].process_index}; "
                    "every process must call with the same arguments"
                )


def _from_all(message: bytes, mesh: Mesh) -> list[bytes]:
    """What the process of each device says, known to all; messages of one length."""
    own = np.frombuffer(message, np.uint8)[None]
    parts = place_parts([own] * len(own_shares(mesh)), mesh)
    return [said.tobytes() for said in np.asarray(_spread(parts, mesh))]


@partial(jax.jit, static_argnames="mesh")
def _spread(array: Array, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, EVERYWHERE))


def _digest(tree: PyTree) -> bytes:
    digest = hashlib.sha256(repr(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{leaf.shape} {leaf.dtype}".encode() + leaf.tobytes())
    return digest.digest()
