"""Plots, in one style; the numbers behind each are saved beside it.

One can
- show predictions against measurements (`plot_predictions`).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

STYLE = {
    "figure.figsize": (5.2, 5.0),
    "figure.dpi": 150,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
}


def plot_predictions(
    path: str | Path,
    measured: Float[np.ndarray, " rows"],
    predicted: Float[np.ndarray, " rows"],
    *,
    title: str,
    target: str,
    units: str,
) -> list[Path]:
    """Predicted against measured, with the diagonal; writes `.png`, `.svg` and `.csv`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        low = min(measured.min(), predicted.min()) - 0.5
        high = max(measured.max(), predicted.max()) + 0.5
        axes.plot([low, high], [low, high], color="0.4", linewidth=1, zorder=1)
        axes.scatter(measured, predicted, s=12, alpha=0.5, color="#1f5fa8", linewidth=0, zorder=2)
        axes.set(
            xlim=(low, high),
            ylim=(low, high),
            aspect="equal",
            xlabel=f"measured {target} ({units})",
            ylabel=f"predicted {target} ({units})",
            title=title,
        )
        files = [Path(f"{path}.png"), Path(f"{path}.svg")]
        for file in files:
            figure.savefig(file)
    table = Path(f"{path}.csv")
    np.savetxt(
        table,
        np.stack([measured, predicted], axis=1),
        delimiter=",",
        header=f"measured ({units}),predicted ({units})",
        comments="",
        fmt="%.4f",
    )
    return [*files, table]
