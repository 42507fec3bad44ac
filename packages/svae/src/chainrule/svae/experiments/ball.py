"""A ball in a box: learn it from films, then fill in, follow, or go on by oneself while nothing is seen.

One can
- train and judge a model for each of some seeds (`run`, or `python -m chainrule.svae ball`).

Along each wall the ball goes to and fro at a speed of its own, so each coordinate follows one of several
oscillators, and the two are independent. Of a frame the encoder says where the ball is, two numbers; whither
it goes, the other two, is inferred. In films of 20 frames nothing is seen of the frames 4 to 15, and the
pictures of those are drawn

    smoothed     from the frames before and after the gap
    filtered     from the frames before it
    generated    by the model alone, which goes on from the frames before by one path, as it happens

Of the first two a pixel is on where that is more likely than not. Judged by how many pixels of a frame are
wrongly on or off (Hamming distance).

Source: the box of the Kalman VAE (Fraccaro et al., NIPS 2017), with its gap and its measure.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.report import Report
from chainrule.svae import LDS, SVAE, Independent, LDSMixture, Potentials, fit
from chainrule.svae.baselines import LinearGaussian
from chainrule.svae.experiments.results import Measures, Once, Steps, about, repeat
from chainrule.svae.experiments.rivals import RIVALS, Grid
from chainrule.svae.likelihoods import Normal
from chainrule.svae.networks import MLP
from chainrule.svae.worlds import Ball, simulate

FRAMES, GAP = 20, slice(4, 16)  # of a film; those of it that are not seen
BATCH = 16  # films of a step
WORLD = Ball()
PIXELS, ROOM = WORLD.pixels, WORLD.pixels - 2 * WORLD.radius  # on a side; that the centre has
FASTEST = WORLD.dt * WORLD.speed[1]  # pixels in a frame
LONG = 40  # frames of films to learn from: a bounce or more along either wall
WIDER = 8  # speeds along a wall that four frames leave open; in training, with all frames seen, two
MEASURES = ("smoothed", "filtered", "generated", "bound", "seconds", "chosen")
STEPS_PER_MINUTE = 400  # with compilation, on two cores


@dataclass(frozen=True)
class Settings:
    """What to do."""

    seeds: int = 3
    seed: int = 0  # the first
    steps: int = 1000
    systems: int = 20  # speeds along a wall
    films: int = 500  # to learn from
    judged: int = 64  # films to judge by
    samples: int = 50  # paths of a posterior
    grid: Grid = Grid((2, 4), (1.0, 10.0), (10, 20, 40), 20, (4, 8), 750, 320)  # noqa: RUF009 (a tuple)


FULL = Settings()
QUICK = Settings(
    seeds=1,
    steps=50,
    systems=4,
    films=64,
    judged=8,
    samples=5,
    grid=Grid((2,), (1.0,), (10,), 5, (2,), 50, 320),
)


@dataclass(frozen=True)
class Where:
    """An encoder that looks at a frame's shadows on two walls, one after the other, and sees no speeds.

    One network for both shadows, and potentials of every second latent: the places along the walls.
    """

    layers: MLP

    def init(self, key, x):
        return self.layers.init(key, _shadows(x))

    def apply(self, params, x):
        place, raw = jnp.moveaxis(self.layers.apply(params, _shadows(x)), -1, 0)
        J = jax.nn.softplus(raw)
        apart = lambda a: jnp.stack([a, jnp.zeros_like(a)], -1).reshape(len(a), -1)
        return Potentials(apart(J), apart(J * place))


def _shadows(frames):
    return jnp.stack([frames.sum(-2), frames.sum(-1)], -2) / WORLD.radius


@dataclass(frozen=True)
class FromWhere:
    """A decoder that draws from places alone: the log odds of a pixel are of its column plus of its row.

    One network for both.
    """

    layers: MLP

    def init(self, key, x):
        return self.layers.init(key, x[..., ::2, None])

    def apply(self, params, x):
        across, down = jnp.moveaxis(self.layers.apply(params, x[..., ::2, None]), -2, 0)
        return jax.nn.sigmoid(across[..., None, :] + down[..., :, None])


def model_of(settings: Settings) -> SVAE:
    """What is learned: an encoder and a decoder of places, and how the two coordinates of a place move."""
    speeds = FASTEST * (jnp.arange(settings.systems) + 0.5) / settings.systems
    periods = 2 * ROOM / speeds[:, None]  # frames from wall to wall and back
    along = LDSMixture.of(LDS.oscillating(periods, worth=5000.0, noise=0.03, nu=5000.0))
    rate = optax.cosine_decay_schedule(1e-2, settings.steps)
    return SVAE(
        Independent((along, along)),
        encoder=Where(MLP(2, (64, 64), residual=False)),
        decoder=FromWhere(MLP(PIXELS, (64, 64), residual=False, last_bias=(-1.5,) * PIXELS)),
        data=settings.films,
        likelihood=Normal(0.3, learned=False),
        optimizer=optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate)),
        rho=optax.cosine_decay_schedule(0.1, settings.steps, 0.1),
    )


def plan(settings: Settings) -> str:
    """What will happen."""
    return f"A ball in a box: {settings}, {about(settings, STEPS_PER_MINUTE)}"


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Train and judge.

    Raises:
        ValueError: to be resumed, but with other settings.
    """
    below = (
        f"Pixels of a frame of {PIXELS} x {PIXELS} that are wrongly on or off while nothing is seen; the "
        "ball has 28. Seconds are of training, with compilation. Settings of baselines were chosen on a "
        "fifth of films."
    )
    title = f"A ball in a box, frames {GAP.start} to {GAP.stop - 1} of {FRAMES} not seen"
    words = {"title": title, "measures": MEASURES, "below": below}
    return repeat(_one, settings, out, resume=resume, progress=progress, **words)


