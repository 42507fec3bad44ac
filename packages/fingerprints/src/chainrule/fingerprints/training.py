"""Train a model end to end: Adam, a cosine schedule, early stopping, and a run one may kill and resume.

One can
- fit a model to some rows and choose its best moment by others (`train`),
- follow a run (a `log` callback, `metrics.jsonl`), stop it anywhere and go on later, to the same
  weights as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from chainrule.fingerprints.batches import (
    prediction_batches,
    shuffled_rows,
    training_batch,
    training_buckets,
)
from chainrule.fingerprints.checkpoint import RunFolder
from chainrule.fingerprints.model import Head, apply, forward, standardized
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.rows import as_rows

Inputs = Molecules | np.ndarray  # a table of molecules, or rows of features
Metrics = dict[str, int | float]  # step, train_mse, validation_mse
LOST = 1e-3  # of the targets' spread: a rounding that would show in a small error


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. The defaults suit a thousand molecules and take seconds."""

    steps: int = 1000  # updates of the weights, at most
    batch_size: int = 100  # molecules per update
    learning_rate: float = 3e-3  # Adam's, at the start; it falls to zero along a cosine
    weight_decay: float = 0.0  # decoupled, as in AdamW, per unit of learning rate
    evaluate_every: int = 50  # updates between two looks at the validation error
    patience: int = 0  # evaluations without a better one before stopping; 0: run all steps
    checkpoint_every: int = 500  # updates between two checkpoints, if there is a run folder
    seed: int = 0  # order of the batches

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")
        if self.weight_decay < 0 or self.patience < 0:
            raise ValueError("weight_decay and patience must not be negative")


@dataclass(frozen=True)
class TrainResult:
    """The model at its best moment, and how it got there."""

    model: nnx.Module  # with the weights of `best_step`
    best_step: int  # updates done when the validation error was lowest
    validation_mse: float  # then, in squared units of the target; NaN without validation rows
    steps: int  # updates done in all
    stopped_early: bool  # whether patience ran out
    history: list[Metrics]  # per evaluation: step, train_mse, validation_mse


class TrainingDiverged(FloatingPointError):
    """The loss is no longer a finite number."""


