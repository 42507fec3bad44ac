"""Plots of the experiments, in one style; the numbers behind each are saved beside it, as CSV.

One can
- show learned images, penalties or gains (`plot_images`),
- show how tasks share what they learn (`plot_sharing`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from chainrule.hypergrad.experiments.whole_files import write_columns, write_rows, write_whole

STYLE = {
    "figure.dpi": 150,
    "font.size": 10,
}
INCH = 2.6  # width of a panel


def plot_images(
    path: Path,
    pictures: Float[np.ndarray, "images side side"],
    captions: Sequence[str],
    title: str,
    quantity: str,
) -> list[Path]:
    """Images with one scale of grey for all; in the CSV a column for each, its pixels row by row.

    Args:
        path: of the picture, without suffix.
        quantity: what the grey means, with its unit.
    """
    columns = min(len(pictures), 5)
    rows = -(-len(pictures) // columns)
    size = (max(1.3 * columns, 3.2) + 1.0, 1.5 * rows + 0.8)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        ends = {"vmin": pictures.min(), "vmax": pictures.max(), "cmap": "gray"}
        for axes in grid:
            axes.set_axis_off()
        for axes, picture, caption in zip(grid, pictures, captions, strict=False):
            drawn = axes.imshow(picture, **ends)
            axes.set_title(caption, fontsize=9)
        figure.colorbar(drawn, ax=grid.tolist(), label=quantity, shrink=0.8)
        figure.suptitle(title, fontsize=10)
        flat = dict(zip(captions, pictures.reshape(len(pictures), -1), strict=True))
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), flat)]


def plot_sharing(
    path: Path, correlations: Float[np.ndarray, "layers tasks tasks"], tasks: Sequence[str], title: str
) -> list[Path]:
    """A matrix of correlations between tasks for each layer."""
    layers = [f"layer {number}" for number in range(1, len(correlations) + 1)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(layers) + 2.2, 4.2), layout="constrained")
        (grid,) = figure.subplots(1, len(layers), squeeze=False, sharey=True)
        places = np.arange(len(tasks))
        for axes, layer, matrix in zip(grid, layers, correlations, strict=True):
            drawn = axes.imshow(matrix, vmin=-1, vmax=1, cmap="gray_r")
            axes.set_title(layer)
            axes.set_xticks(places, tasks, rotation=90, fontsize=7)
            axes.set_yticks(places, tasks, fontsize=7)
        figure.colorbar(drawn, ax=grid.tolist(), label="correlation of weights between tasks", shrink=0.7)
        figure.suptitle(title)
        rows = [
            (layer, task, *matrix[place])
            for layer, matrix in zip(layers, correlations, strict=True)
            for place, task in enumerate(tasks)
        ]
        table = write_rows(path.with_suffix(".csv"), ["layer", "task", *tasks], rows)
        return [_save(figure, path), table]


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return write_whole(path.with_suffix(".png"), content.getvalue())
