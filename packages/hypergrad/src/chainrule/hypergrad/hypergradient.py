"""Derivatives by everything that went into training, and whether to trust them.

value_and_hypergrad(objective, loss, params, hyper, ...)      -> value, Hypergradient, Certificate
reverse(trained)                                              -> initial weights, velocity, Certificate

`jax.grad` of what `train` returns has the same derivatives; but a backward pass of JAX can tell of a failure
only by NaN. These two also tell what failed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree

from chainrule.hypergrad.reversal import backward, floats
from chainrule.hypergrad.training import Method, Precision, Trained, train_with_probe

Argument = Literal["params", "hyper", "learning_rate", "momentum", "data"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a reversal can be trusted."""

    # Of initial weights, velocities and registers: how many are not as they were.
    mismatches: Int[Array, "*lanes"]
    overflow: Bool[Array, "*lanes"]  # as in Trained; or a derivative of the method "implicit" is not finite
    momentum: PyTree  # as in Trained
    bits_per_step: ArrayLike | None  # as in Trained

    @property
    def holds(self) -> Bool[Array, "*lanes"]:
        return (self.mismatches == 0) & ~self.overflow


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypergradient:
    """Derivatives by what went into training; None for what was not asked for."""

    params: PyTree
    hyper: PyTree
    learning_rate: PyTree
    momentum: PyTree
    data: PyTree


def value_and_hypergrad(
    objective: Callable[[PyTree], Array],
    loss: Callable[[PyTree, Any, Any, Any], Array],
    params: PyTree,
    hyper: PyTree,
    learning_rate: PyTree,
    momentum: PyTree,
    *,
    wrt: Sequence[Argument] | None = None,
    data: Any = None,
    batch_size: int | None = None,
    key: Array | None = None,
    steps: int,
    method: Method = "reversible",
    precision: Precision = "double",
    min_momentum: float | None = None,
) -> tuple[Array, Hypergradient, Certificate]:
    """objective(trained params), its derivatives by what went into training, and whether to trust these.

    Args:
        objective: a number computed from the trained weights, such as the loss on other data.
        wrt: what to differentiate by; None for all but data. Integer leaves have no derivative, float0.
        method: "reversible", or "implicit", which has derivatives by "hyper", its default, and "data".
        others: as in `train`.

    Returns:
        The value, the Hypergradient, and the Certificate. Where that does not hold, derivatives are NaN.

    Example:
        >>> loss = lambda x, target, batch, key: 0.5 * (x - target) ** 2
        >>> value, gradient, certificate = value_and_hypergrad(
        ...     lambda x: (x - 2.0) ** 2, loss, 0.0, 3.0, 0.1, 0.9, steps=200)
        >>> print(f"{value:.3f} {gradient.hyper:.3f} {certificate.holds}")
        1.000 2.000 True
    """
    if wrt is None:
        wrt = ("hyper",) if method == "implicit" else ("params", "hyper", "learning_rate", "momentum")
    if method not in ("reversible", "implicit"):
        raise ValueError(
            f"value_and_hypergrad: method = {method!r} has no certificate, only 'reversible' and 'implicit' "
            "have: take jax.value_and_grad of what train returns"
        )
    if method == "implicit" and not {*wrt} <= {"hyper", "data"}:
        raise ValueError(
            f"value_and_hypergrad: wrt = {[*wrt]}: a minimum does not depend on where training began and how "
            "it went; with method='implicit' give some of ['hyper', 'data']"
        )
    given = {
        "params": params,
        "hyper": hyper,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "data": data,
    }
    if not {*wrt} <= {*get_args(Argument)} or ("data" in wrt and callable(data)):
        raise ValueError(
            f"value_and_hypergrad: wrt = {[*wrt]} must be some of {[*get_args(Argument)]}, data if arrays"
        )

    def value(chosen, probe):
        trained = train_with_probe(
            loss,
            **given | chosen,
            batch_size=batch_size,
            key=key,
            steps=steps,
            method=method,
            precision=precision,
            min_momentum=min_momentum,
            optimizer=None,
            planned_momentum=momentum,
            probe=probe,
        )
        return objective(trained.params), trained

    chosen = {name: jax.tree.map(jnp.asarray, given[name]) for name in wrt}
    both = jax.value_and_grad(value, argnums=(0, 1), has_aux=True, allow_int=True)
    (number, trained), (gradient, found) = both(chosen, jnp.zeros(2))
    mismatches = found[0].astype(jnp.int32)
    overflow = (found[1] != 0) | trained.overflow
    if method == "implicit":  # its linear system may fail where its minimum was found
        overflow |= ~jnp.stack([jnp.isfinite(x).all() for x in _numbers(gradient)]).all()
    certificate = Certificate(mismatches, overflow, trained.momentum, trained.bits_per_step)
    return number, Hypergradient(**{name: gradient.get(name) for name in given}), certificate


def _numbers(tree: PyTree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]


def reverse(trained: Trained) -> tuple[PyTree, PyTree, Certificate]:
    """The weights and the velocity that training began with, from those that it ended with.

    No derivative flows through these.
    """
    if trained.run is None:
        raise ValueError("reverse: this was trained by a method without a tape: use method='reversible'")
    run = jax.lax.stop_gradient(trained.run)
    found = backward(run.program, run.inputs, run.final)
    tree = lambda numbers: jax.tree.unflatten(run.structure, floats(run.inputs, numbers))
    certificate = Certificate(found.mismatches, run.final.overflow, trained.momentum, trained.bits_per_step)
    return tree([m.x for m in found.moved]), tree([m.v for m in found.moved]), certificate
