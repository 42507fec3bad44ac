"""Learn what goes into training: learning rates, momenta, initial weights, penalties, data.

fit(objective, loss, meta, optimizer, training=...)      -> Fitted(meta, optimizer_state, history)

A meta-step trains anew, takes the derivative of the objective through all of that training, and hands it to
any optimizer of optax. `training` says what the numbers that are learned, `meta`, mean: logarithms, logits,
numbers shared between layers or steps are a line of it. A derivative whose certificate does not hold is never
used.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from chainrule.hypergrad.run_file import RunFile, digests
from chainrule.hypergrad.training import Method, Precision, train_with_probe

OnFailure = Literal["raise", "skip"]
NOTHING = {"hyper": None, "learning_rate": None, "momentum": None, "data": None, "optimizer": None}
ARRAYS = ("params", "hyper", "learning_rate", "momentum", "data")
PROGRAMS = 8  # compiled meta-steps that are kept for further calls


class MetaStep(NamedTuple):
    """What happened in one meta-step, in numbers of Python."""

    step: int  # from 0 on
    objective: float  # at the end of training, before the step
    gradient_norm: float  # of the derivative by meta; where it explodes, training has become chaotic
    mismatches: int  # as in Certificate; 0 for methods that reverse nothing
    overflow: bool  # likewise
    bits_per_step: float  # likewise; NaN without a tape
    taken: bool  # whether the certificate held and all numbers were finite, so that meta moved


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Where meta-optimisation ended."""

    meta: PyTree  # like that given
    optimizer_state: PyTree
    history: list[MetaStep]  # all of it, that before an interruption too


class MetaStepFailed(RuntimeError):
    """A meta-step had no derivative that can be trusted."""

    def __init__(self, found: MetaStep):
        super().__init__(
            f"fit: at meta-step {found.step} the derivative cannot be trusted: {found.mismatches} mismatches "
            f"in the reversal, overflow {found.overflow}, objective {found.objective}, norm of the "
            f"derivative {found.gradient_norm}. Smaller learning rates, or a smaller step of the outer "
            "optimizer, keep training in range; on_failure='skip' goes on without this step"
        )
        self.found = found


def fit(
    objective: Callable[..., Array],
    loss: Callable[[PyTree, Any, Any, Any], Array],
    meta: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    training: Callable[..., dict[str, Any]],
    data: PyTree = None,
    key: Array,
    meta_steps: int,
    steps: int,
    batch_size: int | None = None,
    method: Method = "reversible",
    precision: Precision = "double",
    min_momentum: float | None = None,
    on_failure: OnFailure = "raise",
    callback: Callable[[MetaStep, PyTree], None] | None = None,
    folder: str | Path | None = None,
) -> Fitted:
    """Minimise objective(trained weights) over meta, from which `training` makes what goes into training.

    Args:
        objective: a number computed from the trained weights, objective(params).
        loss: what training minimises, loss(params, hyper, batch, key) as in `train`.
        meta: floating numbers to start from, a pytree.
        optimizer: any of optax that asks for derivatives only; it moves meta.
        training: training(meta, key) -> {"params": ..., "learning_rate": ..., "momentum": ...}, and any of
            "hyper" and "data", as `train` takes them; "optimizer", one of optax to train by; "objective", one
            of this meta-step's own, for validation data drawn with the key or a penalty on meta. What does
            not depend on meta is not learned.
        data: arrays, a pytree, that differ from call to call, such as the rows of a repetition. If given,
            training(meta, key, data) and objective(params, data) get them, and what is compiled is kept: a
            further call with the very same objective, loss, optimizer and training, the same settings and
            arrays of the same shapes compiles nothing. As under `jax.jit`, what these functions close over
            is then what it was at the first call.
        key: each meta-step has one of its own, made from this: half of it goes to `training`, half to `train`
            for batches and the loss.
        meta_steps: how many in all, those that the folder already holds among them.
        steps, batch_size, method, precision, min_momentum: as in `train`. A momentum that is learned, or made
            by jax.numpy, is traced, and needs min_momentum.
        on_failure: of a meta-step whose certificate does not hold, or whose numbers are not finite. "raise":
            MetaStepFailed; the steps before it are kept. "skip": meta and the optimizer stay as they are.
        callback: callback(MetaStep, meta) after each meta-step.
        folder: where the state is kept after each meta-step, in one file, written whole or not at all. A call
            with the same settings goes on from there, to the same bits as without the interruption. Functions
            cannot be compared: settings, key, first meta and what `training` makes of these are.

    Returns:
        Fitted.

    Raises:
        MetaStepFailed: see on_failure.
        ValueError: at once, for a folder of another run, and for what `train` refuses.
        OSError: at once, for a folder that cannot be written.

    Example:
        >>> loss = lambda x, target, batch, key: 0.5 * (x - target) ** 2
        >>> training = lambda meta, key: dict(
        ...     params=0.0, hyper=3.0, learning_rate=jnp.exp(meta), momentum=0.5)
        >>> fitted = fit(lambda x: (x - 3.0) ** 2, loss, -3.0, optax.adam(0.2),
        ...     training=training, key=jax.random.key(0), meta_steps=20, steps=10)
        >>> print(f"{fitted.history[0].objective:.2f} {fitted.history[-1].objective:.2f}")
        3.46 0.00

        The same with data of the call, so that others need no other program:

        >>> training = lambda meta, key, target: dict(
        ...     params=0.0, hyper=target, learning_rate=jnp.exp(meta), momentum=0.5)
        >>> again = fit(lambda x, target: (x - target) ** 2, loss, -3.0, optax.adam(0.2), data=3.0,
        ...     training=training, key=jax.random.key(0), meta_steps=20, steps=10)
        >>> again.history == fitted.history
        True
    """
    if on_failure not in get_args(OnFailure):
        raise ValueError(f"fit: on_failure = {on_failure!r} must be one of {get_args(OnFailure)}")
    if not isinstance(meta_steps, int) or meta_steps < 0:
        raise ValueError(f"fit: meta_steps = {meta_steps!r} must be a whole number")
    settings = dict(
        steps=steps, batch_size=batch_size, method=method, precision=precision, min_momentum=min_momentum
    )
    made_of = objective, loss, optimizer, training, *settings.values()
    given_data = () if data is None else (data,)
    meta_step = (_kept_meta_step if given_data and _hashable(made_of) else _meta_step)(*made_of)
    meta = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), meta)
    state: Any = (meta, optimizer.init(meta))
    history: list[MetaStep] = []

    file = None
    if folder is not None:
        given = _given(training(meta, _keys(key, 0)[0], *given_data))
        arrays = {name: given[name] for name in ARRAYS if not callable(given[name])}
        identity = settings | {"state": str(jax.tree.structure(state))}
        identity |= digests(meta=meta, key=key, **arrays)
        if data is not None:
            identity |= {"data of the call": digests(data=data)["data"]}
        file = RunFile(folder, identity)
        state, history = _read(file, state)
    if len(history) > meta_steps:
        raise ValueError(
            f"fit: {folder} holds {len(history)} meta-steps, more than meta_steps = {meta_steps}: ask for as "
            "many, or give another folder"
        )
    if file is not None and len(history) < meta_steps:
        file.prepare()
    for step in range(len(history), meta_steps):
        state, numbers = meta_step(state, *_keys(key, step), *given_data)
        found = MetaStep(step, **{name: np.asarray(number).item() for name, number in numbers.items()})
        if not found.taken and on_failure == "raise":
            raise MetaStepFailed(found)
        history.append(found)
        if file is not None:
            file.write(state, _columns(history))
        if callback is not None:
            callback(found, state[0])
    meta, optimizer_state = state
    return Fitted(meta, optimizer_state, history)


