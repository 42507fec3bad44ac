"""Gradients with respect to everything that goes into training, by running it backwards exactly.

    from chainrule.hypergrad import reverse, train, value_and_hypergrad

train                 momentum training as a differentiable function of all that goes into it
value_and_hypergrad   value, derivatives, and a certificate that these can be trusted
memory_estimate       what each method would need, before the run
reverse               back to the initial weights, bit for bit
fit                   learn what goes into training, by any optimizer of optax
to_sgd, as_schedule   learned schedules for optax.sgd
"""

from chainrule.hypergrad.hypergradient import Certificate, Hypergradient, reverse, value_and_hypergrad
from chainrule.hypergrad.memory import Memory, memory_estimate
from chainrule.hypergrad.meta import Fitted, MetaStep, MetaStepFailed, fit
from chainrule.hypergrad.schedules import as_schedule, to_sgd
from chainrule.hypergrad.train import Trained, train

__all__ = [
    "Certificate",
    "Fitted",
    "Hypergradient",
    "Memory",
    "MetaStep",
    "MetaStepFailed",
    "Trained",
    "as_schedule",
    "fit",
    "memory_estimate",
    "reverse",
    "to_sgd",
    "train",
    "value_and_hypergrad",
]
