"""A dot that bounces: learn it from noisy films, watch 25 frames of new ones, predict the 75 that follow.

One can
- train and judge a model for each of some seeds, beside what is easily predicted (`run`, or
  `python -m chainrule.svae dots`).

Of one speed, the dot is learned as one linear system. If every film has a speed of its own, no linear system
knows which: there it is a mixture of systems, oscillators of different periods to begin with, and which of
them a film follows is inferred with the path. All see the same 200 films of 50 frames, and are judged on 64
others of 100, against the frames without noise.

Source: talk, "filtering and predicting a bouncing dot"; Johnson et al., NIPS 2016, section 5.1; the film's
recipe is in `worlds.dot`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.report import Report
from chainrule.svae import LDS, SVAE, LDSMixture, fit, forecast
from chainrule.svae.baselines import copy_last, mean_frame
from chainrule.svae.experiments.results import Measures, Once, Steps, about, repeat
from chainrule.svae.experiments.rivals import RIVALS, Grid
from chainrule.svae.networks import MLP
from chainrule.svae.worlds import Dot, simulate

STEPS_PER_MINUTE = 300  # with compilation, on two cores
SEEN = 25  # frames of a new film; the others are predicted
SPANS = ((25, 35), (35, 50), (50, 100))
BEST = 17.67  # nats per frame: minus the entropy of the noise, which no model of the dot can exceed
BATCH = 32  # films of a step
RATE = {"fixed": 1e-2, "random": 3e-3}  # of Adam, which falls to zero
STEPS = {"fixed": 750, "random": 1250}
MEASURES = [f"{what} {a}-{b}" for what in ("MSE", "90% interval") for a, b in SPANS] + ["90% interval"]


@dataclass(frozen=True)
class Settings:
    """What to do."""

    speed: Literal["fixed", "random"] = "random"
    seeds: int = 3
    seed: int = 0  # the first
    systems: int = 24  # of the mixture, for a random speed
    films: int = 200  # to learn from
    judged: int = 64  # films to judge by
    samples: int = 200  # paths of a prediction
    grid: Grid = Grid()  # noqa: RUF009 (a tuple): what baselines are tried with
    most_steps: int | None = None  # of training; those of STEPS unless given

    @property
    def steps(self) -> int:
        """Of training."""
        return self.most_steps or STEPS[self.speed]


FULL = Settings()
QUICK = Settings(
    seeds=1,
    most_steps=50,
    systems=4,
    films=64,
    judged=8,
    samples=10,
    grid=Grid(lags=(5,), ridges=(1.0,), states=(6,), rounds=5, latents=(2,), steps=50),
)


def world_of(settings: Settings) -> Dot:
    """The films' world."""
    return Dot() if settings.speed == "fixed" else Dot(speed=(0.5, 1.0))


def model_of(settings: Settings) -> SVAE:
    """What is learned: one system of ten latents, or a mixture of oscillators."""
    if settings.speed == "fixed":
        periods = jnp.geomspace(10.0, 60.0, 5)
        prior, latents = LDS.oscillating(periods, worth=10.0, noise=0.05), 10
    else:
        periods = 20.0 / jnp.linspace(0.47, 1.03, settings.systems)  # frames from wall to wall and back
        prior, latents = LDSMixture.of(LDS.oscillating(periods[:, None], worth=100.0, noise=0.03, nu=50.0)), 2
    rate = optax.cosine_decay_schedule(RATE[settings.speed], settings.steps)
    return SVAE(
        prior,
        encoder=MLP(2 * latents, (50, 50), residual=False),
        decoder=MLP(20, (50, 50), residual=False),
        data=settings.films,
        optimizer=optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate)),
        rho=optax.cosine_decay_schedule(0.1, settings.steps, 0.1),
    )


def plan(settings: Settings) -> str:
    """What will happen."""
    return f"A bouncing dot: {settings}, {about(settings, STEPS_PER_MINUTE)}"


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train and judge.

    Raises:
        ValueError: to be resumed, but with other settings.
    """
    below = (
        "MSE is that of frames without noise, of the mean of predictions; intervals are of noisy frames, and "
        f"should hold 90 %; the bound is in nats per frame, of which {BEST} would be the noise alone; "
        "seconds are of training, with compilation. Settings of baselines were chosen on a fifth of films."
    )
    title = f"A bouncing dot of {settings.speed} speed, {SEEN} frames seen"
    words = {"title": title, "measures": [*MEASURES, "bound", "seconds", "chosen"], "below": below}
    return repeat(_one, settings, out, resume=resume, progress=progress, **words)


def _one(settings: Settings, seed: int, out: Path, once: Once, tell: Steps) -> None:
    """Measures of the model and of what it is compared with."""
    world, key = world_of(settings), jax.random.key(seed)
    films = simulate(world, jax.random.fold_in(key, 1), settings.films, 50).frames
    new = simulate(world, jax.random.fold_in(key, 2), settings.judged, SPANS[-1][1])
    seen, horizon = new.frames[:, :SEEN], new.frames.shape[1] - SEEN

    def model() -> Measures:
        start, svae = time.perf_counter(), model_of(settings)
        told = lambda state, _: tell("the model", int(state.steps))
        state, history = fit(svae, key, films, steps=settings.steps, batch_size=BATCH, callback=told)
        seconds = time.perf_counter() - start
        predict = jax.jit(partial(forecast, svae, horizon=horizon, samples=settings.samples))
        predicted = predict(state, jax.random.fold_in(key, 3), seen)
        lower, _, upper = predicted.quantiles
        inside = np.asarray((lower <= new.frames) & (new.frames <= upper))
        found = _errors(predicted.mean, new.clean)
        found |= {f"90% interval {a}-{b}": float(inside[:, a:b].mean()) for a, b in SPANS}
        found["90% interval"] = float(inside[:, SEEN:].mean())
        _draw(out / f"seed-{seed}.png", new, predicted)
        return found | {"bound": float(history.metrics.elbo[-1]) / 50, "seconds": seconds}

    once("model", model)
    errors = lambda later: _errors(jnp.concatenate([seen, later], 1), new.clean)
    tell("the baselines", settings.steps)
    for name, choose in RIVALS.items():

        def rival(choose=choose) -> Measures:
            found = choose(jax.random.fold_in(key, 4), films, SEEN, settings.grid)
            return errors(found.fitted.forecast(seen, horizon)) | {"chosen": found.chosen}

        once(name, rival)
    mean = jnp.broadcast_to(mean_frame(films), (len(seen), horizon, films.shape[-1]))
    once("mean frame", lambda: errors(mean))
    once("last frame", lambda: errors(copy_last(seen, horizon)))


def _errors(frames, clean) -> Measures:
    squares = np.asarray((frames - clean) ** 2)
    return {f"MSE {a}-{b}": float(squares[:, a:b].mean()) for a, b in SPANS}


def _draw(path, films, predicted):
    try:
        from chainrule.svae.worlds.pictures import write_film
    except ModuleNotFoundError:  # without Pillow there is a table, and no picture
        return
    samples = {f"sample {i + 1}": predicted.samples[i, 0] for i in range(min(3, len(predicted.samples)))}
    panels = {"data": films.frames[0], "mean of predictions": predicted.mean[0]} | samples
    write_film(path, panels, observed=SEEN)
