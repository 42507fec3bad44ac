"""Plots, in one style; the numbers behind each are saved beside it.

One can
- show predictions against measurements (`plot_predictions`),
- show what random weights make of fingerprints (`plot_random_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def plot_random_weights(
    path: str | Path,
    circular: Float[np.ndarray, " pairs"],
    neural: Mapping[float, Float[np.ndarray, " pairs"]],
    curves: Sequence[Any],
    title: str,
    units: str,
) -> list[Path]:
    """Distances by two fingerprints for each scale, and regression errors; writes `.png` and `.svg`."""
    with matplotlib.rc_context(STYLE | {"figure.figsize": (13.5, 4.4)}):
        figure = Figure(layout="constrained")
        *scatters, errors = figure.subplots(1, len(neural) + 1)
        for axes, (scale, distances) in zip(scatters, neural.items(), strict=True):
            r = np.corrcoef(circular, distances)[0, 1]
            axes.scatter(circular, distances, s=3, alpha=0.1, color="#1f5fa8", linewidth=0, rasterized=True)
            axes.set(
                xlabel="distance by circular fingerprints",
                ylabel="distance by neural fingerprints",
                title=f"weights of standard deviation {scale:g}: r = {r:.2f}",
            )
        for name, style in zip(
            dict.fromkeys(c.fingerprint for c in curves), ("o:", "o--", "s-", "^-"), strict=False
        ):
            depths = sorted({c.depth for c in curves})
            mse = [[c.test_mse for c in curves if (c.fingerprint, c.depth) == (name, d)] for d in depths]
            spread = np.std(mse, axis=1, ddof=1) / np.sqrt(len(mse[0]))
            errors.errorbar(depths, np.mean(mse, axis=1), spread, fmt=style, capsize=2, label=name)
        errors.set(
            xlabel="radius or depth", ylabel=f"test MSE, {units}", title="linear regression", ylim=(0, None)
        )
        errors.legend(frameon=False)
        figure.suptitle(title)
        files = [Path(f"{path}.png"), Path(f"{path}.svg")]
        for file in files:
            figure.savefig(file)
    return files
