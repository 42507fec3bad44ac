"""Training on arrays: mini-batches, chunks of steps in one program, and a word on how it goes.

fit(svae, key, data, steps=...)   -> SVAEState, History
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Key

from chainrule.svae.autoencoder import SVAE, Metrics, SVAEState
from chainrule.svae.checkpoints import Folder, digest
from chainrule.svae.lds import LDS

CHUNK = 50  # steps between two looks at the metrics


class History(NamedTuple):
    """What was seen on the way, at the end of each chunk."""

    steps: np.ndarray  # (chunks,)
    metrics: Metrics  # means over the steps of a chunk, (chunks,) each
    radius: np.ndarray  # (chunks, systems), |eigenvalue| of dynamics: forecasts explode where it is above 1


def fit(
    svae: SVAE,
    key: Key[Array, ""],
    data: Array,
    *,
    steps: int,
    batch_size: int,
    mask: Bool[Array, "..."] | None = None,
    model: Any = None,
    state: SVAEState | None = None,
    callback: Callable[[SVAEState, Metrics], None] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 500,
    **extra: Array,
) -> tuple[SVAEState, History]:
    """Train on random mini-batches.

    Args:
        svae: what to learn.
        key: for initial weights and mini-batches.
        data: (data, ...), or (sequences, frames, ...); NaN where nothing was seen.
        steps: how many in all, those of `state` included.
        batch_size: data of a step, drawn without replacement.
        mask: what was seen, as in `SVAE.step`.
        model: natural parameters to start from, as in `SVAE.init`.
        state: to go on from, the outcome of an earlier call with the same key.
        callback: what to do every 50 steps with the state, and the means of metrics since the last time.
        checkpoint: a folder to keep the run in. If it is there already, the run goes on from where it was
            killed, and comes out as if it had not been, bit for bit.
        save_every: how many steps between two checkpoints, in multiples of 50; and one at the end.
        extra: of all data, what else `SVAE.step` takes: actions and lengths.

    Returns:
        the state after the last step, and the metrics.

    Raises:
        ValueError: for a batch larger than the data, a checkpoint of another run, and a checkpoint beside a
            state to go on from.
        ModuleNotFoundError: for a checkpoint without orbax.
        FloatingPointError: when the bound is no longer a number.
    """
    if not 1 <= batch_size <= len(data):
        raise ValueError(
            f"fit: batch_size is {batch_size}: with {len(data)} data it must be from 1 to {len(data)}"
        )
    if checkpoint is not None and state is not None:
        raise ValueError("fit: checkpoint and state both say where to go on from: give one of them")
    start_key, batch_key = jax.random.split(key)
    state = svae.init(start_key, data[:1], model) if state is None else state
    seen: list[Any] = []  # steps done, metrics, radii
    folder = None
    if checkpoint is not None:
        given = {name: value for name, value in {"mask": mask, **extra}.items() if value is not None}
        about = {"key and first state": digest(key, *jax.tree.leaves(state)), "data": digest(data)}
        about |= {name: digest(value) for name, value in given.items()} | {"batch_size": batch_size}
        folder = Folder(checkpoint, about)
        kept = folder.restore(state)
        if kept is not None:
            state, seen = kept[0], kept[1]["seen"]
    done, chunk = int(state.steps), jax.jit(partial(_chunk, svae, batch_size), static_argnames="count")
    while done < steps:
        count = min(CHUNK - done % CHUNK, steps - done)
        state, metrics = chunk(state, batch_key, data, mask, extra, count=count)
        done += count
        if not np.isfinite(metrics.elbo):
            raise FloatingPointError(
                f"fit: the bound is {float(metrics.elbo)} after {done} steps. Lower rho or the rate of the "
                "optimizer, or clip its gradients by optax.clip_by_global_norm"
            )
        seen.append([done, [float(m) for m in metrics], _radii(state.model)])
        if folder and (done >= steps or done % max(CHUNK, save_every) < count):
            folder.save(done, state, {"seen": seen})
        if callback:
            callback(state, metrics)
    columns = jnp.array([m for _, m, _ in seen]).reshape(-1, len(Metrics._fields)).T
    radius = np.array([r for _, _, r in seen]).reshape(len(seen), -1)
    return state, History(np.array([n for n, _, _ in seen]), Metrics(*columns), radius)


def _radii(model) -> list[float]:
    """Of the systems in a model, if there are any."""
    systems = getattr(model, "components", model)
    return np.atleast_1d(systems.spectral_radius()).tolist() if isinstance(systems, LDS) else []


def _chunk(svae, batch_size, state, key, data, mask, extra, count):
    def step(state, _):
        rows = jax.random.choice(
            jax.random.fold_in(key, state.steps), len(data), (batch_size,), replace=False
        )
        given = {name: value[rows] for name, value in extra.items()}
        return svae.step(state, data[rows], None if mask is None else mask[rows], **given)

    state, metrics = lax.scan(step, state, length=count)
    return state, jax.tree.map(jnp.mean, metrics)
