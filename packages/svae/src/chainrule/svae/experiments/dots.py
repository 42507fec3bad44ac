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

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from chainrule.svae import LDS, SVAE, LDSMixture, fit, forecast
from chainrule.svae.baselines import Autoregression, copy_last, mean_frame
from chainrule.svae.networks import MLP
from chainrule.svae.worlds import Dot, simulate

STEPS_PER_MINUTE = 400  # with compilation, on two cores
SEEN = 25  # frames of a new film; the others are predicted
SPANS = ((25, 35), (35, 50), (50, 100))
BEST = 17.67  # nats per frame: minus the entropy of the noise, which no model of the dot can exceed
Tell = Callable[[str, int, int], None]  # what is being done, how much of it, of how much


@dataclass(frozen=True)
class Settings:
    """What to do."""

    speed: Literal["fixed", "random"] = "random"
    seeds: int = 3
    seed: int = 0  # the first
    steps: int = 1250
    systems: int = 20  # of the mixture, for a random speed
    films: int = 200  # to learn from
    judged: int = 64  # films to judge by
    samples: int = 50  # paths of a prediction


QUICK = Settings(seeds=2, steps=50, systems=4, films=64, judged=8, samples=10)


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
    rate = optax.cosine_decay_schedule(3e-3, settings.steps)
    return SVAE(
        prior,
        encoder=MLP(2 * latents, (50, 50), residual=False),
        decoder=MLP(20, (50, 50), residual=False),
        data=settings.films,
        optimizer=optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate)),
        rho=optax.cosine_decay_schedule(0.1, settings.steps, 0.1),
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> tuple[str, list[Path]]:
    """Train and judge; returns a table in Markdown, and the files that were written.

    Raises:
        ValueError: to be resumed, but with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: list[Any] = []
    for number in range(settings.seeds):
        seed = settings.seed + number
        file = out / f"seed-{seed}.json"
        about = dataclasses.asdict(settings) | {"seed": seed, "seeds": 1}
        kept = json.loads(file.read_text()) if resume and file.exists() else None
        if kept and kept["settings"] != about:
            raise ValueError(f"{file} is of {kept['settings']}, not of {about}: give another --out")
        if not kept:
            tell = lambda done, number=number, seed=seed: progress(
                f"seed {seed}", number * settings.steps + done, settings.seeds * settings.steps
            )
            kept = {"settings": about, "rows": _one(settings, seed, out, tell)}
            file.write_text(json.dumps(kept, indent=1) + "\n")
        found.append(kept["rows"])
    text = _table(settings, found)
    (out / "table.md").write_text(text + "\n")
    pictures = sorted(out.glob("seed-*.png"))
    return text, [out / "table.md", *pictures]


def _one(
    settings: Settings, seed: int, out: Path, tell: Callable[[int], None]
) -> dict[str, dict[str, float]]:
    """Measures of the model and of what it is compared with."""
    world, key = world_of(settings), jax.random.key(seed)
    films = simulate(world, jax.random.fold_in(key, 1), settings.films, 50).frames
    new = simulate(world, jax.random.fold_in(key, 2), settings.judged, SPANS[-1][1])
    horizon = new.frames.shape[1] - SEEN
    start = time.perf_counter()
    svae = model_of(settings)
    state, history = fit(
        svae,
        key,
        films,
        steps=settings.steps,
        batch_size=32,
        callback=lambda state, _: tell(int(state.steps)),
    )
    seconds = time.perf_counter() - start
    predict = jax.jit(partial(forecast, svae, horizon=horizon, samples=settings.samples))
    predicted = predict(state, jax.random.fold_in(key, 3), new.frames[:, :SEEN])
    lower, _, upper = predicted.quantiles
    inside = np.asarray((lower <= new.frames) & (new.frames <= upper))
    own = _errors(predicted.mean, new.clean)
    own |= {f"90% interval {a}-{b}": float(inside[:, a:b].mean()) for a, b in SPANS}
    own |= {"bound": float(history.metrics.elbo[-1]) / 50, "seconds": seconds}
    seen = new.frames[:, :SEEN]
    later = {
        "autoregression on 20 frames": Autoregression.fit(films, 20).forecast(seen, horizon),
        "mean frame": jnp.broadcast_to(mean_frame(films), (len(seen), horizon, films.shape[-1])),
        "last frame": copy_last(seen, horizon),
    }
    rows = {"model": own}
    rows |= {name: _errors(jnp.concatenate([seen, x], 1), new.clean) for name, x in later.items()}
    _draw(out / f"seed-{seed}.png", new, predicted)
    return rows


def _errors(frames, clean) -> dict[str, float]:
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


def _table(settings: Settings, found: list[dict[str, dict[str, Any]]]) -> str:
    measures = [*(f"MSE {a}-{b}" for a, b in SPANS), *(f"90% interval {a}-{b}" for a, b in SPANS)]
    measures += ["bound", "seconds"]
    lines = [
        f"**A bouncing dot of {settings.speed} speed, {SEEN} frames seen**",
        "",
        "| | " + " | ".join(measures) + " |",
        "|---" * (1 + len(measures)) + "|",
    ]
    for name in found[0]:
        cells = [_cell([rows[name][m] for rows in found if m in rows[name]]) for m in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    below = (
        f"Mean and, in brackets, the least and the largest of {len(found)} seeds. MSE is that of frames "
        "without noise, of the mean of predictions; intervals are of noisy frames, and should hold 90 %; the "
        f"bound is in nats per frame, of which {BEST} would be the noise alone."
    )
    return "\n".join([*lines, "", below])


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    digits = lambda x: f"{x:.2g}" if abs(x) < 0.1 else f"{x:.3g}"
    spread = f" ({digits(min(values))} to {digits(max(values))})" if len(values) > 1 else ""
    return digits(float(np.mean(values))) + spread
