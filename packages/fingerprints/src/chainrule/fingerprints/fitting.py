"""From a table of molecules and targets to a model that is chosen, calibrated, tested and kept.

One can
- do all of that in one call (`fit` -> `Fitted`), and keep the result (`Fitted.save`),
- say how good predictions are (`assess`).

Rows to learn from, to choose by and to test on are a `Split`. What validation rows decide: when to stop,
and how wide the predicted intervals are. Test rows decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.model import Ensemble, PropertyModel, head_of, members_of
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.objective import Prediction
from chainrule.fingerprints.prediction import (
    LEAST_ROWS,
    calibrate,
    knows_spread,
    predict,
    predict_distribution,
)
from chainrule.fingerprints.saved import save_model
from chainrule.fingerprints.splits import Split
from chainrule.fingerprints.training import Metrics, train

COVERAGE = 0.9
WITHIN = 1.6448536269514722  # standard deviations from the mean, as far as 90 % of a normal law reach


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it did."""

    model: PropertyModel | Ensemble
    best_step: int  # updates done when the validation error was lowest
    calibrated: bool  # whether its standard deviations were brought into line with the validation rows
    validation: list[dict[str, float | int]]  # of every target, see `assess`; empty without such rows
    test: list[dict[str, float | int]]  # likewise

    def save(self, folder: str | Path, *, targets: Sequence[str] = ("prediction",), units: str = "") -> Path:
        """Keep model and metrics, see `save_model`."""
        names = ("best_step", "calibrated", "validation", "test")
        metrics = {name: getattr(self, name) for name in names}
        return save_model(folder, self.model, targets=targets, units=units, metrics=metrics)


def fit(
    molecules: Molecules,
    targets: Float[np.ndarray, "rows ..."],
    split: Split,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
    *,
    members: int = 1,
    start_from: PropertyModel | Ensemble | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    log: Callable[[Metrics], None] | None = None,
) -> Fitted:
    """Train on the split's first rows, choose and calibrate by the second, test on the third.

    Args:
        molecules, targets: see `train`.
        model, training: the architecture and the way it is trained, whose seed is also that of the first
            weights.
        members: models in the ensemble; 1: none.
        start_from: a trained model to begin with. With all its weights and what it answers, if it predicts
            as many targets in the same way; else with its fingerprint, below a new head. `model` and
            `members` are then its own.
        run_dir, resume, log: see `train`.

    Raises:
        ValueError: as `train` does, or there are no members.
    """
    training = training or TrainConfig()
    task = (model or ModelConfig()).task
    columns = None if targets.ndim == 1 else targets.shape[1]
    if start_from is None:
        first = _fresh(model or ModelConfig(), columns, members, training.seed)
    else:
        first = _warm(start_from, columns, task if model else start_from.task, training.seed)
    result = train(
        first,
        molecules,
        targets,
        split.train,
        split.validation,
        training,
        warm_start=first is start_from,
        run_dir=run_dir,
        resume=resume,
        log=log,
    )
    fitted = result.model
    assert isinstance(fitted, PropertyModel | Ensemble)
    measured = np.isfinite(targets[split.validation]).sum(axis=0)
    calibrated = knows_spread(fitted) and np.min(measured) >= LEAST_ROWS
    if calibrated:
        widened = calibrate(fitted, molecules, targets, split.validation, coverage=COVERAGE)
        assert isinstance(widened, PropertyModel | Ensemble)
        fitted = widened
    return Fitted(
        fitted,
        result.best_step,
        bool(calibrated),
        assess_rows(fitted, molecules, targets, split.validation),
        assess_rows(fitted, molecules, targets, split.test),
    )


def _fresh(config: ModelConfig, columns: int | None, members: int, seed: int) -> PropertyModel | Ensemble:
    if members < 1:
        raise ValueError(f"members={members} must be at least 1")
    arguments = asdict(config)
    models = [
        PropertyModel(**arguments, targets=columns, rngs=nnx.Rngs(1000 * seed + k)) for k in range(members)
    ]
    return models[0] if members == 1 else Ensemble(models)


def keeps_its_head(start: PropertyModel | Ensemble, columns: int | None, task: str) -> bool:
    """Whether a trained model predicts as many columns in this way; else it needs a new head."""
    return (head_of(start).targets, start.task) == (columns, task)


def _warm(
    start: PropertyModel | Ensemble, columns: int | None, task: str, seed: int
) -> PropertyModel | Ensemble:
    if keeps_its_head(start, columns, task):
        return start
    several = isinstance(start, Ensemble)
    models = []
    for k, model in enumerate(members_of(start)):
        arguments: dict[str, Any] = asdict(model.config) | {"task": task}
        models.append(PropertyModel(**arguments, targets=columns, rngs=nnx.Rngs(1000 * seed + k)))
        nnx.update(models[-1].fingerprint, nnx.state(model.fingerprint))
    return Ensemble(models) if several else models[0]


def assess_rows(
    model: PropertyModel | Ensemble,
    molecules: Molecules,
    targets: Float[np.ndarray, "rows ..."],
    rows: np.ndarray,
) -> list[dict[str, float | int]]:
    """What `assess` says of the predictions for these rows; nothing if there are none."""
    if not len(rows):
        return []
    table = molecules.take(rows)
    if knows_spread(model):
        prediction = predict_distribution(model, table)
    else:
        mean = predict(model, table)
        prediction = Prediction(mean, np.full_like(mean, np.nan))
    return assess(model.task, prediction, targets[rows])


def assess(
    task: str, prediction: Prediction, targets: Float[np.ndarray, "rows ..."]
) -> list[dict[str, float | int]]:
    """How good predictions are, target by target, over the rows where it was measured.

    Returns:
        for each target `rows`, and of a classification `log_loss`, `accuracy` and `roc_auc`; else `mse`,
        `rmse`, `mae` and `r2` in the target's units, and where the spread is known `coverage`, the
        fraction within mean +- 1.645 std, which 0.9 should be.
    """
    columns = [np.asarray(a).reshape(len(targets), -1).T for a in (*prediction, targets)]
    return [
        _assess(task, *(own[np.isfinite(column[2])] for own in column))
        for column in zip(*columns, strict=True)
    ]


def _assess(task: str, mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> dict[str, float | int]:
    found: dict[str, Any] = {"rows": len(y)}
    if not len(y):
        return found
    if task == "classification":
        p = np.clip(mean, 1e-7, 1 - 1e-7)
        found["log_loss"] = -np.mean(np.where(y > 0, np.log(p), np.log1p(-p)))
        found["accuracy"] = np.mean((mean > 0.5) == y)
        found["roc_auc"] = roc_auc(mean, y)
    else:
        errors = mean - y
        found["mse"] = np.mean(errors**2)
        found["rmse"] = np.sqrt(found["mse"])
        found["mae"] = np.mean(np.abs(errors))
        found["r2"] = 1 - found["mse"] / y.var() if y.var() > 0 else np.nan
        if np.isfinite(std).all():
            found["coverage"] = np.mean(np.abs(errors) <= WITHIN * std)
    return {name: value if name == "rows" else float(value) for name, value in found.items()}


def roc_auc(scores: Float[np.ndarray, " rows"], classes: Float[np.ndarray, " rows"]) -> float:
    """The chance that a row of class 1 scores higher than one of class 0, a tie counting half; NaN where
    a class is missing."""
    high, low = scores[classes > 0], np.sort(scores[classes == 0])
    if not (len(high) and len(low)):
        return float("nan")
    below, not_above = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + not_above).mean() / (2 * len(low)))
