"""Drawings for two purposes: those to learn from, and those to judge by.

One can
- divide drawings by a seed, on the host (`divide`), or by a key, under jit (`redivide`),
- standardise both parts by what the first one says (`standardised`).

The first half of the tasks are upright, the second half the same drawings, turned. A drawing and its turned
copy are never on different sides. All tasks are one array, as wide as the largest alphabet needs, so that a
program for ten tasks is as short as one for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Drawings(NamedTuple):
    """Of the characters of each task; a pytree."""

    pixels: Float[Array | np.ndarray, "tasks characters drawings pixels"]  # zero where there is no character
    exists: Bool[Array | np.ndarray, "tasks characters"]  # which of the characters a task has


class Divided(NamedTuple):
    """Drawings of each task, for two purposes."""

    learn: Drawings
    judge: Drawings


def divide(tasks: Sequence[np.ndarray], rng: np.random.Generator, first: int, second: int) -> Divided:
    """So many drawings of each character for either purpose, none for both; turned ones as upright ones.

    Args:
        tasks: the drawings of each, [characters, drawings, pixels].
    """
    places = [
        rng.permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1) for x in tasks[: len(tasks) // 2]
    ]
    if first + second > (most := places[0].shape[1]):
        raise ValueError(f"omniglot: {first} and {second} drawings of a character: there are {most}")
    drawn = [np.take_along_axis(x, p[..., None], 1) for x, p in zip(tasks, [*places, *places], strict=True)]
    largest = max(map(len, drawn))
    pixels = np.stack([np.pad(x, [(0, largest - len(x)), (0, 0), (0, 0)]) for x in drawn])
    exists = np.arange(largest)[None] < np.array([len(x) for x in drawn])[:, None]
    return Divided(
        Drawings(pixels[:, :, :first], exists), Drawings(pixels[:, :, first : first + second], exists)
    )


def redivide(drawings: Drawings, key: Array, second: int) -> Divided:
    """The same under jit, by a key, of all the drawings."""
    tasks, characters, count, _ = drawings.pixels.shape
    order = jnp.argsort(jax.random.uniform(key, (tasks // 2, characters, count)), axis=2)
    order = jnp.concatenate([order, order])[..., None]
    drawn = jnp.take_along_axis(drawings.pixels, order, 2)
    return Divided(
        drawings._replace(pixels=drawn[:, :, second:]), drawings._replace(pixels=drawn[:, :, :second])
    )


def standardised(divided: Divided) -> Divided:
    """By the mean image of what is learned from, and one standard deviation."""
    pixels, exists = divided.learn
    here = exists[:, :, None, None]
    mean = jnp.mean(pixels, (0, 1, 2), where=here)
    scale = jnp.std(pixels - mean[None, None, None], where=here)
    return Divided(
        *(
            part._replace(pixels=jnp.where(here, (part.pixels - mean[None, None, None]) / scale, 0))
            for part in divided
        )
    )
