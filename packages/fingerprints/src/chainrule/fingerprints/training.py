"""Train a model end to end: Adam, a cosine schedule, early stopping, and a run one may kill and resume.

One can
- fit a model to some rows and choose its best moment by others (`train`),
- follow a run (a `log` callback, `metrics.jsonl`), stop it anywhere and go on later, to the same
  weights as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from chainrule.fingerprints.batches import prediction_batches
from chainrule.fingerprints.checkpoint import RunFolder
from chainrule.fingerprints.configs import TrainConfig
from chainrule.fingerprints.data_parallel import (
    check_agreement,
    first_says,
    in_several_processes,
    local,
    on_parts,
    one_axis,
    own_shares,
    place_parts,
    replicate,
    shares,
)
from chainrule.fingerprints.environments import distinct_environments
from chainrule.fingerprints.model import Scale, depth_of, is_known, rescale, scale_of, set_scale
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.objective import ERRORS, error, loss
from chainrule.fingerprints.prediction import Inputs, apply, forward
from chainrule.fingerprints.rows import as_rows
from chainrule.fingerprints.training_batches import shuffled_rows, training_buckets, training_parts

Metrics = dict[str, int | float]  # step, and for a regression train_mse, validation_mse
LOST = 1e-3  # of the targets' spread: a rounding that would show in a small error


@dataclass(frozen=True)
class TrainResult:
    """The model at its best moment, and how it got there."""

    model: nnx.Module  # with the weights of `best_step`
    best_step: int  # updates done when the validation error was lowest
    validation_error: float  # then, see `train`; NaN without validation rows
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
    warm_start: bool = False,
    run_dir: str | Path | None = None,
    resume: bool = True,
    log: Callable[[Metrics], None] | None = None,
    mesh: Mesh | None = None,
) -> TrainResult:
    """Minimise the error over `train_rows`; keep the weights that are best on `validation_rows`.

    The error is what the model's task says (`objective`): the mean squared one for a regression. This
    package's own models are trained on targets of mean 0 and standard deviation 1, so that they lose no
    digits to a large mean. What is reported is in squared units of the target; of several targets, the
    mean over all that were measured, each in units of its variance. A negative log likelihood is that
    of the targets so scaled. An ensemble reports the mean over its members, and one step is best for all.

    Args:
        model: maps a `MoleculeBatch` (or rows of features, if `inputs` is an array) to one number per
            row, in the units of the targets; this package's own are given an `EnvironmentBatch`. It is
            not changed, and a call must not change it: BatchNorm and Dropout are refused unless switched
            off by `model.eval()`. One of this package's own takes mean and standard deviation of the
            training targets; see `warm_start`.
        inputs: a table of molecules, or an array of features.
        targets: one number per row of `inputs`, or a column for each target of the model; only the named
            rows are looked at. NaN where a target was not measured, as long as another of the row was.
        train_rows, validation_rows: row numbers. Without validation rows the last weights are kept.
        config: see `TrainConfig`.
        warm_start: go on from what the model answers now, whatever targets it learned that from: mean and
            standard deviation are folded into its last layer (`rescale`). Otherwise one of this package's
            own, though it keeps its weights, answers something else once it takes those of the targets.
        run_dir: a folder for `config.json`, `metrics.jsonl` and checkpoints.
        resume: go on from the checkpoint in `run_dir`, if there is one; else start anew.
        log: called with the metrics after every evaluation.
        mesh: devices that share each batch equally, along all axes of the mesh, and keep the same weights:
            what is learned is what one device would have learned, up to rounding. A run may be resumed on
            other devices than it began on. After `jax.distributed.initialize`, with a mesh of the devices
            of several processes, each of these calls `train` with the same arguments, makes only its own
            parts of the batches, and has the whole result. Default: the device where the weights are.

    Raises:
        ValueError: a named row is invalid or has no finite target; a column of targets has none in the
            training rows; targets of a classification are not 0 or 1, or not both; a call changes the
            model; `run_dir` holds a run with other settings, data or model; the devices of the mesh do not
            divide a batch; processes were given different arguments; or a `run_dir` with devices of
            several processes.
        TrainingDiverged: the error is NaN or infinite.
    """
    config = config or TrainConfig()
    mesh = one_axis(mesh)
    if run_dir and in_several_processes(mesh):
        raise ValueError(
            "run_dir is for a mesh of this process's devices; with those of several processes leave it out, "
            "and save the model that train gives in one of them"
        )
    if not isinstance(inputs, Molecules):
        inputs = np.asarray(inputs)
    targets = np.asarray(targets, np.float64)
    task = model.task if is_known(model) else "regression"
    train_rows, validation_rows = as_rows(train_rows, len(inputs)), as_rows(validation_rows, len(inputs))
    _check_targets(model, targets, len(inputs), task)
    _check_rows(inputs, targets, train_rows, validation_rows)
    _check_columns(targets[train_rows], task)
    model = nnx.clone(model)
    if is_known(model) and task != "classification":
        (rescale if warm_start else set_scale)(model, _scale(targets[train_rows]))
    mean, std, _ = scale_of(model)
    graphdef, params, frozen = nnx.split(model, nnx.Param, ...)
    scaled = (targets - mean) / std
    step_targets = scaled.astype(np.float32)
    # A user's own model answers in the targets' units: only so does one learning rate suit them all.
    variance = np.float32(1.0 if is_known(model) else scaled[train_rows].var() or 1.0)
    _check_digits(step_targets[train_rows], scaled[train_rows], variance)
    unit = float(std) ** 2 if task == "regression" and targets.ndim == 1 else 1.0  # of what is reported
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

    check_agreement(mesh, config=asdict(config), weights=params, data=_arrays(data))
    to_batch = _batcher(model, inputs, min(config.batch_size, len(train_rows)), mesh)
    state.params, state.optimizer, state.best = replicate(state.arrays(), mesh)
    frozen = replicate(frozen, mesh)
    own = partial(local, mesh=mesh)
    validation = _validation_error(graphdef, own(frozen), inputs, step_targets, validation_rows, task)
    order = shuffled_rows(train_rows, config.batch_size, config.seed)
    for _ in range(state.step):  # a resumed run meets the batches that it would have met
        next(order)
    losses = []
    while state.step < config.steps and not state.out_of_patience(config):
        rows = next(order)
        state.params, state.optimizer, loss = _train_step(
            graphdef,
            task,
            state.params,
            frozen,
            state.optimizer,
            to_batch(rows),
            step_targets[rows],
            variance,
            learning_rates[state.step],
            weight_decay,
            mesh,
        )
        losses.append(own(loss))
        state.step += 1
        if state.step % config.evaluate_every and state.step < config.steps:
            continue
        metrics = {
            "step": state.step,
            f"train_{ERRORS[task]}": unit * float(jnp.mean(jnp.stack(losses))),
            f"validation_{ERRORS[task]}": unit * first_says(validation(own(state.params)), mesh),
        }
        losses.clear()
        state.take_note(metrics)
        folder.append(metrics)
        if log is not None:
            log(metrics)
        if state.step - state.saved >= config.checkpoint_every:
            folder.save(state.step, own(state.arrays()), state.numbers())
            state.saved = state.step
    folder.save(state.step, own(state.arrays()), state.numbers())
    return TrainResult(
        model=nnx.merge(graphdef, own(state.best), nnx.state(model, nnx.Not(nnx.Param))),
        best_step=state.best_step,
        validation_error=state.best_error if len(validation_rows) else float("nan"),
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
        step, train_error, error = metrics.values()
        step = int(step)
        if not np.isfinite(train_error) or np.isinf(error):
            raise TrainingDiverged(
                f"after {step} steps the error is {train_error} (training), {error} (validation); lower "
                "learning_rate, or look for outliers in the targets"
            )
        if np.isnan(error) or error < self.best_error:  # NaN: nothing to choose by, keep the last
            self.best_step, self.best_error, self.best = step, error, self.params

    def out_of_patience(self, config: TrainConfig) -> bool:
        waited = (self.step - self.best_step) // config.evaluate_every
        return bool(config.patience) and self.step > 0 and waited >= config.patience


def _adamw(learning_rate, weight_decay) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=weight_decay)


@partial(jax.jit, static_argnames=("graphdef", "task", "mesh"))
def _train_step(
    graphdef,
    task,
    params,
    frozen,
    optimizer,
    batch,
    targets,
    variance,
    learning_rate,
    weight_decay,
    mesh=None,
):
    """One update. Learning rate and weight decay are data, so one compilation serves every run."""

    def objective(params: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
        state, rows_axis = nnx.merge_state(params, frozen), -1 - targets.ndim
        raw = on_parts(partial(apply, graphdef), state, batch, mesh, axis=rows_axis)
        if raw.shape[raw.ndim - 1 - targets.ndim : -1] != targets.shape:
            raise ValueError(
                f"the model answers with shape {raw.shape[:-1]} where {targets.shape} is wanted, one number "
                "per row or one per target; take [:, 0] of a last layer of one output"
            )
        return loss(task, raw, targets) / variance, error(task, raw, targets).mean()

    gradient, now = jax.grad(objective, has_aux=True)(params)
    update, optimizer = _adamw(learning_rate, weight_decay).update(gradient, optimizer, params)
    return optax.apply_updates(params, update), optimizer, now


def _batcher(model: nnx.Module, inputs: Inputs, batch_size: int, mesh: Mesh | None) -> Callable:
    """From rows to what the model takes; always full batches, so nothing is masked.

    This package's own models get distinct environments, a user's own may look at the atoms.
    """
    parts, own = shares(np.arange(batch_size), mesh), own_shares(mesh)
    if isinstance(inputs, Molecules):
        depth = depth_of(model)
        table = inputs if depth is None else distinct_environments(inputs, depth)
        buckets = training_buckets(table, parts.shape[1])
        to_parts = lambda rows: training_parts(table, rows, buckets, own)
    else:
        to_parts = lambda rows: list(inputs[rows[own]])
    return lambda rows: place_parts(to_parts(shares(rows, mesh)), mesh)


def _validation_error(
    graphdef, frozen, inputs: Inputs, targets: np.ndarray, rows: np.ndarray, task: str
) -> Callable[[PyTree], float]:
    """The error on these rows as a function of the parameters."""
    if isinstance(inputs, Molecules):
        batches = [(rows[i], batch) for i, batch in prediction_batches(inputs.take(rows))]
    else:
        batches = [(rows, inputs[rows])]

    def mean_error(params: PyTree) -> float:
        if not len(rows):
            return float("nan")
        total = 0.0
        for some, batch in batches:
            answers = np.asarray(forward(graphdef, nnx.merge_state(params, frozen), batch))
            # The rows that fill up a batch are left out; of an ensemble the first axis is the members.
            answers = jnp.asarray(answers.take(np.arange(len(some)), answers.ndim - 1 - targets.ndim))
            own = error(task, answers, jnp.asarray(targets[some])).mean()
            total += float(own) * np.isfinite(targets[some]).sum()
        mean = total / np.isfinite(targets[rows]).sum()
        return mean if np.isfinite(mean) else float("inf")

    return mean_error


def _scale(targets: np.ndarray) -> Scale:
    """Of the measured targets, column by column."""
    mean, std = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0)
    return Scale(mean, np.where(std > 0, std, 1.0), np.ones(targets.shape[1:]))


def _arrays(data: Sequence[Inputs]) -> list[np.ndarray | tuple[np.ndarray, ...]]:
    """What a model sees of the data."""
    return [
        (of.atom_offsets, of.atoms, of.bonds, of.bond_ends) if isinstance(of, Molecules) else of
        for of in data
    ]


def _check_targets(model: nnx.Module, targets: np.ndarray, n: int, task: str) -> None:
    if targets.ndim not in (1, 2) or len(targets) != n:
        raise ValueError(f"targets have shape {targets.shape}; {n} rows need ({n},) or ({n}, targets)")
    wanted = scale_of(model).mean.shape if is_known(model) else ()
    if targets.shape[1:] != wanted:
        raise ValueError(
            f"targets have shape {targets.shape}, but the model was made for {(n, *wanted)}; make it with "
            f"targets={targets.shape[1] if targets.ndim == 2 else None}"
        )
    if task == "classification" and (wrong := targets[~np.isin(targets, (0, 1)) & ~np.isnan(targets)]).size:
        raise ValueError(f"a classification has targets 0 and 1, not {wrong[0]:g}")


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
    columns = targets[rows].reshape(len(rows), -1)
    for row in rows[np.isinf(columns).any(axis=1) | np.isnan(columns).all(axis=1)]:
        raise ValueError(f"row {row} has target {targets[row]}; leave it out")


def _check_columns(targets: np.ndarray, task: str) -> None:
    """Of the training rows: a column has something to learn."""
    for number, column in enumerate(targets.reshape(len(targets), -1).T):
        measured = column[~np.isnan(column)]
        if not len(measured):
            raise ValueError(f"target column {number} has no number in a training row; leave it out")
        if task == "classification" and (measured == measured[0]).all():
            raise ValueError(
                f"target column {number} is {measured[0]:g} in every training row where it is known; a "
                "classification learns from both 0 and 1"
            )


def _check_digits(rounded: np.ndarray, targets: np.ndarray, variance: np.float32) -> None:
    rounding, spread = np.nanmax(np.abs(rounded - targets)), np.sqrt(variance)
    if rounding > LOST * spread:
        raise ValueError(
            f"float32 rounds the targets by up to {rounding:.2g}, which is much beside their spread of "
            f"{spread:.2g}; give the model targets less their mean, or train a PropertyModel"
        )