def _meta_step(objective, loss, optimizer, training, steps, batch_size, method, precision, min_momentum):
    """(meta, optimizer's state), keys, perhaps data -> the same after one step, or as they were, and the
    numbers of it."""
    settings = dict(
        steps=steps, batch_size=batch_size, method=method, precision=precision, min_momentum=min_momentum
    )

    def value(meta, probe, training_key, train_key, *data):
        given = _given(training(meta, training_key, *data))
        goal = given.pop("objective", lambda params: objective(params, *data))
        trained = train_with_probe(
            loss, **given, key=train_key, planned_momentum=given["momentum"], probe=probe, **settings
        )
        return goal(trained.params), trained

    @jax.jit
    def step(state, *keys_and_data):
        meta, _ = state
        derivative = jax.value_and_grad(value, (0, 1), has_aux=True)
        (number, trained), (gradient, probe) = derivative(meta, jnp.zeros(2), *keys_and_data)
        mismatches, overflow = probe[0], (probe[1] != 0) | trained.overflow
        norm = optax.tree.norm(gradient)
        taken = (mismatches == 0) & ~overflow & jnp.isfinite(number) & jnp.isfinite(norm)
        updates, optimizer_state = optimizer.update(gradient, state[1], meta)
        moved = optax.apply_updates(meta, updates), optimizer_state
        state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, state)
        numbers = dict(
            objective=number,
            gradient_norm=norm,
            mismatches=mismatches.astype(jnp.int32),
            overflow=overflow,
            bits_per_step=jnp.nan if trained.bits_per_step is None else trained.bits_per_step,
            taken=taken,
        )
        return state, numbers

    return step


_kept_meta_step = functools.lru_cache(maxsize=PROGRAMS)(_meta_step)


def _hashable(parts: tuple[Any, ...]) -> bool:
    """Whether they can be told from others; a module of arrays cannot."""
    try:
        hash(parts)
    except TypeError:
        return False
    return True


def _given(made: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(made, dict) or "params" not in made or made.keys() - {*NOTHING, "params", "objective"}:
        names = list(made) if isinstance(made, dict) else made
        raise ValueError(
            f"fit: training(meta, key) must return a dict with 'params' and any of {[*NOTHING]} and "
            f"'objective', got {names}"
        )
    return NOTHING | made


def _keys(key, step):
    training_key, train_key = jax.random.split(jax.random.fold_in(key, step))
    return training_key, train_key


def _columns(history: list[MetaStep]) -> dict[str, np.ndarray]:
    columns = zip(*history, strict=True)
    return {name: np.asarray(column) for name, column in zip(MetaStep._fields, columns, strict=True)}


def _read(file: RunFile, state: PyTree) -> tuple[Any, list[MetaStep]]:
    """What the file holds, or the state as it is before the first step."""
    found = file.read(state)
    if found is None:
        return state, []
    state, history = found
    columns = [history[name].tolist() for name in MetaStep._fields]
    return state, [MetaStep(*row) for row in zip(*columns, strict=True)]