def train(
    model: nnx.Module,
    inputs: Inputs,
    targets: Sequence[float] | np.ndarray,
    train_rows: Sequence[int] | np.ndarray,
    validation_rows: Sequence[int] | np.ndarray = (),
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = True,
    log: Callable[[Metrics], None] | None = None,
) -> TrainResult:
    """Minimise the mean squared error over `train_rows`; keep the weights best on `validation_rows`.

    A `PropertyModel` or a `Head` is trained on targets of mean 0 and standard deviation 1, so that it
    loses no digits to a large mean; what is reported is in squared units of the targets.

    Args:
        model: maps a `MoleculeBatch` (or rows of features, if `inputs` is an array) to one number per
            row, in the units of the targets. It is not changed, and a call must not change it: BatchNorm
            and Dropout are refused unless switched off by `model.eval()`. Where it has a `Head`, that
            takes mean and standard deviation of the training targets.
        inputs: a table of molecules, or an array of features.
        targets: one number per row of `inputs`; only the named rows are looked at.
        train_rows, validation_rows: row numbers. Without validation rows the last weights are kept.
        config: see `TrainConfig`.
        run_dir: a folder for `config.json`, `metrics.jsonl` and checkpoints.
        resume: go on from the checkpoint in `run_dir`, if there is one; else start anew.
        log: called with the metrics after every evaluation.

    Raises:
        ValueError: a named row is invalid or has no finite target; a call changes the model; or
            `run_dir` holds a run with other settings, data or model.
        TrainingDiverged: the error is NaN or infinite.
    """
    config = config or TrainConfig()
    if not isinstance(inputs, Molecules):
        inputs = np.asarray(inputs)
    targets = np.asarray(targets, np.float64)
    if targets.shape != (len(inputs),):
        raise ValueError(f"targets have shape {targets.shape}; {len(inputs)} rows need ({len(inputs)},)")
    train_rows, validation_rows = as_rows(train_rows, len(inputs)), as_rows(validation_rows, len(inputs))
    _check_rows(inputs, targets, train_rows, validation_rows)
    model = nnx.clone(model)
    for _, part in nnx.iter_modules(model):
        if isinstance(part, Head):
            part.fit_scale(targets[train_rows])
    inner, mean, std = standardized(model)
    graphdef, params, frozen = nnx.split(inner, nnx.Param, ...)
    inner_targets = (targets - mean) / std
    step_targets = inner_targets.astype(np.float32)
    variance = np.float32(inner_targets[train_rows].var() or 1.0)
    _check_digits(step_targets[train_rows], inner_targets[train_rows], variance)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    learning_rates = np.asarray(schedule(np.arange(config.steps)), np.float32)
    weight_decay = np.float32(config.weight_decay)

    state = _State(params, _adamw(0.0, 0.0).init(params), best=params)
    data = (inputs, targets, train_rows, validation_rows)
    folder = RunFolder(run_dir, config, params, data)
    if resume and (checkpoint := folder.restore(state.arrays())):
        arrays, numbers = checkpoint
        state = _State(*arrays, **numbers, saved=numbers["step"])
    folder.start(state.history)

    to_batch = _batcher(inputs, min(config.batch_size, len(train_rows)))
    validation = _validation_error(graphdef, frozen, inputs, inner_targets, validation_rows)
    order = shuffled_rows(train_rows, config.batch_size, config.seed)
    for _ in range(state.step):  # a resumed run meets the batches that it would have met
        next(order)
    losses = []
    while state.step < config.steps and not state.out_of_patience(config):
        rows = next(order)
        state.params, state.optimizer, loss = _train_step(
            graphdef,
            state.params,
            frozen,
            state.optimizer,
            to_batch(rows),
            step_targets[rows],
            variance,
            learning_rates[state.step],
            weight_decay,
        )
        losses.append(loss)
        state.step += 1
        if state.step % config.evaluate_every and state.step < config.steps:
            continue
        metrics = {
            "step": state.step,
            "train_mse": std**2 * float(jnp.mean(jnp.stack(losses))),
            "validation_mse": std**2 * validation(state.params),
        }
        losses.clear()
        state.take_note(metrics)
        folder.append(metrics)
        if log is not None:
            log(metrics)
        if state.step - state.saved >= config.checkpoint_every:
            folder.save(state.step, state.arrays(), state.numbers())
            state.saved = state.step
    folder.save(state.step, state.arrays(), state.numbers())
    return TrainResult(
        model=nnx.merge(graphdef, state.best, nnx.state(model, nnx.Not(nnx.Param))),
        best_step=state.best_step,
        validation_mse=state.best_error if len(validation_rows) else float("nan"),
        steps=state.step,
        stopped_early=state.step < config.steps,
        history=state.history,
    )


@dataclass
class _State:
    """All that a run must remember to go on as if it had never stopped."""

    params: PyTree
    optimizer: optax.OptState
    best: PyTree
    step: int = 0
    best_step: int = 0
    best_error: float = float("inf")
    history: list[Metrics] = field(default_factory=list)
    saved: int = 0  # the step of the last checkpoint

    def arrays(self) -> tuple[PyTree, optax.OptState, PyTree]:
        return self.params, self.optimizer, self.best

    def numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_error": self.best_error,
            "history": self.history,
        }

    def take_note(self, metrics: Metrics) -> None:
        self.history.append(metrics)
        step, error = int(metrics["step"]), metrics["validation_mse"]
        if not np.isfinite(metrics["train_mse"]) or np.isinf(error):
            raise TrainingDiverged(
                f"after {step} steps the mean squared error is {metrics['train_mse']} (training), "
                f"{error} (validation); lower learning_rate, or look for outliers in the targets"
            )
        if np.isnan(error) or error < self.best_error:  # NaN: nothing to choose by, keep the last
            self.best_step, self.best_error, self.best = step, error, self.params

    def out_of_patience(self, config: TrainConfig) -> bool:
        waited = (self.step - self.best_step) // config.evaluate_every
        return bool(config.patience) and self.step > 0 and waited >= config.patience


