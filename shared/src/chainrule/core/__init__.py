"""chainrule.core: what every chainrule package, and any other JAX project, can import.

fixed_point, root, argmin              x = f(a, x), F(a, x) = 0, a minimum: with their derivatives
Picard, Anderson, Newton, NewtonCG     how to iterate
Implicit, Neumann, OneStep, Unrolled   how to differentiate
CG, GMRES, BiCGStab, Dense             how to solve the linear system of a derivative
hvp, ggnvp, contract                   products with higher derivatives, without the matrices
primitive, defvjp                      functions whose derivative you say yourself
VectorSpace, PyTrees                   what can be differentiated by: what adds, scales and multiplies

Each is imported when first used. Import on their own:
rkhs              functions as values that one can differentiate with respect to
krylov, logdet    eigenvalues and log-determinants from products with vectors
testing           checks that keep derivatives, and compile counts, honest
experiments       what commands, their files and their tables have in common
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.core.adjoints import Implicit, Neumann, OneStep, Unrolled
    from chainrule.core.fixed_points import Solution, argmin, fixed_point, root
    from chainrule.core.linear_solvers import CG, GMRES, BiCGStab, Dense
    from chainrule.core.newton import Newton, NewtonCG
    from chainrule.core.operators import contract, ggnvp, hvp
    from chainrule.core.primitives import defvjp, primitive
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

_MODULE = {
    "Implicit": "adjoints",
    "Neumann": "adjoints",
    "OneStep": "adjoints",
    "Unrolled": "adjoints",
    "Solution": "fixed_points",
    "argmin": "fixed_points",
    "fixed_point": "fixed_points",
    "root": "fixed_points",
    "BiCGStab": "linear_solvers",
    "CG": "linear_solvers",
    "Dense": "linear_solvers",
    "GMRES": "linear_solvers",
    "Newton": "newton",
    "NewtonCG": "newton",
    "contract": "operators",
    "ggnvp": "operators",
    "hvp": "operators",
    "defvjp": "primitives",
    "primitive": "primitives",
    "Anderson": "solvers",
    "Picard": "solvers",
    "Stats": "status",
    "Status": "status",
    "PyTrees": "vector_space",
    "VectorSpace": "vector_space",
    "check_vector_space": "vector_space",
}


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
