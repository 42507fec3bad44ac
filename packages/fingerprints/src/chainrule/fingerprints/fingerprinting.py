"""Fingerprints of whole files, chunk by chunk.

One can
- name a circular fingerprint and compute it for molecules (`Circular`),
- write the fingerprints of a table's rows (`write_fingerprints`), circular or those of a trained model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from chainrule.fingerprints.answers import Answers, OnInvalid, Tally, write_answers
from chainrule.fingerprints.circular import circular_fingerprints, left_to_rdkit
from chainrule.fingerprints.configs import Kind
from chainrule.fingerprints.molecules import FEATURIZER_VERSION, Molecules
from chainrule.fingerprints.outputs import OutputFormat, output_format
from chainrule.fingerprints.similarity import pack_bits
from chainrule.fingerprints.tables import Table


@dataclass(frozen=True)
class Circular:
    """Which circular fingerprint is meant; called with molecules, it computes it."""

    kind: Kind = "morgan"  # the rule, "circular" being Algorithm 1 of the talk
    radius: int = 2
    length: int = 2048
    counts: bool = False

    def __call__(self, molecules: Molecules) -> Float[np.ndarray, "rows length"]:
        with warnings.catch_warnings():  # whoever knows the file's rows says which were left to RDKit
            warnings.filterwarnings("ignore", "Morgan fingerprints left to RDKit", UserWarning)
            return circular_fingerprints(
                molecules,
                rule="morgan" if self.kind == "morgan" else "algorithm 1",
                radius=self.radius,
                length=self.length,
                counts=self.counts,
            )

    def left_to_rdkit(self, molecules: Molecules) -> dict[int, str]:
        """The rows of which RDKit makes the fingerprint, if it can, with the reasons."""
        return left_to_rdkit(molecules) if self.kind == "morgan" else {}


def write_fingerprints(
    tables: Iterable[Table],
    out: str | Path,
    compute: Circular | Callable[[Molecules], np.ndarray],
    *,
    settings: Mapping[str, Any] | None = None,
    on_invalid: OnInvalid = "keep",
    format: OutputFormat | None = None,
) -> Tally:
    """Write every row with its fingerprint.

    In CSV and TSV a fingerprint takes the columns fp0, fp1 and so on. Elsewhere it is the array
    `fingerprint`; binary ones are packed by `pack_bits`, 32 entries a word. Rows without a fingerprint are
    empty there, and the column `reason` says why.

    Args:
        tables: the chunks of a file, see `read_chunks`.
        out, format: see `output`.
        compute: `Circular`, or any function of molecules that gives a vector of numbers for each.
        settings: of the computation, kept in .npz beside the featuriser's version; default: those of
            `Circular`.
    """
    format = output_format(out, format)
    is_text = format in ("csv", "tsv")

    def results(found: Answers) -> dict[str, np.ndarray]:
        values = found.values
        if isinstance(compute, Circular):
            numbers = np.where(found.valid[:, None], values, 0)
            whole = numbers.astype(np.uint32 if compute.counts else np.uint8)
            values = whole if is_text or compute.counts else pack_bits(whole)
        return {"fp" if is_text else "fingerprint": values}

    made_with = asdict(compute) if isinstance(compute, Circular) else settings or {}
    made_with = {**made_with, "featurizer_version": FEATURIZER_VERSION}
    return write_answers(
        tables, out, compute, results, settings=made_with, on_invalid=on_invalid, format=format
    )
