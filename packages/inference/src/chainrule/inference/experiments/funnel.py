"""A funnel in two dimensions: where gradient descent has its draws on the way, and what fits make of one.

One can
- draw both, and compare the entropy by determinants with that of the cloud of draws (`run`, or `python -m
  chainrule.inference funnel`).

The paper's funnel, -log p = s + (mu / (e^s + 0.01))^2 / 2 + e^-s / 10 with s = log sigma, has no integral, so
that there is a distribution along descent, but no evidence. That of the demonstration of black-box inference
in autograd, s ~ N(0, 1.35), mu ~ N(0, e^s), has the evidence 1.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016,
figure 1; Kozachenko and Leonenko, Sample estimate of the entropy of a random vector, 1987.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import digamma
from jaxtyping import Array, Float

from chainrule.core.experiments.console import Tell
from chainrule.core.experiments.outcomes import Outcomes
from chainrule.core.experiments.report import Report, write_report
from chainrule.inference import bbsvi, entropic
from chainrule.inference.experiments.plot import plot_entropies, plot_funnel
from chainrule.inference.experiments.widths import identity

LABELS = "mu", "log sigma"
EXTENT = -2.5, 2.5, -4.0, 2.0
FAMILIES = {"mean-field": bbsvi.MeanField(), "full rank": bbsvi.FullRank(), "mixture of 8": bbsvi.Mixture(8)}
STEP_SIZE, START_SCALE = 0.01, (1.0, 0.5)
SHOWN_DRAWS = 480  # in a picture
NEIGHBOURS = 4  # of each draw, for the entropy of the cloud
UNITS = {
    "entropy by determinants": "nats",
    "entropy by the parabola": "nats",
    "entropy of the cloud": "nats",
    "one to one": "% of draws",
    "bound": "nats",
    "k-hat": "",
}


@dataclass(frozen=True)
class Settings:
    seeds: int = 5
    seed: int = 0  # the first
    draws: int = 1000
    steps: int = 500
    shown: tuple[int, ...] = (0, 25, 75, 150, 500)  # steps
    fit_steps: int = 1000
    fit_draws: int = 40


FULL = Settings()
QUICK = Settings(draws=500, steps=200, shown=(0, 50, 200), fit_steps=500)
DESCENT = "entropy by determinants", "entropy by the parabola", "entropy of the cloud", "one to one"


def plan(settings: Settings) -> str:
    return (
        f"Two funnels: {settings.draws} draws along {settings.steps} steps of descent, and black-box "
        f"fits of {len(FAMILIES)} families: {settings.seeds} seeds, about 1 minute on one core."
    )


def run(settings: Settings, out: Path, *, resume: bool, progress: Tell) -> Report:
    """Follow the draws with each seed, fit each family, and draw both for the first seed."""
    outcomes = Outcomes(out, identity("funnel", settings), resume=resume)
    curves, fits = [], {}
    for number in range(settings.seeds):
        seed = settings.seed + number
        progress("descent and fits", number, settings.seeds)
        found = outcomes.once("curves", seed, partial(_descent, settings, seed)).measures
        curves.append(found)
        for step in settings.shown:
            place = found["steps"].index(step)
            at = {name: found[name][place] for name in DESCENT}
            outcomes.once(f"descent, step {step}", seed, lambda at=at: at)
        for name, family in FAMILIES.items():
            fit = outcomes.once(f"fit, {name}", seed, partial(_fit, settings, family, seed)).measures
            fits.setdefault(name, np.array(fit["points"]))
    first = curves[0]
    every = lambda name: np.array([found[name] for found in curves])
    clouds = {f"step {step}": np.array(first[f"points {step}"]) for step in settings.shown}
    pictures = [
        *plot_funnel(
            out / "descent", _grid(paper_funnel), EXTENT, clouds, LABELS, "Descent turns a cloud into q_t"
        ),
        *plot_entropies(
            out / "entropies",
            np.array(first["steps"], float),
            {name: every(name) for name in DESCENT[:3]},
            "The entropy of the cloud, until it is too thin to be seen",
        ),
        *plot_funnel(
            out / "fits", _grid(funnel), EXTENT, fits, LABELS, "What black-box fits make of a funnel"
        ),
    ]
    return write_report(
        out,
        f"Funnels, {settings.draws} draws",
        [found for found in outcomes if found.method != "curves"],
        UNITS,
        notes=[
            "The log evidence of the funnel that is fitted is 0.",
            "Neighbours see no entropy below the spacing of single precision, nor very unequal scales.",
        ],
        files=pictures,
    )


def paper_funnel(z: Float[Array, "2"]) -> Float[Array, ""]:
    """log p up to a constant, which it does not have."""
    mu, s = z
    return -(s + (mu / (jnp.exp(s) + 0.01)) ** 2 / 2 + 0.1 * jnp.exp(-s))


def funnel(z: Float[Array, "2"]) -> Float[Array, ""]:
    """log p of the demonstration in autograd."""
    norm = jax.scipy.stats.norm
    return norm.logpdf(z[1], 0.0, 1.35) + norm.logpdf(z[0], 0.0, jnp.exp(z[1]))


def cloud_entropy(points: Float[Array, "draws 2"]) -> Float[Array, ""]:
    """The entropy of the distribution of draws, by the distance of each to a near neighbour, in nats.

    Distances are taken where the cloud has unit covariance.
    """
    count = len(points)
    factor = jnp.linalg.cholesky(jnp.cov(points.T))
    white = jax.scipy.linalg.solve_triangular(factor, (points - points.mean(0)[None]).T, lower=True).T
    squares = jnp.sum((white[:, None] - white[None]) ** 2, -1)
    near = -jax.lax.top_k(-squares, NEIGHBOURS + 1)[0][:, -1]  # the first is the draw itself
    volume = jnp.log(jnp.diagonal(factor)).sum() + math.log(math.pi)
    return digamma(count) - digamma(NEIGHBOURS) + volume + jnp.mean(jnp.log(near))


def _descent(settings: Settings, seed: int) -> dict[str, Any]:
    every = math.gcd(*settings.shown, 25)
    exact, parabola, clouds = _follow(settings.draws, settings.steps, every, jax.random.key(seed))
    steps = [int(step) for step in exact.step[0]]
    kept = np.asarray(exact.monitored)
    return {
        "steps": steps,
        "entropy by determinants": exact.entropy.mean(0),
        "entropy by the parabola": parabola.entropy.mean(0),
        "entropy of the cloud": clouds,
        "one to one": 100 * exact.one_to_one.mean(0),
        **({f"points {step}": kept[:SHOWN_DRAWS, steps.index(step)] for step in settings.shown}),
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _follow(draws, steps, every, key):
    start = entropic.Gaussian(jnp.zeros(2), jnp.array(START_SCALE))
    options = dict(step_size=STEP_SIZE, steps=steps, record_every=every, watch_steps=2)

    def traced(method):
        settings = dict(method=method, monitor=lambda z: z, **options)
        return entropic.run_ensemble(key, draws, paper_funnel, start, **settings)[1]

    exact = traced("exact")
    clouds = jax.lax.map(cloud_entropy, exact.monitored.swapaxes(0, 1))
    return exact, traced("bound"), clouds


def _fit(settings: Settings, family: Any, seed: int) -> dict[str, Any]:
    fit_key, judge_key, draw_key, bound_key = jax.random.split(jax.random.key(seed), 4)
    found = bbsvi.fit(
        fit_key,
        funnel,
        jnp.zeros(2),
        optax.adam(0.05),
        steps=settings.fit_steps,
        family=family,
        draws=settings.fit_draws,
    )
    quality = bbsvi.diagnose(judge_key, funnel, found.q, family)
    drawn = family.draw(draw_key, found.q, SHOWN_DRAWS)
    chosen = jax.random.choice(draw_key, len(drawn.points), (SHOWN_DRAWS,), p=drawn.weights)
    return {
        "bound": bbsvi.estimate(bound_key, funnel, found.q, family, draws=10_000).elbo,
        "k-hat": quality.k,
        "points": drawn.points[chosen],
    }


def _grid(log_density: Any) -> np.ndarray:
    left, right, low, high = EXTENT
    mu, s = jnp.meshgrid(jnp.linspace(left, right, 200), jnp.linspace(low, high, 200))
    return np.asarray(jax.vmap(log_density)(jnp.stack([mu.ravel(), s.ravel()], 1)).reshape(200, 200))