def _adamw(learning_rate, weight_decay) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=weight_decay)


@partial(jax.jit, static_argnames="graphdef")
def _train_step(graphdef, params, frozen, optimizer, batch, targets, variance, learning_rate, weight_decay):
    """One update. Learning rate and weight decay are data, so one compilation serves every run."""

    def loss(params: PyTree) -> Float[Array, ""]:
        predictions = apply(graphdef, nnx.merge_state(params, frozen), batch)
        if predictions.shape != targets.shape:
            raise ValueError(
                f"the model answers with shape {predictions.shape} where {targets.shape} is wanted, one "
                "number per row; take [:, 0] of a last layer of one output"
            )
        return jnp.mean((predictions - targets) ** 2) / variance

    value, gradient = jax.value_and_grad(loss)(params)
    update, optimizer = _adamw(learning_rate, weight_decay).update(gradient, optimizer, params)
    return optax.apply_updates(params, update), optimizer, value * variance


def _batcher(inputs: Inputs, batch_size: int) -> Callable:
    """From rows to what the model takes; always full batches, so nothing is masked."""
    if isinstance(inputs, Molecules):
        buckets = training_buckets(inputs, batch_size)
        return lambda rows: training_batch(inputs, rows, buckets)
    return lambda rows: inputs[rows]


def _validation_error(
    graphdef, frozen, inputs: Inputs, targets: np.ndarray, rows: np.ndarray
) -> Callable[[PyTree], float]:
    """The mean squared error on these rows as a function of the parameters."""
    if isinstance(inputs, Molecules):
        batches = [(rows[i], batch) for i, batch in prediction_batches(inputs.take(rows))]
    else:
        batches = [(rows, inputs[rows])]

    def error(params: PyTree) -> float:
        if not len(rows):
            return float("nan")
        squares = 0.0
        for some, batch in batches:
            predictions = np.asarray(forward(graphdef, nnx.merge_state(params, frozen), batch))
            squares += float(np.sum((predictions[: len(some)] - targets[some]) ** 2))
        mean = squares / len(rows)
        return mean if np.isfinite(mean) else float("inf")

    return error


def _check_rows(
    inputs: Inputs, targets: np.ndarray, train_rows: np.ndarray, validation_rows: np.ndarray
) -> None:
    if not len(train_rows):
        raise ValueError("there are no training rows")
    for rows in (train_rows, validation_rows):
        ordered = np.sort(rows)
        for repeated in ordered[1:][ordered[1:] == ordered[:-1]]:
            raise ValueError(f"row {repeated} is named twice; take() a table that holds it twice")
    both = np.intersect1d(train_rows, validation_rows)
    if len(both):
        raise ValueError(f"row {both[0]} is in the training and in the validation rows")
    rows = np.concatenate([train_rows, validation_rows])
    if isinstance(inputs, Molecules):
        for row in rows[~inputs.valid[rows]]:
            raise ValueError(f"row {row} is invalid ({inputs.reasons[row]}); leave it out")
    else:
        for row in rows[~np.isfinite(inputs[rows].reshape(len(rows), -1)).all(axis=1)]:
            raise ValueError(f"row {row} has a feature that is not finite; leave it out")
    for row in rows[~np.isfinite(targets[rows])]:
        raise ValueError(f"row {row} has target {targets[row]}; leave it out")


def _check_digits(rounded: np.ndarray, targets: np.ndarray, variance: np.float32) -> None:
    rounding, spread = np.abs(rounded - targets).max(), np.sqrt(variance)
    if rounding > LOST * spread:
        raise ValueError(
            f"float32 rounds the targets by up to {rounding:.2g}, which is much beside their spread of "
            f"{spread:.2g}; give the model targets less their mean, or train a PropertyModel"
        )
