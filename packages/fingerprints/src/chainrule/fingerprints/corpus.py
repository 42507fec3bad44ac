"""Corpora: more molecules than one wants to hold in memory, as a folder of tables.

One can
- featurise a file or a stream of SMILES to shards, in several processes, and go on after a kill
  (`featurize_corpus` -> `Corpus`),
- read the shards of a finished corpus, one at a time (`open_corpus`, `Corpus.shard`).

A corpus is a folder: `shard-00000.npz` and so on, each a `Molecules` that is written once, and
`manifest.json`, which lists the finished shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.fingerprints.molecules import (
    FEATURIZER_VERSION,
    Molecules,
    as_text,
    load_molecules,
    save_molecules,
)
from chainrule.fingerprints.parallel import ordered_map
from chainrule.fingerprints.tables import Format, Table, read_chunks
from chainrule.fingerprints.whole_files import write_whole

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """What the manifest says of one finished shard."""

    file: str  # its name within the folder
    rows: int
    invalid: int  # rows that became no graph
    source_sha256: str  # of its rows' SMILES
    sha256: str  # of the file


@dataclass(frozen=True)
class Corpus:
    """A finished corpus: `len` counts its rows, to iterate gives its shards."""

    folder: Path
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __iter__(self) -> Iterator[Molecules]:
        return map(self.shard, range(len(self.shards)))

    @property
    def invalid(self) -> int:
        """Number of rows that became no graph."""
        return sum(shard.invalid for shard in self.shards)

    def shard(self, index: int) -> Molecules:
        """The table of one shard.

        Raises:
            ValueError: the file is missing, or is not what was written.
        """
        shard = self.shards[index]
        if not _is_whole(self.folder, shard):
            path = self.folder / shard.file
            raise ValueError(f"{path} is missing or changed; featurize_corpus with its source makes it anew")
        return load_molecules(self.folder / shard.file)


def featurize_corpus(
    source: str | Path | Iterable[Any],
    folder: str | Path,
    *,
    smiles_column: str | None = None,
    format: Format | None = None,
    encoding: str = "utf-8-sig",
    shard_rows: int = 65_536,
    processes: int = 1,
    resume: bool = True,
    log: Callable[[Shard], None] | None = None,
) -> Corpus:
    """Featurise SMILES to shards in a folder; what an earlier call finished there is kept.

    Each process holds one shard at a time: memory does not grow with the source.

    Args:
        source: a file, of those that `read_chunks` reads; or the SMILES themselves, in the same order at
            every call.
        folder: made if need be.
        smiles_column, format, encoding: of a file, see `read_chunks`.
        shard_rows: rows of a shard, the last one aside.
        processes: how many shards are made at a time.
        resume: False replaces a corpus that is there.
        log: told of every shard as soon as it is in the manifest; those kept are told as well.

    Returns:
        The corpus. Invalid rows are in it, with their reasons.

    Raises:
        ValueError: the folder holds another corpus (source, shard size or featuriser), or something else;
            the file is no table, says `read_chunks`. What was finished until then is kept.
        RuntimeError: a process died. What was finished is kept.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows} must be at least 1")
    folder = Path(folder).expanduser()
    if isinstance(source, str | Path):
        tables = read_chunks(source, smiles_column=smiles_column, format=format, encoding=encoding)
        first = next(tables)  # what is no table is refused before anything is written
        drawn, cells = first.drawn, _cells(itertools.chain([first], tables))
    else:
        drawn, cells = False, source
    manifest = _go_on(folder, shard_rows) if resume else _clear(folder)
    kept = [Shard(**shard) for shard in manifest["shards"]] if manifest else []
    folder.mkdir(parents=True, exist_ok=True)
    if manifest is None:
        _write_manifest(folder, shard_rows, [], complete=False)
    finished: list[Shard] = []
    tasks = _tasks(map(as_text, cells), drawn, folder, shard_rows, kept)
    for shard in ordered_map(_make_shard, tasks, processes=processes):
        if manifest and manifest["complete"] and len(finished) == len(kept):
            raise _another(folder, f"{len(kept)} shards, where this source has rows for more")
        finished.append(shard)
        if shard not in kept:
            _write_manifest(folder, shard_rows, [*finished, *kept[len(finished) :]], complete=False)
        if log is not None:
            log(shard)
    if len(finished) < len(kept):
        raise _another(folder, f"{len(kept)} shards, where this source has rows for {len(finished)}")
    _write_manifest(folder, shard_rows, finished, complete=True)
    return Corpus(folder, tuple(finished))


