"""Plots of the experiments, in one style; the numbers behind each are saved beside it, as CSV.

One can
- show learned schedules, array by array (`plot_schedules`),
- show the derivative by the rate of each step (`plot_hypergradient`),
- show how an objective falls from meta-step to meta-step (`plot_meta_learning`),
- show learned scales of initial weights (`plot_scales`),
- show the loss and its derivative where training turns chaotic (`plot_chaos`),
- show learned images, penalties or gains (`plot_images`),
- show how tasks share what they learn (`plot_sharing`).
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
from matplotlib.ticker import SymmetricalLogLocator

from chainrule.core.experiments.whole_files import write_columns, write_rows, write_whole

STYLE = {
    "figure.dpi": 150,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#1f5fa8", "0.35"], linestyle=["-", "--"]),
    "legend.frameon": False,
    "font.size": 10,
}
INCH = 2.6  # width of a panel


def plot_schedules(
    path: Path,
    schedules: Mapping[str, Float[np.ndarray, "seeds arrays steps"]],
    names: Sequence[str],
    fixed: Mapping[str, float],
    title: str,
) -> list[Path]:
    """A panel for each layer and kind of schedule: means over seeds with their standard errors.

    Args:
        path: of the picture, without suffix.
        schedules: learned ones, by what they are.
        names: of the arrays, "layer 1, biases", ...
        fixed: a number to compare with, for each kind.
    """
    layers = list(dict.fromkeys(name.split(",")[0] for name in names))
    columns: dict[str, np.ndarray] = {"step": np.arange(next(iter(schedules.values())).shape[-1])}
    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(len(schedules), len(layers), sharey="row")
        for row, (kind, values) in zip(grid, schedules.items(), strict=True):
            for name, curves in zip(names, values.transpose(1, 0, 2), strict=True):
                layer, part = name.split(", ")
                axes = row[layers.index(layer)]
                columns |= _mean_curve(axes, columns["step"], curves, part, f"{kind}, {name}")
                axes.set(title=layer, xlabel="training step")
            for axes in row:
                axes.axhline(fixed[kind], color="0.6", linestyle=":", label="best fixed")
            row[0].set_ylabel(kind)
        for axes in grid[0]:
            axes.set_yscale("log")
        grid[0][-1].legend(fontsize=8)
        figure.suptitle(title)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_hypergradient(
    path: Path,
    mean: Float[np.ndarray, "arrays steps"],
    error: Float[np.ndarray, "arrays steps"],
    names: Sequence[str],
    title: str,
) -> list[Path]:
    """The derivative of the last loss by the logarithm of each step's rate, a panel for each layer."""
    layers = list(dict.fromkeys(name.split(",")[0] for name in names))
    steps = np.arange(mean.shape[1])
    columns: dict[str, np.ndarray] = {"step": steps}
    with matplotlib.rc_context(STYLE):
        figure, ((*row,),) = _panels(1, len(layers))
        for name, curve, spread in zip(names, mean, error, strict=True):
            layer, part = name.split(", ")
            axes = row[layers.index(layer)]
            axes.plot(steps, curve, label=part)
            axes.fill_between(steps, curve - spread, curve + spread, color="0.5", alpha=0.3, linewidth=0)
            axes.set(title=layer, xlabel="training step")
            columns |= {f"{name}: mean (nats)": curve, f"{name}: standard error": spread}
        row[0].set_ylabel("d loss / d log rate (nats)")
        row[-1].legend(fontsize=8)
        figure.suptitle(title)
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_meta_learning(
    path: Path, objectives: Float[np.ndarray, "seeds meta_steps"], label: str, baseline: float, title: str
) -> list[Path]:
    """The objective of each meta-step: that of each seed, their mean, and one number to compare with."""
    steps = np.arange(objectives.shape[1])
    with matplotlib.rc_context(STYLE):
        figure, ((axes,),) = _panels(1, 1, width=2 * INCH)
        axes.plot(steps, objectives.T, color="0.75", linestyle="-", linewidth=0.8)
        columns = {"meta-step": steps} | _mean_curve(axes, steps, objectives, "mean over seeds", label)
        axes.axhline(baseline, color="0.35", linestyle=":", label="best fixed")
        axes.set(xlabel="meta-step", ylabel=label, yscale="log", title=title)
        axes.legend()
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_scales(
    path: Path, ratios: Mapping[str, Float[np.ndarray, "seeds arrays"]], names: Sequence[str], title: str
) -> list[Path]:
    """The scale of each array in units of 1 / sqrt(fan-in): each seed, and geometric means, by method."""
    places = np.arange(len(names))
    columns: dict[str, Any] = {"array": names}
    with matplotlib.rc_context(STYLE):
        figure, ((axes,),) = _panels(1, 1, width=2.4 * INCH)
        axes.axhline(1, color="0.6", linestyle=":")
        looks = [("D", "#1f5fa8", -0.15), ("s", "0.35", 0.15)]
        for (method, found), (marker, color, aside) in zip(ratios.items(), looks, strict=True):
            axes.plot(places + aside, found.T, "o", color="0.75", markersize=4)
            means = np.exp(np.log(found).mean(axis=0))
            axes.plot(places + aside, means, marker, color=color, label=f"{method}: mean over seeds")
            columns |= {f"{method}, repetition {i}: scale x sqrt(fan-in)": row for i, row in enumerate(found)}
        axes.set(ylabel="scale x sqrt(fan-in)", yscale="log", title=title)
        axes.set_xticks(places, [name.replace(", ", ",\n") for name in names], fontsize=8)
        figure.legend(loc="outside lower center")
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


