"""From fingerprints to properties: heads, models of one or many targets, ensembles of models.

One can
- put a head on any given features (`Head`), or on a neural fingerprint (`PropertyModel`),
- train several models as one and ask them together (`Ensemble`),
- read and set the units a model answers in (`Scale`), and change them without changing the answers
  (`rescale`).

A network itself works on targets of mean 0 and standard deviation 1 (`raw`); a call answers in the
units of the targets it was fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from chainrule.fingerprints.configs import ModelConfig, Task, Variant
from chainrule.fingerprints.environments import Batch
from chainrule.fingerprints.neural import NeuralFingerprint
from chainrule.fingerprints.objective import OUTPUTS, check_task


class TargetScale(nnx.Variable):
    """A number that belongs to the training targets: frozen into the model, not trained."""


class Scale(NamedTuple):
    """What leads from a network's numbers to a target's units, each a number or one per target."""

    mean: Float[np.ndarray, " *targets"]
    std: Float[np.ndarray, " *targets"]
    widening: Float[np.ndarray, " *targets"]  # of predicted standard deviations, see `calibrate`


class Head(nnx.Module):
    """Features to numbers per row: linear, or through one hidden layer of relus."""

    def __init__(
        self,
        inputs: int,
        *,
        hidden: int,
        targets: int | None = None,
        task: str = "regression",
        input_scale: float = 1.0,
        log_counts: bool = False,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            inputs: number of features.
            hidden: size of the hidden layer; 0 for a linear head.
            targets: None for one number per row; else this many columns, which share all but the last
                layer.
            task: "regression"; "mean_variance", which also says how far off it expects to be; or
                "classification", targets 0 and 1, answers the probability of 1. See `objective`.
            input_scale: features are multiplied by it, to bring them to order one.
            log_counts: the network sees log(1 + feature), the features being counts: of what a molecule
                has twenty of, one more is news no more.

        Raises:
            ValueError: unknown task, no targets, or a negative size.
        """
        check_task(task)
        if hidden < 0:
            raise ValueError(f"hidden={hidden} must not be negative; 0 makes the head linear")
        if targets is not None and targets < 1:
            raise ValueError(f"targets={targets} must be at least 1, or None for a plain number per row")
        self.input_scale = input_scale
        self.log_counts = log_counts
        self.task = task
        self.targets = targets
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs) if hidden else None
        self.output = nnx.Linear(hidden or inputs, (targets or 1) * OUTPUTS[task], rngs=rngs)
        shape = () if targets is None else (targets,)
        self.mean = TargetScale(jnp.zeros(shape, jnp.float32))
        self.std = TargetScale(jnp.ones(shape, jnp.float32))
        self.widening = TargetScale(jnp.ones(shape, jnp.float32))

    def raw(self, features: Float[Array, "rows features"]) -> Float[Array, "rows ..."]:
        """The network's numbers, of order one: rows x outputs, or rows x targets x outputs."""
        values = self.input_scale * (jnp.log1p(features) if self.log_counts else features)
        if self.hidden is not None:
            values = jax.nn.relu(self.hidden(values))
        targets = () if self.targets is None else (self.targets,)
        return self.output(values).reshape(values.shape[0], *targets, OUTPUTS[self.task])

    def answer(self, raw: Float[Array, "rows ..."]) -> Float[Array, "rows ..."]:
        """Predictions in the units of the targets, from what `raw` gives."""
        if self.task == "classification":
            return jax.nn.sigmoid(raw[..., 0])
        return self.mean[...] + self.std[...] * raw[..., 0]

    def __call__(self, features: Float[Array, "rows features"]) -> Float[Array, "rows ..."]:
        return self.answer(self.raw(features))


class PropertyModel(nnx.Module):
    """Properties of molecules, predicted from their neural fingerprint.

    Example:
        >>> from chainrule.fingerprints import collate, featurize
        >>> model = PropertyModel(rngs=nnx.Rngs(0))
        >>> model(collate(featurize(["CCO", "CC"]), [0, 1])).shape
        (2,)
    """

    # The entries of a fingerprint are sums over some 13 atoms and 4 layers; a tenth of that is of
    # order one, and trains better than the sums themselves (docs/fingerprints.md). That is for a linear
    # head, whose prediction remains a sum over atoms; the net takes their logarithm.
    INPUT_SCALE = 0.1

    def __init__(
        self,
        *,
        depth: int = 4,
        width: int = 20,
        length: int = 64,
        variant: Variant = "talk",
        hidden: int = 100,
        targets: int | None = None,
        task: Task = "regression",
        rngs: nnx.Rngs,
    ):
        """See `NeuralFingerprint` for the first four arguments, `Head` for the next three."""
        self.config = ModelConfig(depth, width, length, variant, hidden, task)
        self.fingerprint = NeuralFingerprint(
            depth=depth, width=width, length=length, variant=variant, rngs=rngs
        )
        self.head = Head(
            length,
            hidden=hidden,
            targets=targets,
            task=task,
            input_scale=1.0 if hidden else self.INPUT_SCALE,
            log_counts=hidden > 0,
            rngs=rngs,
        )

    @property
    def task(self) -> str:
        return self.head.task

    def raw(self, batch: Batch) -> Float[Array, "molecules ..."]:
        """As of `Head`."""
        return self.head.raw(self.fingerprint(batch))

    def __call__(self, batch: Batch) -> Float[Array, "molecules ..."]:
        return self.head.answer(self.raw(batch))


