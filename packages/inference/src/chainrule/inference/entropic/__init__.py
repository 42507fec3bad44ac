"""Early stopping and ensembling as variational inference: a bound of the evidence that comes with training.

    from chainrule.inference import entropic

run                gradient descent from a draw, with energy, entropy and evidence lower bound at each step
run_ensemble       the same from many draws
choose_stopping    where the bound peaks, among the steps at which it is one
laplace            the evidence by a Gaussian at the mode, for comparison
log_volume         log|det(I - a H)| of one step, exactly, by a lower bound, or by Lanczos quadrature
Gaussian, Prior    where draws come from
State, Trace       what training carries along, and what it leaves behind

Source: the slides "Early stopping and ensembling as variational inference" of the talk The Chain Rule
Unchained (D. Maclaurin); Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational
inference, AISTATS 2016.
"""

from chainrule.inference.entropic.descent import State, Trace, run, run_ensemble
from chainrule.inference.entropic.laplace import Laplace, laplace
from chainrule.inference.entropic.priors import Gaussian, Prior
from chainrule.inference.entropic.stopping import Stopping, choose_stopping
from chainrule.inference.entropic.volume import PARABOLA_HOLDS_TO, Volume, log_volume

__all__ = [
    "PARABOLA_HOLDS_TO",
    "Gaussian",
    "Laplace",
    "Prior",
    "State",
    "Stopping",
    "Trace",
    "Volume",
    "choose_stopping",
    "laplace",
    "log_volume",
    "run",
    "run_ensemble",
]