def plot_chaos(
    path: Path,
    log_rates: Float[np.ndarray, " rates"],
    curves: Mapping[str, Float[np.ndarray, " rates"]],
    threshold: float | None,
    title: str,
) -> list[Path]:
    """Loss, derivative and growth of perturbations against the learning rate, of one seed.

    Args:
        curves: "loss", "derivative", "slope", which is that of the loss over a window, and "growth".
        threshold: from which on the derivative misleads.
    """
    with matplotlib.rc_context(STYLE):
        figure, ((loss,), (slope,), (growth,)) = _panels(3, 1, width=2.4 * INCH)
        loss.plot(log_rates, curves["loss"])
        loss.set(ylabel="last training loss (nats)", yscale="log")
        slope.plot(log_rates, curves["derivative"], label="derivative")
        slope.plot(log_rates, curves["slope"], label="slope of the loss over a window")
        finite = np.abs(curves["derivative"][np.isfinite(curves["derivative"])])
        decades = np.log10(finite.max(initial=1.0)) + 1  # from 0.1 on; the linear part is seen beside them
        slope.set_yscale("symlog", linthresh=0.1, linscale=max(1.0, decades / 6))
        slope.yaxis.set_major_locator(SymmetricalLogLocator(slope.yaxis.get_transform()))
        slope.yaxis.get_major_locator().set_params(numticks=7)
        slope.set_ylabel("d loss / d log rate (nats)")
        slope.legend(fontsize=8)
        growth.plot(log_rates, curves["growth"])
        growth.set(ylabel="growth of perturbations\n(e-folds in all)", xlabel="log learning rate")
        for axes in (loss, slope, growth):
            if threshold is not None:
                axes.axvline(threshold, color="0.35", linestyle=":")
        figure.suptitle(title)
        columns = {"log learning rate": log_rates, **curves}
        return [_save(figure, path), write_columns(path.with_suffix(".csv"), columns)]


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
        figure = Figure(figsize=(INCH * len(layers) + 2.2, 5.0), layout="constrained")
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


def _panels(rows: int, columns: int, *, width: float = INCH, **shared: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns + 0.6, 2.3 * rows + 0.7), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, **shared)


def _mean_curve(
    axes: Axes, x: np.ndarray, curves: Float[np.ndarray, "seeds points"], label: str, name: str
) -> dict[str, np.ndarray]:
    """Draw a mean with its standard error; the columns of both."""
    mean, error = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
    axes.plot(x, mean, label=label)
    axes.fill_between(x, mean - error, mean + error, color="0.5", alpha=0.3, linewidth=0)
    return {f"{name}: mean": mean, f"{name}: standard error": error}


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return write_whole(path.with_suffix(".png"), content.getvalue())
