"""Gradients with respect to everything that goes into training, by running it backwards exactly.

    from chainrule.hypergrad import reverse, train, value_and_hypergrad

train                 momentum training as a differentiable function of all that goes into it
value_and_hypergrad   value, derivatives, and a certificate that these can be trusted
memory_estimate       what each method would need, before the run
reverse               back to the initial weights, bit for bit
fit                   learn what goes into training, by any optimizer of optax
to_sgd, as_schedule   learned schedules for optax.sgd

Names are imported when first used, so that every `--help` is immediate.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.hypergrad.hypergradient import Certificate, Hypergradient, reverse, value_and_hypergrad
    from chainrule.hypergrad.memory import Memory, memory_estimate
    from chainrule.hypergrad.meta import Fitted, MetaStep, MetaStepFailed, fit
    from chainrule.hypergrad.schedules import as_schedule, to_sgd
    from chainrule.hypergrad.training import Trained, train

_MODULE = {  # where each public name lives
    "Certificate": "hypergradient",
    "Fitted": "meta",
    "Hypergradient": "hypergradient",
    "Memory": "memory",
    "MetaStep": "meta",
    "MetaStepFailed": "meta",
    "Trained": "training",
    "as_schedule": "schedules",
    "fit": "meta",
    "memory_estimate": "memory",
    "reverse": "hypergradient",
    "to_sgd": "schedules",
    "train": "training",
    "value_and_hypergrad": "hypergradient",
}
__all__ = list(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
