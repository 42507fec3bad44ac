"""Black-box stochastic variational inference: fit a distribution to any log density that has a gradient.

    from chainrule.inference import bbsvi

elbo                            the talk's, in its own words
MeanField, FullRank, Mixture    families of distributions
fit                             climb the evidence lower bound, by any optimiser of optax
estimate                        the bound of a fit, with its standard error
diagnose                        whether the fit can be trusted: Pareto k-hat of its importance ratios
psis, pareto_tail               what that is made of

Source: the slide "Implementation of black-box stochastic variational inference" of the talk The Chain Rule
Unchained (D. Maclaurin), a tweet by R. P. Adams; Kucukelbir et al., Automatic differentiation variational
inference, JMLR 2017.
"""

from chainrule.inference.bbsvi.families import Family, FullRank, Gaussian, MeanField, Mixture
from chainrule.inference.bbsvi.fitting import Fitted, Progress, fit
from chainrule.inference.bbsvi.objective import Estimate, estimate
from chainrule.inference.bbsvi.psis import Diagnosis, Smoothed, diagnose, pareto_tail, psis
from chainrule.inference.bbsvi.tweet import elbo

__all__ = [
    "Diagnosis",
    "Estimate",
    "Family",
    "Fitted",
    "FullRank",
    "Gaussian",
    "MeanField",
    "Mixture",
    "Progress",
    "Smoothed",
    "diagnose",
    "elbo",
    "estimate",
    "fit",
    "pareto_tail",
    "psis",
]
