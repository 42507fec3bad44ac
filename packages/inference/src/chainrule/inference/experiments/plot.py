"""Plots of the experiments, in one style; the numbers behind each are saved beside it, as CSV.

One can
- show the bound, the test error and the largest eigenvalue along training (`plot_stopping`),
- show measures against what was varied (`plot_choice`),
- show distributions in the plane, and how well their entropy is known (`plot_funnel`, `plot_entropies`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from chainrule.core.experiments.whole_files import write_columns, write_whole

STYLE = {
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#1f5fa8", "0.35"], linestyle=["-", "--"]),
    "legend.frameon": False,
    "font.size": 10,
}
INCH = 2.9  # width of a panel
LOWEST = 6.0  # nats per row below the highest bound that are shown


def plot_stopping(
    path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]], rows: int, title: str
) -> list[Path]:
    """A column for each variant: bound, test error, a lambda_max; a line for each seed, grey once flagged.

    Args:
        path: of the picture, without suffix.
        runs: by the variant's name, what each seed came to; see `stopping`.
    """
    columns: dict[str, Any] = {}
    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(3, len(runs), width=1.3 * INCH, sharey="row")
        for (name, found), (bound, error, top) in zip(runs.items(), grid.T, strict=True):
            bound.set_title(name, fontsize=9)
            for number, one in enumerate(found):
                steps = np.asarray(one["steps"])
                trusted = np.asarray(one["one_to_one"])
                for axes, quantity in ((bound, "bound"), (error, "rmse"), (top, "a_lambda_max")):
                    values = np.asarray(one[quantity], float)
                    columns["step"] = steps
                    columns[f"{name}, repetition {number}: {quantity}"] = values
                    axes.plot(
                        steps, np.where(trusted, np.nan, values), color="0.75", linestyle="-", linewidth=0.8
                    )
                    axes.plot(
                        steps,
                        np.where(trusted, values, np.nan),
                        color="#1f5fa8",
                        linestyle="-",
                        linewidth=0.9,
                    )
                place = int(np.searchsorted(steps, one["stop at step"]))
                bound.plot(steps[place], one["bound"][place], "o", color="black", markersize=4)
                error.plot(steps[place], one["rmse"][place], "o", color="black", markersize=4)
            top.axhline(1, color="0.35", linestyle=":")
            top.set(xlabel="steps of gradient descent", xscale="symlog")
        highest = max(np.nanmax(one["bound"]) for one in runs[next(iter(runs))])
        grid[0][0].set(ylabel="bound (nats per row)", ylim=(highest - LOWEST, highest + 1))
        grid[1][0].set(ylabel="test RMSE ($1000)", ylim=(0, 16))
        grid[2][0].set(ylabel="largest eigenvalue\nof a H", ylim=(0, 3))
        figure.suptitle(title)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_choice(
    path: Path,
    x: Sequence[float | int],
    measures: Mapping[str, Mapping[str, Float[np.ndarray, "seeds points"]]],
    xlabel: str,
    title: str,
) -> list[Path]:
    """A panel for each quantity: means over seeds with their standard errors, the best one marked.

    Args:
        measures: by the quantity with its unit, curves by their names. Errors have their best at the least.
    """
    columns: dict[str, Any] = {xlabel: x}
    with matplotlib.rc_context(STYLE):
        figure, (row,) = _panels(1, len(measures), width=1.1 * INCH)
        for axes, (quantity, curves) in zip(row, measures.items(), strict=True):
            for name, values in curves.items():
                columns |= _mean_curve(axes, np.asarray(x), values, name, f"{quantity}, {name}")
                mean = values.mean(0)
                place = int(np.nanargmin(mean) if "error" in quantity else np.nanargmax(mean))
                axes.plot(x[place], mean[place], "o", color="black", markersize=5)
            axes.set(xlabel=xlabel, title=quantity, xscale="log")
            if min(x) == 0:  # has a place of its own, before the least other one
                axes.set_xscale("symlog", linthresh=min(number for number in x if number > 0))
            if len(curves) > 1:
                axes.legend(fontsize=8)
        figure.suptitle(title)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_funnel(
    path: Path,
    log_density: Float[np.ndarray, "rows columns"],
    extent: tuple[float, float, float, float],
    clouds: Mapping[str, Float[np.ndarray, "draws 2"]],
    labels: tuple[str, str],
    title: str,
) -> list[Path]:
    """Draws over contours of the target's density, a panel for each."""
    levels = float(log_density.max()) - np.array([8.0, 4.0, 2.0, 1.0, 0.3])
    columns: dict[str, Any] = {}
    with matplotlib.rc_context(STYLE):
        figure, (row,) = _panels(1, len(clouds), width=0.95 * INCH, sharey=True)
        for axes, (name, points) in zip(row, clouds.items(), strict=True):
            axes.contour(
                log_density, levels=levels, extent=extent, colors="0.55", linewidths=0.7, linestyles="-"
            )
            axes.plot(points[:, 0], points[:, 1], ".", color="#1f5fa8", markersize=2, alpha=0.4)
            axes.set(title=name, xlabel=labels[0], xlim=extent[:2], ylim=extent[2:])
            columns |= {f"{name}: {label}": points[:, i] for i, label in enumerate(labels)}
        row[0].set_ylabel(labels[1])
        figure.suptitle(title)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_entropies(
    path: Path, steps: Float[np.ndarray, " records"], curves: Mapping[str, np.ndarray], title: str
) -> list[Path]:
    """Entropy of the distribution along training, known in several ways: [records] or [seeds, records]."""
    columns: dict[str, Any] = {"step": steps}
    with matplotlib.rc_context(
        STYLE | {"axes.prop_cycle": cycler(color=["#1f5fa8", "0.35", "black"], linestyle=["-", "--", ":"])}
    ):
        figure, ((axes,),) = _panels(1, 1, width=1.8 * INCH)
        for name, values in curves.items():
            columns |= _mean_curve(axes, steps, np.atleast_2d(values), name, f"{name} (nats)")
        seen = float(np.nanmin(curves["entropy of the cloud"]))
        axes.set(xlabel="steps of gradient descent", ylabel="nats", title=title, ylim=(1.5 * seen - 1, None))
        axes.legend(fontsize=8)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def _panels(rows: int, columns: int, *, width: float = INCH, **shared: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns + 0.6, 2.1 * rows + 0.8), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, **shared)


def _mean_curve(
    axes: Axes, x: np.ndarray, curves: Float[np.ndarray, "seeds points"], label: str, name: str
) -> dict[str, np.ndarray]:
    """Draw a mean with its standard error; the columns of both."""
    mean = curves.mean(axis=0)
    if len(curves) == 1:
        axes.plot(x, mean, label=label)
        return {name: mean}
    error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
    axes.plot(x, mean, label=label)
    axes.fill_between(x, mean - error, mean + error, color="0.5", alpha=0.3, linewidth=0)
    return {f"{name}: mean": mean, f"{name}: standard error": error}


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return write_whole(path.with_suffix(".png"), content.getvalue())
