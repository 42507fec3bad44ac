"""Molecules on a cluster: a Ray dataset of SMILES becomes one of graphs.

One can
- featurise a Ray dataset (`featurize_dataset`),
- make a table of a batch of its rows, ready to be collated (`join_rows`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from chainrule.fingerprints.molecules import Molecules, as_text, featurize

GRAPH_COLUMNS = ("atoms", "bonds", "bond_ends", "invariants", "bond_types")


def featurize_dataset(dataset: Any, *, smiles_column: str = "smiles", batch_size: int = 4096) -> Any:
    """Featurise a Ray dataset: `featurize` under `map_batches`, lazily, on all of a cluster.

    Args:
        dataset: a `ray.data.Dataset` with a column of SMILES.
        smiles_column: its name.
        batch_size: rows of a task.

    Returns:
        The dataset with the columns `valid`, `reason`, `atoms`, `bonds`, `bond_ends` (numbered within the
        molecule), `invariants`, `bond_types`. `join_rows` makes a table of a batch of it.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ImportError("featurize_dataset needs Ray: pip install 'chainrule-fingerprints[ray]'") from error
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(f"dataset is {type(dataset).__name__}, not ray.data.Dataset; use ray.data.from_items")
    split = partial(split_rows, smiles_column=smiles_column)
    return dataset.map_batches(split, batch_size=batch_size, batch_format="numpy")


def split_rows(batch: Mapping[str, Any], *, smiles_column: str) -> dict[str, Any]:
    """A batch of columns and, for each row, its graph in columns of arrays."""
    taken = {"valid", "reason", *GRAPH_COLUMNS} & set(batch)
    if smiles_column not in batch or taken:
        wrong = f"has {sorted(taken)} already" if taken else f"has no {smiles_column!r}"
        raise ValueError(
            f"smiles_column={smiles_column!r}: the dataset {wrong}; its columns are {list(batch)}"
        )
    table = featurize(list(batch[smiles_column]))
    first_atom = np.repeat(table.atom_offsets[:-1], np.diff(table.bond_offsets))
    columns = {name: getattr(table, name) for name in GRAPH_COLUMNS}
    columns["bond_ends"] = (table.bond_ends - first_atom[:, None]).astype(np.int32)
    offsets = {
        name: table.bond_offsets if name.startswith("bond") else table.atom_offsets for name in columns
    }
    reasons = np.array(table.reasons, object)
    pieces = {name: _pieces(array, offsets[name]) for name, array in columns.items()}
    return {**batch, "valid": table.valid, "reason": reasons, **pieces}


def join_rows(batch: Mapping[str, Any], *, smiles_column: str = "smiles") -> Molecules:
    """The table of a batch, as `iter_batches(batch_format="numpy")` of `featurize_dataset` gives it."""
    atom_offsets, bond_offsets = (
        np.cumsum([0, *map(len, batch[name])]) for name in ("invariants", "bond_types")
    )
    first_atom = np.repeat(atom_offsets[:-1], np.diff(bond_offsets))
    joined = {name: np.concatenate(list(batch[name])) for name in GRAPH_COLUMNS}
    joined["bond_ends"] = (joined["bond_ends"] + first_atom[:, None]).astype(np.int32)
    return Molecules(
        smiles=tuple(map(as_text, batch[smiles_column])),
        valid=np.array(batch["valid"], bool),
        reasons=tuple(map(str, batch["reason"])),
        atom_offsets=atom_offsets,
        bond_offsets=bond_offsets,
        **joined,
    )


def _pieces(array: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The items of each row, as an array of arrays."""
    pieces = np.empty(len(offsets) - 1, object)
    for row, (start, stop) in enumerate(itertools.pairwise(offsets)):
        pieces[row] = array[start:stop]
    return pieces
