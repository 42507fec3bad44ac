"""What a model is compared with, each in the form that predicts best on films held out for the choice.

One can
- fit each kind of baseline to films, its settings chosen by validation (`RIVALS`).

A fifth of the films is held out. Each candidate is fitted to the others, sees as many frames as it will be
judged with, and predicts what follows; the one with the least squared error is fitted again to all films.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from chainrule.svae.baselines import Autoregression, FrameVAE, LinearGaussian

RIDGE = 0.1  # of a regression on latents, whose variance is about one
Films = Float[Array, "films frames pixels"]
Candidates = Mapping[str, Callable[[Array], Any]]  # by their settings: from films to what is fitted to them


class Rival(NamedTuple):
    """A fitted baseline."""

    chosen: str  # settings, in words
    fitted: Any  # with forecast(seen, horizon) -> frames


class Grid(NamedTuple):
    """What is tried."""

    lags: tuple[int, ...] = (10, 20)  # frames that a regression looks back
    ridges: tuple[float, ...] = (0.1, 1.0, 10.0)
    states: tuple[int, ...] = (6, 10, 20)  # latents of a linear system
    rounds: int = 50  # of its expectation maximisation
    latents: tuple[int, ...] = (2, 4, 8)  # of an autoencoder of frames
    steps: int = 750  # of its training
    batch_size: int = 1600  # frames of a step


def regression(key: Key[Array, ""], films: Films, seen: int, grid: Grid) -> Rival:
    """Ridge regression of a frame on those before it."""
    regress = lambda lag, ridge: lambda y: Autoregression.fit(y, lag, ridge=ridge)
    tried = {f"{lag} frames, ridge {r:g}": regress(lag, r) for lag in grid.lags for r in grid.ridges}
    words = _best(tried, *_parts(films), seen)
    return Rival(words, tried[words](films))


def linear_system(key: Key[Array, ""], films: Films, seen: int, grid: Grid) -> Rival:
    """A linear dynamical system on pixels, by maximum likelihood."""
    system = lambda n: lambda y: LinearGaussian.fit(y, n, rounds=grid.rounds)[0]
    tried = {f"{n} latents": system(n) for n in grid.states}
    part, rest = _parts(films)
    words = _best(tried, part, rest, seen)
    whole = jax.jit(tried[words])(films)
    if all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(whole)):
        return Rival(words, whole)
    return Rival(f"{words}, four fifths of the films", jax.jit(tried[words])(part))  # it exploded on all


def autoencoder(key: Key[Array, ""], films: Films, seen: int, grid: Grid) -> Rival:
    """A variational autoencoder of frames, and ridge regression of its latents on those before."""
    learn = lambda y, n: FrameVAE.fit(key, y, n, steps=grid.steps, batch_size=grid.batch_size)
    part, rest = _parts(films)
    networks = {n: learn(part, n) for n in grid.latents}
    follow = lambda networks, lag: lambda y: networks.followed(y, lag, ridge=RIDGE)
    sizes = {f"{n} latents, {lag} frames": (n, lag) for n in grid.latents for lag in grid.lags}
    words = _best({words: follow(networks[n], lag) for words, (n, lag) in sizes.items()}, part, rest, seen)
    latents, lag = sizes[words]
    return Rival(words, learn(films, latents).followed(films, lag, ridge=RIDGE))


RIVALS: Mapping[str, Callable[[Key[Array, ""], Films, int, Grid], Rival]] = {
    # By their names. They take a key for what is random in them, films to learn from and to choose by, how
    # many frames of a film predictions start from, and what to choose from.
    "ridge regression on frames": regression,
    "linear system on pixels, by EM": linear_system,
    "autoencoder of frames, ridge regression": autoencoder,
}


def _parts(films):
    held = max(1, len(films) // 5)
    return films[:-held], films[-held:]


def _best(candidates: Candidates, part, rest, seen: int) -> str:
    """The settings of least error, in words."""

    def error(make) -> float:
        ahead = jax.jit(lambda y, start: make(y).forecast(start, rest.shape[1] - seen))
        return float(jnp.mean((ahead(part, rest[:, :seen]) - rest[:, seen:]) ** 2))

    errors = {words: error(make) for words, make in candidates.items()}
    return min((e, words) for words, e in errors.items() if e == e)[1]  # without what has exploded
