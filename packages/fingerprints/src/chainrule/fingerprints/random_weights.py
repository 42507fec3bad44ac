"""Neural fingerprints with large random weights are circular fingerprints: the talk's experiment.

One can
- compare distances between molecules by both kinds of fingerprints (`agreement`),
- predict a property from either by linear regression, for growing depth (`regression_curves`),
- do both and draw them (`run`, or `python -m chainrule.fingerprints random-weights`).

With large weights tanh is a sign and every softmax a choice of one entry: a hash of the atom's surroundings.
Equal surroundings write to the same entry, others to another, and what is written is a count.

Source: Duvenaud, Maclaurin et al., NIPS 2015, section 4.1 and figure 3: r = 0.823 on pairs of Delaney's
molecules; linear regression on large random weights is like that on circular fingerprints, on small ones
better.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table

from chainrule.fingerprints.batches import prediction_batches
from chainrule.fingerprints.circular import circular_fingerprints
from chainrule.fingerprints.datasets import Dataset, load
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.neural import init_weights, neural_fingerprint
from chainrule.fingerprints.ridge import ridge
from chainrule.fingerprints.splits import Split, random_splits

SMALL, LARGE = 0.02, 10.0  # standard deviations of a weight
SCALES = (SMALL, 1.0, LARGE, 100.0)
LENGTH, WIDTH = 2048, 100
PENALTIES = np.logspace(-4, 4, 17)  # small weights differ little from entry to entry
AT_ONCE = 1000  # pairs whose distances are computed together


class Agreement(NamedTuple):
    """How distances by neural fingerprints with random weights agree with circular ones."""

    scale: float  # standard deviation of a weight
    seed: int
    r_bits: float  # correlation with distances by Morgan bits
    r_counts: float  # and by counts
    distances: Float[np.ndarray, " pairs"]


class Curve(NamedTuple):
    """Linear regression on a fixed fingerprint."""

    fingerprint: str
    depth: int
    split: int
    test_mse: float  # in squared units of the target


def distance(
    x: Float[np.ndarray, "rows length"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, " pairs"]:
    """1 - sum min(x, y) / sum max(x, y): Tanimoto's, for counts and other non-negative numbers."""
    parts = []
    for some in np.array_split(pairs, -(-len(pairs) // AT_ONCE)):
        a, b = x[some[:, 0]], x[some[:, 1]]
        parts.append(1 - np.minimum(a, b).sum(axis=1) / np.maximum(a, b).sum(axis=1))
    return np.concatenate(parts)


def random_pairs(rows: int, number: int, seed: int = 0) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of different rows."""
    rng = np.random.default_rng(seed)
    first = rng.integers(rows, size=number)
    return np.stack([first, (first + rng.integers(1, rows, size=number)) % rows], axis=1)


def random_fingerprints(
    molecules: Molecules, *, scale: float, depth: int, seed: int, length: int = LENGTH, width: int = WIDTH
) -> Float[np.ndarray, "rows length"]:
    """Neural fingerprints, the original's variant with tanh, of weights with standard deviation `scale`."""
    weights = init_weights(jax.random.key(seed), depth=depth, width=width, length=length, variant="original")
    # init_weights divides by the square root of the number of inputs, the paper did not
    weights = jax.tree.map(lambda w: scale * np.sqrt(w.shape[-2]) * w if w.ndim > 1 else w, weights)
    values = np.zeros((len(molecules), length), np.float32)
    for rows, batch in prediction_batches(molecules):
        values[rows] = _with_tanh(weights, batch)[: len(rows)]
    return values


_with_tanh = jax.jit(partial(neural_fingerprint, activation=jnp.tanh))


def circular_distances(
    molecules: Molecules, pairs: Int[np.ndarray, "pairs 2"], *, radius: int = 2, length: int = LENGTH
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Distances by Morgan bits, and by counts."""
    counts = circular_fingerprints(molecules, rule="morgan", radius=radius, length=length, counts=True)
    return distance((counts > 0).astype(np.float32), pairs), distance(counts, pairs)


def agreement(
    molecules: Molecules,
    pairs: Int[np.ndarray, "pairs 2"],
    circular: tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]],
    *,
    scales: Sequence[float] = SCALES,
    seeds: int = 5,
    radius: int = 2,
    length: int = LENGTH,
) -> Iterator[Agreement]:
    """Correlations with `circular_distances` of the same pairs, for each scale and seed as it is done."""
    bits, counts = circular
    for scale in scales:
        for seed in range(seeds):
            x = random_fingerprints(molecules, scale=scale, depth=radius, seed=seed, length=length)
            ours = distance(x, pairs)
            r = lambda theirs, ours=ours: float(np.corrcoef(ours, theirs)[0, 1])
            yield Agreement(scale, seed, r(bits), r(counts), ours)


def regression_curves(
    dataset: Dataset, splits: Sequence[Split], *, depths: Iterable[int], length: int = LENGTH
) -> Iterator[Curve]:
    """Ridge regression, its penalty chosen on validation rows, for each depth and split as it is done.

    The weights of split k are drawn with seed k, so that the spread over the splits is that of both.
    """
    molecules, targets = dataset.molecules, dataset.targets
    for depth in depths:
        circular = partial(circular_fingerprints, molecules, rule="morgan", radius=depth, length=length)
        counts = circular(counts=True)
        for number, split in enumerate(splits):
            random = partial(random_fingerprints, molecules, depth=depth, seed=number, length=length)
            for name, x in (
                ("circular, bits", (counts > 0).astype(np.float32)),
                ("circular, counts", counts),
                ("large random weights", random(scale=LARGE)),
                ("small random weights", random(scale=SMALL)),
            ):
                x = x / x[split.train].std()  # one range of penalties for all
                yield Curve(name, depth, number, _test_error(x, targets, split))


def _test_error(x, targets, split) -> float:
    new = np.concatenate([split.validation, split.test])
    errors = []
    for predictions in ridge(x[split.train], targets[split.train], x[new], PENALTIES):
        squared = (predictions - targets[new]) ** 2
        errors.append((squared[: len(split.validation)].mean(), squared[len(split.validation) :].mean()))
    return float(min(errors)[1])


def run(
    *,
    data: str,
    data_dir: Path | None,
    out: Path,
    pairs: int,
    seeds: int,
    splits: int,
    radius: int,
    depth: int,
) -> list[Agreement]:
    """The whole experiment; see the command's `--help` for the arguments.

    Raises:
        ValueError: an option makes no sense.
        FileNotFoundError: the data set is not there; says what to put where.
        ModuleNotFoundError: matplotlib is missing.
    """
    for name, value in (("pairs", pairs), ("seeds", seeds), ("splits", splits)):
        if value < 2:
            raise ValueError(f"--{name} {value} must be at least 2, to have a spread")
    for name, value in (("radius", radius), ("depth", depth)):
        if value < 0:
            raise ValueError(f"--{name} {value} must be at least 0")
    from chainrule.fingerprints.plot import plot_random_weights

    console = Console()
    dataset = load(data, data_dir=data_dir)
    chosen = random_pairs(len(dataset), pairs)
    found = []
    table = Table(
        "standard deviation of a weight",
        "r with bits",
        "r with counts",
        title=f"distances between {pairs} pairs of molecules, radius {radius}: random neural against Morgan "
        f"fingerprints (mean +- standard deviation over {seeds} seeds)",
    )
    with console.status("comparing distances"):
        circular = circular_distances(dataset.molecules, chosen, radius=radius)
        for one in agreement(dataset.molecules, chosen, circular, seeds=seeds, radius=radius):
            found.append(one)
    for scale in SCALES:
        r = np.array([(one.r_bits, one.r_counts) for one in found if one.scale == scale])
        cells = (
            f"{mean:.3f} +- {sd:.3f}" for mean, sd in zip(r.mean(axis=0), r.std(axis=0, ddof=1), strict=True)
        )
        table.add_row(f"{scale:g}", *cells)
    console.print(table)
    curves = []
    with console.status("linear regressions") as status:
        for point in regression_curves(dataset, random_splits(len(dataset), splits), depths=range(depth + 1)):
            curves.append(point)
            status.update(f"linear regressions, depth {point.depth} of {depth}")
    out.mkdir(parents=True, exist_ok=True)
    units = f"({dataset.units})^2"
    _save(out / "agreement.csv", ("scale", "seed", "r bits", "r counts"), (one[:4] for one in found))
    _save(out / "regression.csv", ("fingerprint", "depth", "split", f"test MSE {units}"), curves)
    ours = {scale: next(one.distances for one in found if one.scale == scale) for scale in (SMALL, LARGE)}
    title = f"{dataset.name}, {len(dataset)} molecules"
    files = plot_random_weights(out / "random-weights", circular[0], ours, curves, title, units)
    console.print("wrote", *map(str, files), str(out / "agreement.csv"), str(out / "regression.csv"))
    return found


def _save(path: Path, names: Sequence[str], rows: Iterable[tuple]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