def open_corpus(folder: str | Path) -> Corpus:
    """The corpus that `featurize_corpus` finished in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not finished, or made by another featuriser.
    """
    folder = Path(folder).expanduser()
    manifest = _read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"{folder} holds no corpus; featurize_corpus makes one")
    if manifest["featurizer_version"] != FEATURIZER_VERSION:
        raise _another(
            folder, f"featurizer_version {manifest['featurizer_version']}, not {FEATURIZER_VERSION}"
        )
    if not manifest["complete"]:
        raise ValueError(f"{folder} is not finished; featurize_corpus with the same source goes on")
    return Corpus(folder, tuple(Shard(**shard) for shard in manifest["shards"]))


def _cells(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        yield from table.smiles


@dataclass(frozen=True)
class _Task:
    path: Path
    rows: tuple[str, ...]
    drawn: bool  # see `Table`
    kept: Shard | None  # the shard that is there already


def _tasks(
    rows: Iterator[str], drawn: bool, folder: Path, shard_rows: int, kept: Sequence[Shard]
) -> Iterator[_Task]:
    for index in itertools.count():
        part = tuple(itertools.islice(rows, shard_rows))
        if not part:
            return
        there = kept[index] if index < len(kept) else None
        if there is not None and there.source_sha256 != _digest_of_rows(part):
            raise _another(folder, f"{there.file} of other SMILES than rows {index * shard_rows} on")
        yield _Task(folder / f"shard-{index:05d}.npz", part, drawn, there)


def _make_shard(task: _Task) -> Shard:
    if task.kept is not None and _is_whole(task.path.parent, task.kept):
        return task.kept
    molecules = Table("", 0, {"smiles": list(task.rows)}, "smiles", task.drawn).molecules()
    save_molecules(task.path, molecules)
    return Shard(
        file=task.path.name,
        rows=len(molecules),
        invalid=int(np.sum(~molecules.valid)),
        source_sha256=_digest_of_rows(task.rows),
        sha256=_digest_of_file(task.path),
    )


def _digest_of_rows(rows: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.file
    return path.is_file() and _digest_of_file(path) == shard.sha256


def _go_on(folder: Path, shard_rows: int) -> dict[str, Any] | None:
    """The manifest in a folder, if it is of a corpus like the one to be made; None where there is none."""
    manifest = _read_manifest(folder)
    if manifest is None:
        _refuse_other_files(folder)
        return None
    for name, value in {"featurizer_version": FEATURIZER_VERSION, "shard_rows": shard_rows}.items():
        if manifest[name] != value:
            raise _another(folder, f"{name} {manifest[name]}, not {value}")
    for part in folder.glob("*.part"):  # what a kill left
        part.unlink()
    return manifest


def _clear(folder: Path) -> None:
    """Remove a corpus, and nothing else."""
    if _read_manifest(folder) is None:
        _refuse_other_files(folder)
    for file in (*folder.glob("shard-*"), folder / MANIFEST):
        file.unlink(missing_ok=True)


def _refuse_other_files(folder: Path) -> None:
    if folder.exists() and any(file.suffix != ".part" for file in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no corpus; give another folder")


def _another(folder: Path, found: str) -> ValueError:
    way_out = "give another folder, or resume=False to replace it"
    return ValueError(f"{folder} holds a corpus with {found}; {way_out}")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return manifest if isinstance(manifest, dict) and "featurizer_version" in manifest else None


def _write_manifest(folder: Path, shard_rows: int, shards: Sequence[Shard], *, complete: bool) -> None:
    manifest = {
        "featurizer_version": FEATURIZER_VERSION,
        "shard_rows": shard_rows,
        "complete": complete,
        "rows": sum(shard.rows for shard in shards),
        "invalid": sum(shard.invalid for shard in shards),
        "source_sha256": _digest_of_rows([shard.source_sha256 for shard in shards]),
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
