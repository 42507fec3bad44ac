"""What a model of sequences says of frames that nobody has seen: those that are missing, and those to come.

forecast(svae, state, key, frames, horizon)   -> Forecast: mean, quantiles, samples

A frame without pixels has no potential. So frames to come are frames that were not seen, behind the last one,
and filling in, filtering and forecasting are one and the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from chainrule.svae.autoencoder import SVAE, SVAEState, observed


class Forecast(NamedTuple):
    """Frames, as a posterior has them: those given, and `horizon` behind them."""

    mean: Float[Array, "sequences frames *frame"]  # of what the decoder expects to see
    quantiles: Float[Array, "levels sequences frames *frame"]  # of what is seen, noise of the frame included
    samples: Float[Array, "samples sequences frames *frame"]  # what the decoder expects, path by path


def forecast(
    svae: SVAE,
    state: SVAEState,
    key: Key[Array, ""],
    frames: Float[Array, "sequences frames *frame"],
    horizon: int,
    *,
    mask: Bool[Array, "..."] | None = None,
    samples: int = 50,
    levels: Sequence[float] = (0.05, 0.5, 0.95),
    **extra: Array,
) -> Forecast:
    """Frames that were missing, and those to come, given all frames that were seen.

    Args:
        svae, state: a model of sequences, trained.
        key: for the samples.
        frames: what was seen; NaN where nothing was.
        horizon: how many frames to add, 0 or more.
        mask: what was seen, as in `SVAE.step`.
        samples: paths of the posterior; the quantiles are those of this many.
        levels: of the quantiles, from 0 to 1. The part of what is to come that falls below a quantile is the
            level on average, for levels from 1 / (samples + 1) on; nearer to 0 or 1 it is the outermost draw.
        extra: what else `posterior` takes: actions, of the steps to come as well.

    Raises:
        ValueError: for a negative horizon, and for a model that is not one of sequences.

    Source: the talk's slides of the bouncing ball: a posterior without the later potentials is a prediction.
    """
    if horizon < 0 or svae.prior.leading != 2:
        raise ValueError(
            f"forecast: {type(svae.prior).__name__} with a horizon of {horizon}: it takes a model of "
            "sequences, such as LDS, and a horizon of at least 0"
        )
    frames, mask = observed(frames, mask)
    longer = lambda a: jnp.concatenate([a, jnp.zeros((len(a), horizon, *a.shape[2:]), a.dtype)], 1)
    posterior = svae.infer(state, longer(frames), longer(mask), **extra)
    path_key, system_key, noise_key = jax.random.split(key, 3)
    paths = posterior.sample(path_key, samples)
    if hasattr(posterior, "choose"):
        paths = posterior.choose(system_key, paths)
    params = state.networks["likelihood"]
    outputs = svae.outputs(state, paths)
    means = svae.likelihood.mean(params, outputs)
    noisy = svae.likelihood.sample(noise_key, params, outputs)
    return Forecast(means.mean(0), jnp.quantile(noisy, _ranks(levels, samples), axis=0), means)


def _ranks(levels, samples):
    """Where in the sorted draws a quantile is, from 0 to 1: a next draw is below the k-th of n with chance
    k / (n + 1), so that intervals between levels of the draws themselves would be too narrow.
    """
    ranks = jnp.asarray(levels, float) * (samples + 1) - 1
    return jnp.clip(ranks / max(samples - 1, 1), 0, 1)
