"""Structured variational autoencoders: graphical models with conjugate priors inside, networks at the edges.

    from chainrule.svae import SVAE, LDS, fit, forecast

SVAE          a graphical model, an encoder and a decoder, learned together
fit           train it on arrays
forecast      frames that are missing, and frames to come
GMM           the mixture of Gaussians, with Potentials that hint at its points
HMM           the same for sequences, where a state follows from the one before
LDS           the linear dynamical system; LDSMixture, several, of which a sequence follows one
SLDS          several, between which a sequence switches
Independent   several of those side by side, such as the coordinates of a ball
networks      flax modules, functions, or an MLP of our own as encoders and decoders
likelihoods   what is seen of what the decoder says
messages      filtering, smoothing, sampling, forecasting: linear dynamical systems and hidden Markov models
filtering     beliefs, frame by frame
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
    from chainrule.svae import (
        baselines,
        expfam,
        filtering,
        likelihoods,
        mean_field,
        messages,
        networks,
        scores,
        worlds,
    )
    from chainrule.svae.autoencoder import SVAE
    from chainrule.svae.fitting import fit
    from chainrule.svae.forecasting import forecast
    from chainrule.svae.gmm import GMM
    from chainrule.svae.hmm import HMM
    from chainrule.svae.independent import Independent
    from chainrule.svae.lds import LDS, LDSMixture
    from chainrule.svae.messages import Potentials
    from chainrule.svae.slds import SLDS

__all__ = [
    "GMM",
    "HMM",
    "LDS",
    "SLDS",
    "SVAE",
    "Independent",
    "LDSMixture",
    "Potentials",
    "baselines",
    "expfam",
    "filtering",
    "fit",
    "forecast",
    "likelihoods",
    "mean_field",
    "messages",
    "networks",
    "scores",
    "worlds",
]

_HOME = {  # of what is no module
    "GMM": "gmm",
    "HMM": "hmm",
    "Independent": "independent",
    "LDS": "lds",
    "LDSMixture": "lds",
    "Potentials": "messages",
    "SLDS": "slds",
    "SVAE": "autoencoder",
    "fit": "fitting",
    "forecast": "forecasting",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
