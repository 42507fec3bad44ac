"""chainrule.core: what every chainrule package, and any other JAX project, can import.

fixed_point     x = f(a, x) with its implicit derivative
testing         checks that keep derivatives, and compile counts, honest (import it on its own)
"""

from chainrule.core.fixed_point import Solution, fixed_point
from chainrule.core.status import Stats, Status

__all__ = ["Solution", "Stats", "Status", "fixed_point"]
