"""Training by momentum as a differentiable function of everything that goes into it.

    train(loss, params, hyper, learning_rate, momentum, ...)      -> Trained(params, velocity, ...)

The derivative needs no memory for the course of training: the course is run backwards (reversal.py), and
only the bits that momentum destroys are kept. Whether it led back to where it came from is checked each
time. If not, or if a number left its range, derivatives are NaN.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from chainrule.hypergrad.differentiable import train_reversibly
from chainrule.hypergrad.exact import Double, Single
from chainrule.hypergrad.implicit import minimum
from chainrule.hypergrad.losses import traced
from chainrule.hypergrad.methods import checkpointed_scan, momentum_scan, optimizer_scan
from chainrule.hypergrad.reversal import Final, Inputs, Program
from chainrule.hypergrad.schedules import groups, spill_plans, spread

Method = Literal["reversible", "checkpoint", "naive", "implicit"]
Precision = Literal["single", "double"]
FIXED = {"single": Single, "double": Double}
LEVELS = {"naive": 0, "checkpoint": 2}  # of recursion; 2 keeps 2 sqrt(steps) states


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Run:
    """What `reverse` needs of a training run."""

    inputs: Inputs
    final: Final
    program: Program = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})  # of the tree of params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trained:
    """The end of training."""

    params: PyTree  # the trained weights; NaN after an overflow
    velocity: PyTree  # like params; None with an optimizer of one's own, and by the method "implicit"
    # Whether a number left its range or was NaN; or the tape was too short; or no minimum was found.
    overflow: Bool[Array, "*lanes"]
    momentum: PyTree  # what was really multiplied by at each step; a tree like that given; None likewise
    bits_per_step: ArrayLike | None  # for each parameter and step, beside the last state; None without a tape
    run: Run | None  # for reverse(); None for methods that keep no tape


def train(
    loss: Callable[[PyTree, Any, Any, Any], Array],
    params: PyTree,
    hyper: PyTree,
    learning_rate: PyTree,
    momentum: PyTree,
    *,
    data: Any = None,
    batch_size: int | None = None,
    key: Array | None = None,
    steps: int,
    method: Method = "reversible",
    precision: Precision = "double",
    min_momentum: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Trained:
    """Minimise loss over params, by `steps` steps of gradient descent with momentum; differentiable.

    At step t, with learning rate a and momentum b,

        v <- b v - (1 - b) grad loss(params),    params <- params + a v,

    so that v is an average of descent directions, and a keeps its meaning as b varies. `to_sgd` gives the
    numbers for which optax.sgd does the same.

    `jax.grad` of anything computed from `.params` or `.velocity`, with respect to params, hyper,
    learning_rate, momentum, floating data, or what loss and data close over, works under jit and vmap. It is
    that of the steps above without rounding, at the weights that were gone through. Second derivatives
    are refused, except by the methods "checkpoint", "naive" and "implicit".

    Args:
        loss: loss(params, hyper, batch, key) -> number, the same for the same arguments: randomness comes
            from the key.
        params: initial weights, a pytree of floating arrays.
        hyper: anything else the loss is to be differentiated by; None if nothing.
        learning_rate: a number, an array of one a step, or a prefix of the tree of params with such leaves.
        momentum: likewise, rounded to n / 2^16, or n / 2^12 in single precision: `Trained.momentum` says what
            it was. At least 1/256, but for 0, plain gradient descent, which costs a whole velocity a step.
        data: batches as a function of the step, data(t), which must always return the same; or arrays.
        batch_size: rows of the arrays to draw for each step, with replacement; None for all of them.
        key: for batches and for the loss, which gets one of its own each step; None if neither needs one.
        steps: how many.
        method: "reversible" keeps the lost bits. "checkpoint" keeps every sqrt(steps)-th state, "naive" all
            that reverse mode wants, both in plain floating-point numbers. "implicit" goes to a minimum of the
            loss, by Newton's method of at most so many steps, and differentiates that: by hyper, data, and
            what loss closes over. Where training went through does not matter then, so learning_rate and
            momentum must be None, batches all of the data, and derivatives by params are exactly zero. A loss
            that uses its key gets one and the same.
        precision: of the reversible method, "double": multiples of 2^-52 below 2048, which needs no
            jax_enable_x64; or "single": multiples of 2^-24 below 128, faster and smaller.
        min_momentum: of traced momenta the least that there will be, which sizes the tape. A schedule that
            needs more gives NaN.
        optimizer: any of optax, in place of momentum, for the methods "checkpoint" and "naive";
            learning_rate and momentum must be None then. Derivatives flow to what it closes over.

    Returns:
        Trained.

    Raises:
        TypeError, ValueError: at once, for what cannot be trained or cannot be reversed, with the way out.

    Example:
        >>> loss = lambda x, target, batch, key: 0.5 * (x - target) ** 2
        >>> final = lambda target: train(loss, 0.0, target, 0.1, 0.9, steps=200).params
        >>> print(f"{final(3.0):.3f} {jax.grad(final)(3.0):.3f}")
        3.000 1.000
    """
    return train_with_probe(
        loss,
        params,
        hyper,
        learning_rate,
        momentum,
        data=data,
        batch_size=batch_size,
        key=key,
        steps=steps,
        method=method,
        precision=precision,
        min_momentum=min_momentum,
        optimizer=optimizer,
        planned_momentum=momentum,
        probe=jnp.zeros(2),
    )


def train_with_probe(
    loss: Callable,
    params: PyTree,
    hyper: PyTree,
    learning_rate: PyTree,
    momentum: PyTree,
    *,
    data: Any,
    batch_size: int | None,
    key: Array | None,
    steps: int,
    method: str,
    precision: str,
    min_momentum: float | None,
    optimizer: optax.GradientTransformation | None,
    planned_momentum: PyTree,
    probe: Float[Array, "2"],
) -> Trained:
    """`train`, for who knows the momentum before it is traced, or wants the findings of the reversal.

    Args:
        planned_momentum: the same numbers as `momentum`, perhaps not traced.
        probe: as in `train_reversibly`.
    """
    if method not in get_args(Method) or precision not in get_args(Precision):
        raise ValueError(
            f"train: method = {method!r} must be one of {get_args(Method)}, precision = {precision!r} one of "
            f"{get_args(Precision)}"
        )
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"train: steps = {steps!r} must be a whole number from 1 on")
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), params)
    _check_params(params)
    if method == "implicit":
        _check_implicit(learning_rate, momentum, data, batch_size, optimizer)
    traced_loss = traced(loss, params, hyper, data, key, batch_size)
    if method == "implicit":
        leaves, structure = jax.tree.flatten(params)
        weights, failed = minimum(traced_loss, leaves, steps)
        return Trained(jax.tree.unflatten(structure, weights), None, failed, None, None, None)
    if optimizer is not None:
        if method == "reversible" or learning_rate is not None or momentum is not None:
            raise ValueError(
                "train: only our momentum can be reversed, and an optimizer has its own learning rate: with "
                "one, say learning_rate=None, momentum=None, method='checkpoint'"
            )
        trained, _ = checkpointed_scan(*optimizer_scan(traced_loss, params, optimizer, steps), LEVELS[method])
        return Trained(trained, None, jnp.asarray(False), None, None, None)
    rates = spread("learning_rate", learning_rate, params, steps)
    momenta = spread("momentum", momentum, params, steps)
    structure = jax.tree.structure(params)
    tree = lambda leaves: jax.tree.unflatten(structure, leaves)
    if method != "reversible":
        scan = momentum_scan(traced_loss, jax.tree.leaves(params), rates, momenta, steps)
        x, v = checkpointed_scan(*scan, LEVELS[method])
        v = [v.astype(x.dtype) for v, x in zip(v, x, strict=True)]
        momentum = jax.tree.map(lambda m: jnp.broadcast_to(jnp.asarray(m), steps), momentum)
        return Trained(tree(x), tree(v), jnp.asarray(False), momentum, None, None)

    plans, used = spill_plans(
        planned_momentum, params, steps, min_momentum, FIXED[precision].denominator_bits
    )
    together = groups(learning_rate, momentum, params, steps)
    of_groups = lambda those_of_leaves: [those_of_leaves[first] for first, *_ in together]
    leaves = jax.tree.leaves(params)
    inputs = Inputs(leaves, traced_loss.others, of_groups(rates), of_groups(plans), together)
    program = Program(traced_loss.step, FIXED[precision], steps)
    x, v, final = train_reversibly(program, inputs, of_groups(momenta), probe)
    sizes = [leaf.size for leaf in leaves]
    bits = [plan.bits(FIXED[precision].bits) for plan in plans]
    bits_per_step = float(np.dot(sizes, bits)) / (sum(sizes) * steps)
    return Trained(
        tree(x), tree(v), final.overflow, used, bits_per_step, Run(inputs, final, program, structure)
    )


def _check_implicit(learning_rate, momentum, data, batch_size, optimizer):
    given = dict(learning_rate=learning_rate, momentum=momentum, batch_size=batch_size, optimizer=optimizer)
    needless = [name for name, setting in given.items() if setting is not None]
    if needless or callable(data):
        raise ValueError(
            "train: a minimum depends on the loss alone, not on the course of training: with "
            f"method='implicit', {' and '.join(needless or ['data as a function'])} must be None. Their "
            "derivatives are those of a training that has not converged: method='reversible' has them"
        )


def _check_params(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(leaf.size for _, leaf in leaves):
        raise ValueError(f"train: params = {params!r} has no arrays in it, or no numbers: nothing to train")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"train: params{jax.tree_util.keystr(path)} is {leaf.dtype}: training moves floating "
                "numbers; keep others in hyper or data"
            )
