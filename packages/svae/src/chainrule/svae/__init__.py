"""Structured variational autoencoders: graphical models inside, neural networks at the edges.

    from chainrule.svae import expfam, messages, worlds

messages   filtering, smoothing, sampling and forecasting in linear dynamical systems and hidden Markov models
expfam     the exponential families of their parameters
worlds     bouncing balls, drawn

Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.svae import expfam, messages, worlds

__all__ = ["expfam", "messages", "worlds"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
