"""Firefly Monte Carlo: exact MCMC that looks at few of the data.

logistic_bound, softmax_bound, student_t_bound    lower bounds of likelihoods; .tuned(theta) to touch there,
                                                  .tuned(theta, scale) to hug there: fewer are bright
Bound, check_bound                                a bound of one's own, and a hunt for where it is none
Firefly, FullData                                 kernels: init(key, theta), step(key, state) -> (state, info)
Implicit, Explicit, weighted                      how brightness is updated
RandomWalk, MALA, HMC, Slice                      how theta moves
sample                                            chains with warm-up; Run(draws, info, ...)
find_map, posterior_scale, preconditioned         where to tune a bound, and how near; the scale of the moves
"""

from chainrule.inference.flymc.adaptation import preconditioned
from chainrule.inference.flymc.bound import Bound, log_expm1
from chainrule.inference.flymc.brightness import Bright, Explicit, Implicit
from chainrule.inference.flymc.check import Report, check_bound
from chainrule.inference.flymc.firefly import Firefly, Info, State
from chainrule.inference.flymc.full_data import FullData, FullState, find_map
from chainrule.inference.flymc.logistic import LogisticBound, logistic_bound
from chainrule.inference.flymc.moves import HMC, MALA, RandomWalk
from chainrule.inference.flymc.sampling import BoundViolated, Progress, Run, sample
from chainrule.inference.flymc.slice import Slice
from chainrule.inference.flymc.softmax import SoftmaxBound, softmax_bound
from chainrule.inference.flymc.student_t import StudentTBound, student_t_bound
from chainrule.inference.flymc.weighted import Weighted, posterior_scale, weighted

__all__ = [
    "HMC",
    "MALA",
    "Bound",
    "BoundViolated",
    "Bright",
    "Explicit",
    "Firefly",
    "FullData",
    "FullState",
    "Implicit",
    "Info",
    "LogisticBound",
    "Progress",
    "RandomWalk",
    "Report",
    "Run",
    "Slice",
    "SoftmaxBound",
    "State",
    "StudentTBound",
    "Weighted",
    "check_bound",
    "find_map",
    "log_expm1",
    "logistic_bound",
    "posterior_scale",
    "preconditioned",
    "sample",
    "softmax_bound",
    "student_t_bound",
    "weighted",
]
