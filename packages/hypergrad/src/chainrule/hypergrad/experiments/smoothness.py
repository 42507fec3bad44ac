"""The derivative of the last loss by the learning rate of each step, before anything is learned.

One can
- average it over initial weights and batches (`initial_hypergradient`).

A single one is noisy: batches differ from step to step. Its mean is smooth in the step, and says where in
training a larger rate would help.

Source: Maclaurin, Duvenaud and Adams 2015, section 3.1: the mean over 100 seeds.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from chainrule.core.experiments.console import Tell, silent
from chainrule.hypergrad.experiments.networks import fan_in, init
from chainrule.hypergrad.experiments.problem import Problem, loss
from chainrule.hypergrad.hypergradient import value_and_hypergrad


def initial_hypergradient(
    task: Problem, learning_rate: PyTree, momentum: PyTree, *, keys: Array, progress: Tell = silent
) -> dict[str, Any]:
    """The derivative of the training loss by logarithms of learning rates, in trainings with these keys.

    Args:
        learning_rate: an array of one number a step, for each array of the network.
        momentum: likewise.

    Returns:
        "mean" and "standard error", arrays x steps; "smoothness", for each array the correlation of the mean
        at a step with that at the next.
    """
    scales = fan_in(task.widths)

    @jax.jit
    def derivative(key) -> Float[Array, "arrays steps"]:
        init_key, train_key = jax.random.split(key)
        _, found, _ = value_and_hypergrad(
            lambda layers: task.judge(layers)["training loss"],
            loss,
            init(init_key, task.widths, scales),
            None,
            learning_rate,
            momentum,
            wrt=("learning_rate",),
            data=task.data.train,
            batch_size=task.batch_size,
            key=train_key,
            steps=task.steps,
            precision="single",
        )
        by_logarithm = jax.tree.map(lambda rate, slope: rate * slope, learning_rate, found.learning_rate)
        return jnp.stack(jax.tree.leaves(by_logarithm))

    slopes = []
    for key in keys:
        slopes.append(np.asarray(derivative(key)))
        progress("initial hypergradient", len(slopes), len(keys))
    if failed := sum(not np.isfinite(slope).all() for slope in slopes):
        raise FloatingPointError(f"{failed} of {len(keys)} derivatives are not finite: give smaller rates")
    mean = np.mean(slopes, axis=0)
    return {
        "mean": mean,
        "standard error": np.std(slopes, axis=0, ddof=1) / np.sqrt(len(keys)),
        "smoothness": [np.corrcoef(curve[:-1], curve[1:])[0, 1] for curve in mean],
    }
