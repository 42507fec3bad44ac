"""chainrule.core: what every chainrule package, and any other JAX project, can import.

fixed_point, root, argmin              x = f(a, x), F(a, x) = 0, a minimum: with their derivatives
Picard, Anderson, Newton, NewtonCG     how to iterate
Implicit, Neumann, OneStep, Unrolled   how to differentiate
CG, GMRES, BiCGStab, Dense             how to solve the linear system of a derivative
testing                                checks that keep derivatives honest (import it on its own)
"""

from chainrule.core.adjoints import Implicit, Neumann, OneStep, Unrolled
from chainrule.core.fixed_point import Solution, argmin, fixed_point, root
from chainrule.core.linear_solvers import CG, GMRES, BiCGStab, Dense
from chainrule.core.newton import Newton, NewtonCG
from chainrule.core.solvers import Anderson, Picard
from chainrule.core.status import Stats, Status

__all__ = [
    "CG",
    "GMRES",
    "Anderson",
    "BiCGStab",
    "Dense",
    "Implicit",
    "Neumann",
    "Newton",
    "NewtonCG",
    "OneStep",
    "Picard",
    "Solution",
    "Stats",
    "Status",
    "Unrolled",
    "argmin",
    "fixed_point",
    "root",
]
