"""The most similar molecules of a library for every row of a table, from file to file.

One can
- make a library of a table (`library_of`), or take the .npz of its fingerprints (`load_library`), which is
  read in no time,
- write the neighbours of every row of a table (`write_neighbors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt32

from chainrule.fingerprints.answers import REASON, Answers, OnInvalid, Tally, answer
from chainrule.fingerprints.archives import Texts, read_archive
from chainrule.fingerprints.fingerprinting import Circular
from chainrule.fingerprints.molecules import FEATURIZER_VERSION
from chainrule.fingerprints.outputs import OutputFormat, output
from chainrule.fingerprints.similarity import most_similar, pack_bits
from chainrule.fingerprints.tables import Table

QUERIES = 256  # searched for at a time: their similarities to a block of the library take 64 MB


class Library(NamedTuple):
    """The molecules to search among."""

    fingerprints: UInt32[np.ndarray, "molecules words"]  # packed
    rows: Int[np.ndarray, " molecules"]  # where these are in the file
    smiles: Sequence[str] | Texts  # of all rows of the file
    rule: Circular  # how the fingerprints were made, as the queries' must be
    tally: Tally


def library_of(tables: Iterable[Table], rule: Circular, *, on_invalid: OnInvalid = "keep") -> Library:
    """A library of all rows of a table that have a fingerprint.

    Raises:
        ValueError: no row has one; or, with on_invalid="fail", one has none.
    """
    tally, packed, rows, smiles = Tally(), [], [], []
    source = ""
    for table in tables:
        found = answer(table, rule)
        tally, source = tally.plus(found), found.source
        smiles.extend(found.smiles)
        kept = found.settled("fail" if on_invalid == "fail" else "drop")
        packed.append(pack_bits(kept.values))
        rows.append(kept.rows)
    return _not_empty(source, Library(np.concatenate(packed), np.concatenate(rows), smiles, rule, tally))


def load_library(path: str | Path, *, on_invalid: OnInvalid = "keep") -> Library:
    """The library in an .npz that `write_fingerprints` wrote.

    Raises:
        ValueError: it is another file, its fingerprints are not binary, or of molecules as another version
            sees them; or as for `library_of`.
    """
    columns, valid, settings = read_archive(path)
    smiles = columns.get(settings.pop("smiles_column", ""))
    packed = columns.get("fingerprint")
    if settings.get("counts", True) or not isinstance(smiles, Texts) or not isinstance(packed, np.ndarray):
        raise ValueError(
            f"{path} has no binary circular fingerprints of SMILES, which are what is compared: write it by "
            "`fingerprint`, without --counts and without --model"
        )
    version = settings.pop("featurizer_version", None)
    if version != FEATURIZER_VERSION:
        raise ValueError(
            f"{path} was made with featurizer_version {version}, this version has {FEATURIZER_VERSION}; "
            "write it again by `fingerprint`"
        )
    if on_invalid == "fail" and not valid.all():
        first = int(np.argmin(valid))
        raise ValueError(f"row {first} of {path} has no fingerprint; give --on-invalid keep or drop")
    rule = Circular(**settings)
    words = -(-rule.length // 32)
    if packed.dtype != np.uint32 or packed.shape[1:] != (words,):
        raise ValueError(
            f"{path} has fingerprints of {packed.dtype}{list(packed.shape[1:])}, where {rule.length} entries "
            f"are uint32[{words}]; write it again by `fingerprint`"
        )
    rows = np.flatnonzero(valid)
    tally = Tally(len(valid), len(valid) - len(rows))
    packed = packed if valid.all() else packed[rows]
    return _not_empty(str(path), Library(packed, rows, smiles, rule, tally))


def _not_empty(source: str, library: Library) -> Library:
    if not len(library.rows):
        rows = library.tally.rows
        raise ValueError(f"{source} has no molecule to search among ({rows} rows, none of them valid)")
    return library


def write_neighbors(
    queries: Iterable[Table],
    library: Library,
    out: str | Path,
    *,
    n: int = 10,
    on_invalid: OnInvalid = "keep",
    format: OutputFormat | None = None,
) -> Tally:
    """Write for every query the `n` most similar molecules of a library, by Tanimoto's similarity.

    The columns: query, its row in its file, which begins with row 0; query_smiles; rank, from 1; row, the
    molecule's row in the library; smiles, its SMILES; similarity, from 0 to 1. Of equals the lower row
    comes first. A query without a fingerprint has one line, which ends in the reason.

    Args:
        queries: the chunks of a file, see `read_chunks`.
        n: how many; of a library with fewer molecules, all.
        out, format: see `output`.

    The search is split over all devices that there are.
    """
    n = min(n, len(library.rows))
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("devices",)) if devices > 1 else None
    database = library.fingerprints if mesh else jax.device_put(library.fingerprints)
    tally = Tally()
    with output(out, format, whole=on_invalid == "fail") as file:
        for table in queries:
            found = answer(table, library.rule)
            tally = tally.plus(found)
            found = found.settled(on_invalid)
            for first in range(0, max(1, len(found.rows)), QUERIES):
                part = found.take(np.arange(first, min(first + QUERIES, len(found.rows))))
                ranked = np.zeros((len(part.rows), n), np.int64)  # places in the library
                similarities = np.zeros((len(part.rows), n), np.float32)
                if part.valid.any():
                    packed = pack_bits(part.values[part.valid])
                    best = most_similar(packed, database, n, mesh=mesh)
                    ranked[part.valid], similarities[part.valid] = best.rows, best.similarities
                lines, valid = _lines(part, library, ranked, similarities)
                if on_invalid != "keep":
                    del lines[REASON]
                file.write(lines, valid)
    return tally


def _lines(part: Answers, library: Library, ranked: np.ndarray, similarities: np.ndarray):
    """The columns of a line for every neighbour and of one for every query without; which lines are which."""
    query, place = np.divmod(np.arange(ranked.size), ranked.shape[1])
    written = part.valid[query] | (place == 0)
    query, place, rows = query[written], place[written], library.rows[ranked.reshape(-1)[written]]
    valid = part.valid[query]
    columns = {
        "query": [str(part.rows[i]) for i in query],
        "query_smiles": [part.smiles[i] for i in query],
        "rank": place + 1,
        "row": rows,
        "smiles": [
            library.smiles[row].strip() if ok else "" for row, ok in zip(rows.tolist(), valid, strict=True)
        ],
        "similarity": similarities.reshape(-1)[written],
        REASON: ["" if ok else part.reasons[i] for i, ok in zip(query, valid, strict=True)],
    }
    return columns, valid
