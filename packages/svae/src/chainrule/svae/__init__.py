"""Structured variational autoencoders: graphical models with conjugate priors inside, networks at the edges.

    from chainrule.svae import SVAE, GMM, expfam, messages, worlds

SVAE          a graphical model, an encoder and a decoder, learned together
GMM           the mixture of Gaussians, with Potentials that hint at its points
networks      flax modules, functions, or an MLP of our own as encoders and decoders
likelihoods   what is seen of what the decoder says
messages      filtering, smoothing, sampling, forecasting: linear dynamical systems and hidden Markov models
mean_field    block ascent as a fixed point, and its derivative
expfam        the exponential families of a model's parameters
worlds        bouncing balls, drawn; points on a wheel
baselines     what is easily predicted without a model
scores        how well clusterings agree

Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.svae import baselines, expfam, likelihoods, mean_field, messages, networks, scores, worlds
    from chainrule.svae.autoencoder import SVAE
    from chainrule.svae.gmm import GMM, Potentials

__all__ = [
    "GMM",
    "SVAE",
    "Potentials",
    "baselines",
    "expfam",
    "likelihoods",
    "mean_field",
    "messages",
    "networks",
    "scores",
    "worlds",
]

_HOME = {"SVAE": "autoencoder", "GMM": "gmm", "Potentials": "gmm"}  # of what is no module


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
