"""Inference by differentiation.

    from chainrule.inference import flymc, entropic, bbsvi

flymc         Firefly Monte Carlo: exact Markov chains that look at few of the data
entropic      early stopping as variational inference: a bound of the evidence along gradient descent
bbsvi         black-box stochastic variational inference
diagnostics   R-hat, effective sample sizes and Monte Carlo errors of chains

Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.inference import bbsvi, diagnostics, entropic, flymc

__all__ = ["bbsvi", "diagnostics", "entropic", "flymc"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
