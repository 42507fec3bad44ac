"""chainrule.core: what every chainrule package, and any other JAX project, can import.

fixed_point, root, argmin              x = f(a, x), F(a, x) = 0, a minimum: with their derivatives
Picard, Anderson, Newton, NewtonCG     how to iterate
Implicit, Neumann, OneStep, Unrolled   how to differentiate
CG, GMRES, BiCGStab, Dense             how to solve the linear system of a derivative
hvp, ggnvp, contract                   products with higher derivatives, without the matrices
primitive, defvjp                      functions whose derivative you say yourself
VectorSpace, PyTrees                   what can be differentiated by: what adds, scales and multiplies

Import on their own:
rkhs              functions as values that one can differentiate with respect to
krylov, logdet    eigenvalues and log-determinants from products with vectors
testing           checks that keep derivatives, and compile counts, honest
"""

from chainrule.core.adjoints import Implicit, Neumann, OneStep, Unrolled
from chainrule.core.fixed_point import Solution, argmin, fixed_point, root
from chainrule.core.linear_solvers import CG, GMRES, BiCGStab, Dense
from chainrule.core.newton import Newton, NewtonCG
from chainrule.core.operators import contract, ggnvp, hvp
from chainrule.core.primitive import defvjp, primitive
from chainrule.core.solvers import Anderson, Picard
from chainrule.core.status import Stats, Status
from chainrule.core.vector_space import PyTrees, VectorSpace, check_vector_space

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
    "PyTrees",
    "Solution",
    "Stats",
    "Status",
    "Unrolled",
    "VectorSpace",
    "argmin",
    "check_vector_space",
    "contract",
    "defvjp",
    "fixed_point",
    "ggnvp",
    "hvp",
    "primitive",
    "root",
]
