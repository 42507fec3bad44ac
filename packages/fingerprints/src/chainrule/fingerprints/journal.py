"""A file of JSON lines that a killed program finds again: what was done, one line each.

One can
- go on with what an earlier run wrote, or begin anew (`Journal`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from chainrule.core.experiments.whole_files import read_json_lines
from chainrule.fingerprints.molecules import FEATURIZER_VERSION, Molecules
from chainrule.fingerprints.whole_files import write_whole


class Journal:
    """Entries in the order in which they were written; without a path they are kept in memory only."""

    def __init__(self, path: Path | None, identity: Mapping[str, Any], *, resume: bool):
        """
        Args:
            path: the file, whose folder is made.
            identity: what the entries depend on, in JSON's types; a run goes on only with the same.
            resume: go on with what the file holds, if it is there; else begin anew.

        Raises:
            ValueError: the file holds something else.
        """
        self.path = path
        self.entries: list[dict[str, Any]] = []
        if path is None:
            return
        first = json.dumps(dict(identity))
        lines = read_json_lines(path) if resume and path.exists() else []
        if lines and json.dumps(lines[0]) != first:
            raise ValueError(
                f"{path} holds a run of {json.dumps(lines[0])}, this one is of {first}; give another --out, "
                "or leave out --resume (resume=False) to replace it"
            )
        self.entries = lines[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(line + "\n" for line in (first, *map(json.dumps, self.entries))))

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def digest(molecules: Molecules, targets: Float[np.ndarray, "rows ..."]) -> str:
    """Tells apart tables of molecules and targets, and versions of what is read of a molecule."""
    content = hashlib.sha256(json.dumps([FEATURIZER_VERSION, *molecules.smiles]).encode())
    content.update(np.ascontiguousarray(targets, np.float64).tobytes())
    return content.hexdigest()[:24]
