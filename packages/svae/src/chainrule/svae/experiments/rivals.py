"""What a model is compared with, each in the form that predicts best on films held out for the choice.

One can
- fit each kind of baseline to films, its settings chosen by validation (`fit_rivals`).

A fifth of the films is held out. Each candidate is fitted to the others, sees as many frames as it will be
judged with, and predicts what follows; the one with the least squared error is fitted again to all films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from chainrule.svae.baselines import Autoregression, FrameVAE, LinearGaussian

RIVALS = (  # by their names
    "ridge regression on frames",
    "linear system on pixels, by EM",
    "autoencoder of frames, ridge regression",
)
RIDGE = 0.1  # of a regression on latents, whose variance is about one
Candidates = Mapping[str, Callable[[Array], Any]]  # by their settings: from films to what is fitted to them


class Rival(NamedTuple):
    """A fitted baseline."""

    name: str
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


def fit_rivals(
    key: Key[Array, ""], films: Float[Array, "films frames pixels"], seen: int, grid: Grid
) -> Iterator[Rival]:
    """Autoregression, a linear system by maximum likelihood, and an autoencoder of frames with regression.

    Args:
        key: for the autoencoder.
        films: to learn from and to choose by.
        seen: frames of a held-out film that predictions start from.
        grid: settings to choose from.
    """
    held = max(1, len(films) // 5)
    part, rest = films[:-held], films[-held:]

    def best(candidates: Candidates) -> str:
        """The settings of least error, in words."""

        def error(make) -> float:
            ahead = jax.jit(lambda y, start: make(y).forecast(start, rest.shape[1] - seen))
            return float(jnp.mean((ahead(part, rest[:, :seen]) - rest[:, seen:]) ** 2))

        errors = {words: error(make) for words, make in candidates.items()}
        return min((e, words) for words, e in errors.items() if e == e)[1]  # without what has exploded

    regress = lambda lag, ridge: lambda y: Autoregression.fit(y, lag, ridge=ridge)
    tried = {f"{lag} frames, ridge {r:g}": regress(lag, r) for lag in grid.lags for r in grid.ridges}
    words = best(tried)
    yield Rival(RIVALS[0], words, tried[words](films))

    system = lambda n: lambda y: LinearGaussian.fit(y, n, rounds=grid.rounds)[0]
    tried = {f"{n} latents": system(n) for n in grid.states}
    words = best(tried)
    whole = jax.jit(tried[words])(films)
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(whole)):  # exploded on all of them
        words, whole = f"{words}, four fifths of the films", jax.jit(tried[words])(part)
    yield Rival(RIVALS[1], words, whole)

    learn = lambda y, n: FrameVAE.fit(key, y, n, steps=grid.steps, batch_size=grid.batch_size)
    networks = {n: learn(part, n) for n in grid.latents}
    follow = lambda networks, lag: lambda y: networks.followed(y, lag, ridge=RIDGE)
    sizes = {f"{n} latents, {lag} frames": (n, lag) for n in grid.latents for lag in grid.lags}
    words = best({words: follow(networks[n], lag) for words, (n, lag) in sizes.items()})
    latents, lag = sizes[words]
    whole = learn(films, latents).followed(films, lag, ridge=RIDGE)
    yield Rival(RIVALS[2], words, whole)
