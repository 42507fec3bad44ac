"""Ridge regression in float64: one decomposition for all penalties, whichever of rows and features are fewer.

One can
- predict with every one of some penalties (`ridge`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

ROWS_AT_ONCE = 2048  # of float64 copies: 34 MB for as many features


def ridge(
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, " rows"],
    x_new: Float[np.ndarray, "new features"],
    penalties: Sequence[float] | np.ndarray,
) -> Iterator[Float[np.ndarray, " new"]]:
    """Predictions for `x_new` by ridge regression with each penalty; the intercept is free.

    With x and y less their means, the weights are w = (xᵀx + penalty I)⁻¹ xᵀy = xᵀ(xxᵀ + penalty I)⁻¹ y.
    The first form has a matrix of features, the second (the dual) one of rows; the smaller is taken, and
    its eigenvectors serve every penalty.
    """
    x, x_new, y = np.asarray(x), np.asarray(x_new), np.asarray(y, np.float64)
    centre, middle = x.mean(axis=0, dtype=np.float64), y.mean()
    if len(x) > x.shape[1]:
        gram, moment = np.zeros((x.shape[1], x.shape[1])), np.zeros(x.shape[1])
        for start in range(0, len(x), ROWS_AT_ONCE):
            block = x[start : start + ROWS_AT_ONCE] - centre
            gram += block.T @ block
            moment += block.T @ (y[start : start + ROWS_AT_ONCE] - middle)
        values, vectors = np.linalg.eigh(gram)
        rotated = vectors.T @ moment
        directions = vectors
    else:
        centred = x - centre
        values, vectors = np.linalg.eigh(centred @ centred.T)
        rotated = vectors.T @ (y - middle)
        directions = centred.T @ vectors
    kernel = (x_new - centre) @ directions
    for penalty in penalties:
        yield middle + kernel @ (rotated / (values + penalty))
