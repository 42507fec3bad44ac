"""Exponential families: natural parameters, log normalisers, expected statistics.

    p(x) = base(x) exp(<eta, t(x)> - A(eta)),        E t(x) = grad A(eta)

Gaussian(J, h)                  of a vector: precision and precision times mean
Categorical(logits)             of a choice
Dirichlet(alpha)                of the probabilities of a Categorical
NIW(xx, x, kappa, nu)           of the mean and precision of a Gaussian (normal-inverse-Wishart)
MNIW(xx, xy, yy, nu)            of the coefficients and precision of a linear regression (matrix-normal-...)
inner(eta, statistics)          <eta, t>
kl(q, p)                        divergences, summed over a whole pytree of families
natural_step(eta, target, rho)  eta + rho (target - eta), never outside the family
valid(eta)                      whether there is such a distribution, entry by entry

Each class holds natural parameters, with any leading axes for a batch, and is a NamedTuple: a pytree.
Natural parameters of the conjugate three *are sums of statistics of data*, plus those of the prior: a
posterior is prior plus statistics, field by field. An expected statistic comes in the class of the parameter
it is paired with, as a gradient does.

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), appendix; the formulas
are those of any textbook, in the conventions above.
"""

from chainrule.svae.expfam.categorical import Categorical
from chainrule.svae.expfam.dirichlet import Dirichlet
from chainrule.svae.expfam.family import Family, inner, kl, natural_step, valid
from chainrule.svae.expfam.gaussian import Gaussian
from chainrule.svae.expfam.mniw import MNIW, join_columns, split_columns
from chainrule.svae.expfam.niw import NIW

__all__ = [
    "MNIW",
    "NIW",
    "Categorical",
    "Dirichlet",
    "Family",
    "Gaussian",
    "inner",
    "join_columns",
    "kl",
    "natural_step",
    "split_columns",
    "valid",
]