class Ensemble(nnx.Module):
    """Models of one architecture, side by side in one set of arrays: one compilation trains them all.

    At every step of a training each has the weights that it would have alone, from the same batches; the
    step that is kept is one for all. Their mean is a better prediction than one of them, and how far they
    disagree is a measure of what they do not know.

    Example:
        >>> from chainrule.fingerprints import collate, featurize
        >>> ensemble = Ensemble([PropertyModel(rngs=nnx.Rngs(seed)) for seed in range(5)])
        >>> ensemble(collate(featurize(["CCO", "CC"]), [0, 1])).shape
        (2,)
    """

    def __init__(self, models: Sequence[PropertyModel] | Sequence[Head]):
        """
        Raises:
            ValueError: there are no models, or their architectures differ.
        """
        if not models:
            raise ValueError("an ensemble needs a model")
        (graphdef, *others), states = zip(*(nnx.split(model) for model in models), strict=True)
        for number, other in enumerate(others, 1):
            if other != graphdef:
                raise ValueError(f"model {number} has another architecture than model 0")
        self.size = len(models)
        self.stacked = nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))

    @property
    def task(self) -> str:
        return self.stacked.task

    def member(self, number: int) -> Any:
        """One of the models, a `PropertyModel` or a `Head`, by itself."""
        if not 0 <= number < self.size:
            raise ValueError(f"member {number} is not there; the members are 0 to {self.size - 1}")
        graphdef, state = nnx.split(self.stacked)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[number], state))

    def raw(self, inputs) -> Float[Array, "members rows ..."]:
        """As of `Head`, for every member."""
        return self._each(lambda model: model.raw(inputs))

    def __call__(self, inputs) -> Float[Array, "rows ..."]:
        return self._each(lambda model: model(inputs)).mean(axis=0)

    def _each(self, call) -> Array:
        graphdef, state = nnx.split(self.stacked)
        return jax.vmap(lambda state: call(nnx.merge(graphdef, state)))(state)


def size_of(model: PropertyModel | Ensemble) -> int:
    """How many models these are."""
    return model.size if isinstance(model, Ensemble) else 1


def members_of(model: PropertyModel | Ensemble) -> list[PropertyModel]:
    """The models of an ensemble, each by itself; of one model, that."""
    return [model.member(k) for k in range(model.size)] if isinstance(model, Ensemble) else [model]


def head_of(model: Known) -> Head:
    """The head; of an ensemble the one that has the weights of all members."""
    one = model.stacked if isinstance(model, Ensemble) else model
    return one.head if isinstance(one, PropertyModel) else one


Known = Head | PropertyModel | Ensemble


def is_known(model: nnx.Module) -> TypeGuard[Known]:
    """Whether a model surely answers by `raw` and its scale. A subclass may do otherwise."""
    return type(model) in get_args(Known)


def depth_of(model: nnx.Module) -> int | None:
    """How many layers the fingerprint of a `PropertyModel` or an ensemble of them has.

    None for others, and for a fingerprint of a user's own, which may look at the atoms.
    """
    one = model.stacked if type(model) is Ensemble else model
    if type(one) is not PropertyModel or type(one.fingerprint) is not NeuralFingerprint:
        return None
    return len(one.fingerprint.weights.convolutions)


def scale_of(model: nnx.Module) -> Scale:
    """The units that a model answers in; none (mean 0, standard deviation 1) for a user's own."""
    if not is_known(model):
        return Scale(np.zeros(()), np.ones(()), np.ones(()))
    head, first = head_of(model), 0 if isinstance(model, Ensemble) else ()  # members share one
    return Scale(*(np.asarray(v[...], np.float64)[first] for v in (head.mean, head.std, head.widening)))


def set_scale(model: nnx.Module, scale: Scale) -> None:
    """Make every head in the model answer in these units."""
    for _, part in nnx.iter_modules(model):
        if isinstance(part, Head):
            for variable, value in zip((part.mean, part.std, part.widening), scale, strict=True):
                variable[...] = jnp.broadcast_to(jnp.asarray(value, jnp.float32), variable.shape)


def rescale(model: Known, scale: Scale) -> None:
    """Give a model another scale but leave it its answers: the change goes into the last layer.

    The variance that a head for mean and variance expects is not linear in its weights; it stays what it
    was in units of the scale.
    """
    old = scale_of(model)
    set_scale(model, scale)
    new = scale_of(model)
    head = head_of(model)
    shape = (*new.mean.shape, OUTPUTS[head.task])
    factor, shift = np.ones(shape), np.zeros(shape)
    factor[..., 0], shift[..., 0] = old.std / new.std, (old.mean - new.mean) / new.std
    last: Any = head.output  # nnx types a bias as one that may be missing
    for weights, added in ((last.kernel, np.zeros(shape)), (last.bias, shift)):
        values = np.asarray(weights[...], np.float64)
        own = values.reshape(-1, factor.size) * factor.reshape(1, -1) + added.reshape(1, -1)
        weights[...] = jnp.asarray(own.reshape(values.shape), weights[...].dtype)
