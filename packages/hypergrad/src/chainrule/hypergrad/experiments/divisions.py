"""Drawings for two purposes: those to learn from, and those to judge by.

One can
- divide drawings by a seed, on the host (`divide`), or by a key, under jit (`redivide`),
- standardise both parts by what the first one says (`standardised`).

The first half of the tasks are upright, the second half the same drawings, turned. A drawing and its turned
copy are never on different sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Drawings = Sequence[Float[Array | np.ndarray, "_ drawings pixels"]]  # of the characters of each task


class Divided(NamedTuple):
    """Drawings of each task, for two purposes."""

    learn: Drawings
    judge: Drawings


def divide(tasks: Sequence[np.ndarray], rng: np.random.Generator, first: int, second: int) -> Divided:
    """So many drawings of each character for either purpose, none for both; turned ones as upright ones."""
    places = [
        rng.permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1) for x in tasks[: len(tasks) // 2]
    ]
    if first + second > (most := places[0].shape[1]):
        raise ValueError(f"omniglot: {first} and {second} drawings of a character: there are {most}")
    drawn = [np.take_along_axis(x, p[..., None], 1) for x, p in zip(tasks, [*places, *places], strict=True)]
    return Divided([x[:, :first] for x in drawn], [x[:, first : first + second] for x in drawn])


def redivide(drawings: Drawings, key: Array, second: int) -> Divided:
    """The same under jit, by a key, of all the drawings."""
    half = len(drawings) // 2
    keys = jax.random.split(key, half)
    drawn = []
    for task, x in enumerate(drawings):
        order = jnp.argsort(jax.random.uniform(keys[task % half], x.shape[:2]), axis=1)
        drawn.append(jnp.take_along_axis(x, order[..., None], 1))
    return Divided([x[:, second:] for x in drawn], [x[:, :second] for x in drawn])


def standardised(divided: Divided) -> Divided:
    """By the mean image of what is learned from, and one standard deviation."""
    rows = jnp.concatenate([x.reshape(-1, x.shape[2]) for x in divided.learn])
    mean = rows.mean(0)
    scale = (rows - mean[None]).std()
    return Divided(*([(x - mean[None, None]) / scale for x in part] for part in divided))
