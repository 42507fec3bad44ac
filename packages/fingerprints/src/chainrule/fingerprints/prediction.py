"""Ask a trained model: every row of a table gets its answer, and how sure the model is of it.

One can
- predict a whole table, invalid rows as NaN in their place (`predict`),
- predict with a standard deviation (`predict_distribution`), brought into line with the errors on rows
  that were not trained on (`calibrate`),
- apply a model that was split into structure and state (`apply`, `forward`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from chainrule.fingerprints.batches import collate, prediction_batches
from chainrule.fingerprints.model import Ensemble, Known, is_known, scale_of, set_scale
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.objective import Prediction, combine
from chainrule.fingerprints.rows import as_rows

Inputs = Molecules | np.ndarray  # a table of molecules, or rows of features
LEAST_ROWS = 20  # to calibrate on: with fewer, the 90 % quantile is hardly more than the largest error


def predict(model: nnx.Module, inputs: Inputs) -> Float[np.ndarray, "rows ..."]:
    """What a model answers for every row, in order; NaN where the row is invalid.

    Args:
        model: a module that maps a `MoleculeBatch` (or rows of features, if `inputs` is an array) to one
            row, a number or a vector, per molecule.
        inputs: the table, or an array of features.

    Returns:
        A number per row, or a row of numbers; in float64 if from one of this package's models. At most
        one compilation per shape in `PREDICTION_BUCKETS`, whatever the molecules, and one more for each
        doubling that a giant molecule needs.

    Raises:
        ValueError: the model changes when called, see `apply`.
    """
    if is_known(model):
        return _distribution(model, inputs).mean
    return _raw(model, inputs)[0, ..., 0]


def predict_distribution(model: Known, inputs: Inputs) -> Prediction:
    """Mean and standard deviation of what a model expects for every row, in the targets' units.

    Raises:
        ValueError: the model knows no spread.
    """
    if not knows_spread(model):
        raise ValueError(
            "the model says nothing about its own errors: train an Ensemble of models, or one with "
            "task='mean_variance'. (The probabilities of a classification say it by themselves.)"
        )
    return _distribution(model, inputs)


def knows_spread(model: Known) -> bool:
    """Whether a model says how far off it may be: by itself, or by its members' disagreement."""
    several = isinstance(model, Ensemble) and model.size > 1
    return model.task == "mean_variance" or (model.task == "regression" and several)


def calibrate(
    model: Known,
    inputs: Inputs,
    targets: Float[np.ndarray, "rows ..."],
    rows: Sequence[int] | np.ndarray,
    *,
    coverage: float = 0.9,
) -> Known:
    """The model with its standard deviations multiplied by one number per target, so that they cover.

    The number is such that mean +- z std holds the measured value in a fraction `coverage` of the given
    rows, z being the normal distribution's; these should not be rows that the model was trained on. For
    n such rows a new row is then covered with probability `coverage` to about 1 / n, whatever the
    distribution of the errors, if it comes from where they came from.

    Raises:
        ValueError: fewer than 20 rows have a target, or the model knows no spread.

    Source: Vovk et al., Algorithmic Learning in a Random World, 2005 (split conformal prediction).
    """
    rows = as_rows(rows, len(inputs))
    inputs = inputs.take(rows) if isinstance(inputs, Molecules) else inputs[rows]
    mean, std = predict_distribution(model, inputs)
    errors = np.abs(np.asarray(targets, np.float64)[rows] - mean) / std
    measured = np.isfinite(errors).sum(axis=0)
    if measured.min() < LEAST_ROWS:
        raise ValueError(f"{measured.min()} rows to calibrate on are too few; give at least {LEAST_ROWS}")
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    # The (n + 1) in place of n pays for the new row itself.
    level = np.minimum(np.ceil((measured + 1) * coverage) / measured, 1.0)
    columns = errors.reshape(len(errors), -1).T
    found = [np.nanquantile(e, q, method="higher") for e, q in zip(columns, np.ravel(level), strict=True)]
    model = nnx.clone(model)
    scale = scale_of(model)
    set_scale(model, scale._replace(widening=scale.widening * np.reshape(found, errors.shape[1:]) / z))
    return model


def _distribution(model: Known, inputs: Inputs) -> Prediction:
    """In float64, which tells neighbouring targets near ten million apart where float32 cannot."""
    mean, std = combine(model.task, _raw(model, inputs))
    if model.task == "classification":
        return Prediction(mean, std)
    scale = scale_of(model)
    return Prediction(scale.mean + scale.std * mean, scale.widening * scale.std * std)


def _raw(model: nnx.Module, inputs: Inputs) -> Float[np.ndarray, "members rows ..."]:
    graphdef, state = nnx.split(model)
    axis = 1 if isinstance(model, Ensemble) else 0
    parts = [
        np.asarray(forward(graphdef, state, batch)).take(np.arange(n), axis) for n, batch in _batches(inputs)
    ]
    if not parts and isinstance(inputs, Molecules):
        nothing = jax.eval_shape(partial(forward, graphdef), state, collate(inputs, []))
        parts.append(np.zeros(nothing.shape, nothing.dtype))
    values = np.concatenate(parts, axis)
    values = values if axis else values[None]
    if isinstance(inputs, Molecules):
        values[:, ~inputs.valid] = np.nan
    return values


def _batches(inputs: Inputs) -> Iterator[tuple[int, PyTree]]:
    if isinstance(inputs, Molecules):
        for rows, batch in prediction_batches(inputs):
            yield len(rows), batch
    else:
        yield len(inputs), np.asarray(inputs, np.float32)


@partial(jax.jit, static_argnames="graphdef")
def forward(graphdef: nnx.GraphDef, state: PyTree, inputs) -> Array:
    """`apply`, compiled once for each architecture and shape."""
    return apply(graphdef, state, inputs)


def apply(graphdef: nnx.GraphDef, state: PyTree, inputs) -> Array:
    """The raw numbers of a split model, (members,) rows x .. x outputs; for use under jit.

    Of a user's own model, what it answers, as the only output.

    Raises:
        ValueError: at once, if a call leaves the model other than it was, as BatchNorm and Dropout do
            while they train: its answers depend on the company of a molecule, or on chance.
    """
    model = nnx.merge(graphdef, state, copy=True)  # a copy of this trace's own, which may change
    raw = model.raw(inputs) if is_known(model) else jnp.asarray(model(inputs))[..., None]
    before = {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if variable.get_value() is not before.get(path):
            raise ValueError(
                f"a call of the model changes its {'.'.join(map(str, path))} ({type(variable).__name__}), as "
                "BatchNorm and Dropout do while they train; here only the weights learn, and no answer "
                "depends on other rows or on chance. Switch such layers off (model.eval()), take LayerNorm, "
                "weight_decay or patience in their place, or write the training loop yourself (README, "
                "'A layer of your own network')"
            )
    return raw
