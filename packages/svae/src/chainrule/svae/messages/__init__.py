"""Messages in chains: what is known of hidden states, of linear dynamical systems and of hidden Markov models.

    lds_log_normaliser, lds_filter, lds_smoother, lds_sample, lds_forecast
    Potentials, observe, masked      what frames say of their states
"""

from chainrule.svae.messages.lds import (
    LDS,
    Filtered,
    Forecast,
    Smoothed,
    lds_filter,
    lds_forecast,
    lds_log_normaliser,
    lds_sample,
    lds_smoother,
)
from chainrule.svae.messages.potentials import Potentials, masked, observe

__all__ = [
    "LDS",
    "Filtered",
    "Forecast",
    "Potentials",
    "Smoothed",
    "lds_filter",
    "lds_forecast",
    "lds_log_normaliser",
    "lds_sample",
    "lds_smoother",
    "masked",
    "observe",
]
