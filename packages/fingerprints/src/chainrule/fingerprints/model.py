"""From a fingerprint to a property: a linear or a neural-net head, in the target's own units.

One can
- put a head on a neural fingerprint (`PropertyModel`), or on any given features (`Head`),
- predict a whole table, invalid rows as NaN in their place (`predict`),
- take the units off a model (`standardized`), so that float32 has to hold no target of ten million.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from chainrule.fingerprints.batches import MoleculeBatch, collate, prediction_batches
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.neural import NeuralFingerprint


class TargetScale(nnx.Variable):
    """Mean and standard deviation of the training targets: frozen into the model, not trained."""


class Head(nnx.Module):
    """Features to one number per row: linear, or through one hidden layer of relus.

    The network itself works on targets of mean 0 and standard deviation 1; `__call__` answers in the
    units of the targets it was fitted to (`fit_scale`).
    """

    def __init__(self, inputs: int, *, hidden: int, input_scale: float = 1.0, rngs: nnx.Rngs):
        """
        Args:
            inputs: number of features.
            hidden: size of the hidden layer; 0 for a linear head.
            input_scale: features are multiplied by it, to bring them to order one.
        """
        self.input_scale = input_scale
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs) if hidden else None
        self.output = nnx.Linear(hidden or inputs, 1, rngs=rngs)
        self.mean = TargetScale(jnp.zeros((), jnp.float32))
        self.std = TargetScale(jnp.ones((), jnp.float32))

    def fit_scale(self, targets: Float[np.ndarray, " rows"]) -> None:
        """Take mean and standard deviation from the training targets."""
        self.set_scale(targets.mean(), targets.std() or 1.0)

    def set_scale(self, mean: float, std: float) -> None:
        self.mean[...] = jnp.asarray(mean, jnp.float32)
        self.std[...] = jnp.asarray(std, jnp.float32)

    def __call__(self, features: Float[Array, "rows features"]) -> Float[Array, " rows"]:
        values = self.input_scale * features
        if self.hidden is not None:
            values = jax.nn.relu(self.hidden(values))
        return self.mean[...] + self.std[...] * self.output(values)[:, 0]


class PropertyModel(nnx.Module):
    """A property of molecules, predicted from their neural fingerprint.

    Example:
        >>> from chainrule.fingerprints import collate, featurize
        >>> model = PropertyModel(rngs=nnx.Rngs(0))
        >>> model(collate(featurize(["CCO", "CC"]), [0, 1])).shape
        (2,)
    """

    # The entries of a fingerprint are sums over some 13 atoms and 4 layers; a tenth of that is of
    # order one, and trains better than the sums themselves (docs/fingerprints.md).
    INPUT_SCALE = 0.1

    def __init__(
        self,
        *,
        depth: int = 4,
        width: int = 20,
        length: int = 64,
        variant: str = "talk",
        hidden: int = 100,
        rngs: nnx.Rngs,
    ):
        """See `NeuralFingerprint` for the first four arguments; `hidden=0` makes the head linear."""
        self.fingerprint = NeuralFingerprint(
            depth=depth, width=width, length=length, variant=variant, rngs=rngs
        )
        self.head = Head(length, hidden=hidden, input_scale=self.INPUT_SCALE, rngs=rngs)

    def __call__(self, batch: MoleculeBatch) -> Float[Array, " molecules"]:
        return self.head(self.fingerprint(batch))


def standardized(model: nnx.Module) -> tuple[nnx.Module, float, float]:
    """`(inner, mean, std)` with model(x) = mean + std * inner(x), where inner answers are of order one.

    Far from zero, float32 cannot tell neighbouring targets apart (near 1e7 it knows whole numbers only);
    `train` and `predict` go by the inner model and put the units on in float64. Only a `PropertyModel`
    or a `Head` is known to end in its scale; of any other model, (model, 0, 1).
    """
    if type(model) not in (PropertyModel, Head):
        return model, 0.0, 1.0
    inner = nnx.clone(model)
    head = inner.head if isinstance(inner, PropertyModel) else cast(Head, inner)
    mean, std = float(head.mean[...]), float(head.std[...])
    head.set_scale(0.0, 1.0)
    return inner, mean, std


def predict(model: nnx.Module, molecules: Molecules) -> np.ndarray:
    """What a model answers for every row of a table, in order; NaN where the row is invalid.

    Args:
        model: a module that maps a `MoleculeBatch` to one row (a number or a vector) per molecule.
        molecules: the table.

    Returns:
        rows, or rows x features; in float64 if from a `PropertyModel`. At most one compilation per shape
        in `PREDICTION_BUCKETS`, whatever the molecules, and one more for each doubling that a giant
        molecule needs.

    Raises:
        ValueError: the model changes when called, see `apply`.
    """
    inner, mean, std = standardized(model)
    graphdef, state = nnx.split(inner)
    parts = []
    for rows, batch in prediction_batches(molecules):
        parts.append(np.asarray(forward(graphdef, state, batch))[: len(rows)])
    if not parts:
        nothing = jax.eval_shape(partial(forward, graphdef), state, collate(molecules, []))
        parts.append(np.zeros(nothing.shape, nothing.dtype))
    values = np.concatenate(parts)
    values[~molecules.valid] = np.nan
    return values if inner is model else _with_units(values, mean, std)


def predict_rows(
    model: nnx.Module, features: Float[np.ndarray, "rows features"]
) -> Float[np.ndarray, " rows"]:
    """What a `Head` answers for rows of features, in float64."""
    inner, mean, std = standardized(model)
    graphdef, state = nnx.split(inner)
    return _with_units(np.asarray(forward(graphdef, state, np.asarray(features, np.float32))), mean, std)


def _with_units(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    return mean + std * values.astype(np.float64)


@partial(jax.jit, static_argnames="graphdef")
def forward(graphdef: nnx.GraphDef, state: PyTree, inputs) -> Array:
    """`apply`, compiled once for each architecture and shape."""
    return apply(graphdef, state, inputs)


def apply(graphdef: nnx.GraphDef, state: PyTree, inputs) -> Array:
    """A split model applied to its inputs; for use under jit.

    Raises:
        ValueError: at once, if a call leaves the model other than it was, as BatchNorm and Dropout do
            while they train: its answers depend on the company of a molecule, or on chance.
    """
    model = nnx.merge(graphdef, state, copy=True)  # a copy of this trace's own, which may change
    answers = model(inputs)
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
    return answers
