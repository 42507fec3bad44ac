"""Messages in chains: what is known of hidden states, of linear dynamical systems and of hidden Markov
models.

lds_log_normaliser, lds_filter, lds_smoother, lds_sample, lds_forecast
Potentials, observe, masked, expected_dynamics      what frames say of their states
hmm_log_normaliser, hmm_filter, hmm_smoother, hmm_sample, hmm_forecast, hmm_viterbi
"""

from chainrule.svae.messages.hmm import (
    HMM,
    FilteredStates,
    StateProbabilities,
    hmm_filter,
    hmm_forecast,
    hmm_log_normaliser,
    hmm_sample,
    hmm_smoother,
    hmm_viterbi,
)
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
from chainrule.svae.messages.potentials import Potentials, expected_dynamics, masked, observe

__all__ = [
    "HMM",
    "LDS",
    "Filtered",
    "FilteredStates",
    "Forecast",
    "Potentials",
    "Smoothed",
    "StateProbabilities",
    "expected_dynamics",
    "hmm_filter",
    "hmm_forecast",
    "hmm_log_normaliser",
    "hmm_sample",
    "hmm_smoother",
    "hmm_viterbi",
    "lds_filter",
    "lds_forecast",
    "lds_log_normaliser",
    "lds_sample",
    "lds_smoother",
    "masked",
    "observe",
]