def _one(settings: Settings, seed: int, out: Path, once: Once, tell: Steps) -> None:
    key = jax.random.key(seed)
    films = simulate(WORLD, jax.random.fold_in(key, 1), settings.films, LONG).frames
    frames = simulate(WORLD, jax.random.fold_in(key, 2), settings.judged, FRAMES).frames
    on = lambda shown: np.asarray(shown) > 0.5
    wrong = lambda shown: float(np.mean(np.sum(on(shown) != on(frames[:, GAP]), (-1, -2))))
    before, gap = frames[:, : GAP.start], GAP.stop - GAP.start

    def model() -> Measures:
        start = time.perf_counter()
        svae, told = model_of(settings), lambda state, _: tell("the model", int(state.steps))
        state, history = fit(svae, key, films, steps=settings.steps, batch_size=BATCH, callback=told)
        seconds = time.perf_counter() - start
        wider = dataclasses.replace(svae, inference={"kept": min(WIDER, settings.systems)})
        paths = jax.jit(lambda key, mask: _paths(wider, state, key, frames, mask, settings.samples))
        smooth_key, filter_key = jax.random.split(jax.random.fold_in(key, 3))
        t = jnp.arange(FRAMES)
        smoothed = paths(smooth_key, (t < GAP.start) | (t >= GAP.stop))
        filtered = paths(filter_key, t < GAP.start)
        _draw(out / f"seed-{seed}.gif", frames, smoothed, filtered)
        return {
            "smoothed": wrong(smoothed.mean(0)[:, GAP]),
            "filtered": wrong(filtered.mean(0)[:, GAP]),
            "generated": wrong(filtered[:, :, GAP]),
            "bound": float(history.metrics.elbo[-1]) / LONG,
            "seconds": seconds,
        }

    once("model", model)
    once("last frame", lambda: {"filtered": wrong(jnp.repeat(before[:, -1:], gap, 1))})
    tell("the baselines", settings.steps)
    flat = lambda y: y.reshape(*y.shape[:2], -1)
    image = lambda y: y.reshape(*y.shape[:2], PIXELS, PIXELS)
    for name, choose in RIVALS.items():

        def rival(choose=choose) -> Measures:
            found = choose(jax.random.fold_in(key, 4), flat(films[:, :FRAMES]), GAP.start, settings.grid)
            shown = {"filtered": found.fitted.forecast(flat(before), gap)}
            if isinstance(found.fitted, LinearGaussian):
                t = jnp.arange(FRAMES)
                seen = (t < GAP.start) | (t >= GAP.stop)
                shown["smoothed"] = found.fitted.smooth(flat(frames), seen)[:, GAP]
            return {name: wrong(image(y)) for name, y in shown.items()} | {"chosen": found.chosen}

        once(name, rival)


def _paths(svae, state, key, frames, mask, samples):
    """Pictures along paths of the posterior, given the frames of the mask."""
    path_key, system_key = jax.random.split(key)
    posterior = svae.infer(state, frames, jnp.broadcast_to(mask, frames.shape[:2]))
    return svae.decode(state, posterior.choose(system_key, posterior.sample(path_key, samples)))


def _draw(path, frames, smoothed, filtered):
    try:
        from chainrule.svae.worlds.pictures import write_gif
    except ModuleNotFoundError:  # without Pillow there is a table, and no picture
        return
    panels = {
        "ball": frames[0],
        "smoothed": smoothed.mean(0)[0],
        "filtered": filtered.mean(0)[0],
        "generated": filtered[0, 0],
    }
    t = np.arange(FRAMES)
    write_gif(path, panels, observed=(t < GAP.start) | (t >= GAP.stop), frames_per_second=6.0)
