"""Predictions for whole files, chunk by chunk.

One can
- write a table's rows with what a model expects of each (`write_predictions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from chainrule.fingerprints.answers import Answers, OnInvalid, Tally, write_answers
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.outputs import OutputFormat
from chainrule.fingerprints.prediction import knows_spread, predict, predict_distribution
from chainrule.fingerprints.saved import SavedModel
from chainrule.fingerprints.tables import Table


def write_predictions(
    tables: Iterable[Table],
    saved: SavedModel,
    out: str | Path,
    *,
    on_invalid: OnInvalid = "keep",
    format: OutputFormat | None = None,
) -> Tally:
    """Write every row with the prediction of each target, in a column `predicted_NAME`.

    Where the model knows its spread, `predicted_NAME_std` is the standard deviation. Rows that are no
    molecule are empty there, and the column `reason` says why.

    Args:
        tables: the chunks of a file, see `read_chunks`.
        out, format: see `output`.
    """
    names = list(_names(saved))
    columns = len(saved.targets)

    def compute(molecules: Molecules) -> Float[np.ndarray, "rows numbers"]:
        if knows_spread(saved.model):
            mean, std = predict_distribution(saved.model, molecules)
            both = [a.reshape(len(molecules), columns) for a in (mean, std)]
            return np.stack(both, axis=2).reshape(len(molecules), 2 * columns)
        return predict(saved.model, molecules).reshape(len(molecules), columns)

    def results(found: Answers) -> dict[str, np.ndarray]:
        return dict(zip(names, found.values.T, strict=True))

    settings = {"targets": saved.targets}
    return write_answers(
        tables, out, compute, results, settings=settings, on_invalid=on_invalid, format=format
    )


def _names(saved: SavedModel) -> Iterator[str]:
    for target in saved.targets:
        yield f"predicted_{target}"
        if knows_spread(saved.model):
            yield f"predicted_{target}_std"
