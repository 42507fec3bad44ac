"""What learning schedules has come to: the table, the schedules themselves in two conventions, pictures.

One can
- write it all (`write_schedules_report`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from chainrule.core.experiments.outcomes import Outcome
from chainrule.core.experiments.report import Report, averages, difference, write_report
from chainrule.core.experiments.whole_files import write_rows
from chainrule.hypergrad.experiments.networks import names
from chainrule.hypergrad.experiments.plot import plot_hypergradient, plot_meta_learning, plot_schedules
from chainrule.hypergrad.experiments.problem import UNITS
from chainrule.hypergrad.schedules import to_sgd

FIXED, DECAY, LEARNED = "best fixed", "best linear decay", "learned"
HYPERGRADIENT = "initial hypergradient"
SGD = ("rate of optax.sgd", "momentum of optax.sgd")
COLUMNS = ("seed", "array", "step", "learning rate", "momentum", *SGD)


def write_schedules_report(out: Path, outcomes: list[Outcome], objective: str) -> Report:
    """Tables, learned-schedules.csv and three pictures.

    Args:
        outcomes: of `schedules.run`.
        objective: the measure that was learned by and chosen by.
    """
    learned, fixed = ([o.measures for o in outcomes if o.method == method] for method in (LEARNED, FIXED))
    stack = lambda name: np.stack([np.asarray(measures[name]) for measures in learned])
    rates, momenta = stack("learning_rate"), stack("momentum")
    arrays = names(rates.shape[1] // 2)
    middle = lambda name: float(np.exp(np.mean(np.log([measures[name] for measures in fixed]))))
    means = averages(outcomes, objective)
    gain = difference(outcomes, LEARNED, FIXED, objective)
    verdict = ("lower than" if gain.mean < 0 else "higher than") if gain.apart else "not apart from"
    (hypergradient,) = (o.measures for o in outcomes if o.method == HYPERGRADIENT)
    smooth = min(hypergradient["smoothness"])
    files = [
        write_rows(out / "learned-schedules.csv", COLUMNS, _rows(outcomes, arrays)),
        *plot_schedules(
            out / "schedules",
            {"learning rate": rates, "momentum": momenta},
            arrays,
            {"learning rate": middle("rate"), "momentum": middle("momentum")},
            f"Learned schedules: {objective} {verdict} the best fixed one's ({gain} nats)",
        ),
        *plot_meta_learning(
            out / "meta-learning",
            stack("objective"),
            f"{objective} (nats)",
            means[FIXED].mean,
            f"{objective}, from {stack('objective')[:, 0].mean():.3g} to {means[LEARNED].mean:.3g} nats",
        ),
        *plot_hypergradient(
            out / "hypergradient",
            np.asarray(hypergradient["mean"]),
            np.asarray(hypergradient["standard error"]),
            arrays,
            f"The mean derivative is smooth in the step: neighbours correlate by {smooth:.2f} or more",
        ),
    ]
    chosen = ", ".join(f"{m['rate']:.3g} ({m['momentum']:g})" for m in fixed)
    return write_report(
        out,
        "Learned schedules of learning rates and momenta against the best simple ones",
        outcomes,
        UNITS,
        differences=[(LEARNED, FIXED), (LEARNED, DECAY)],
        notes=[
            f"Judged by trainings that none was chosen or learned by. With learned schedules, {objective} is "
            f"{verdict} the best fixed one's.",
            f"Best fixed learning rates (momenta), seed by seed: {chosen}.",
        ],
        files=files,
    )


def _rows(outcomes: list[Outcome], arrays: list[str]) -> Iterator[tuple]:
    for outcome in outcomes:
        if outcome.method != LEARNED:
            continue
        curves = zip(arrays, outcome.measures["learning_rate"], outcome.measures["momentum"], strict=True)
        for name, rate, momentum in curves:
            sgd = to_sgd(np.asarray(rate), np.asarray(momentum))
            columns = zip(rate, momentum, *(np.asarray(x).tolist() for x in sgd), strict=True)
            yield from ((outcome.seed, name, step, *numbers) for step, numbers in enumerate(columns))
