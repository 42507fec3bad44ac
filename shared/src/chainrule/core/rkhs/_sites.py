"""Every place where the jaxpr of a loss uses its function.

sites(jaxpr, depth)                the uses in order of evaluation; an error for one that cannot be
matters(jaxpr, depth, needed)      for each, whether outputs that are needed depend on it
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from chainrule.core.rkhs._argument import site

# Operations whose bodies `_run` enters, by name.
ENTERED = frozenset({"jit", "remat2", "checkpoint", "scan", "cond"})

_WAYS_OUT = {
    "while": "lax.scan, or lax.fori_loop with a fixed number of steps; how often a while loop evaluates f, "
    "and so how many atoms the gradient has, is not known",
    "custom_jvp_call": "evaluate f outside of the function that has its own derivative",
    "custom_vjp_call": "evaluate f outside of the function that has its own derivative",
}


@dataclasses.dataclass(frozen=True)
class Site:
    """Shapes at one equation that evaluates f, or takes an inner product with it."""

    which: tuple[int, ...]  # the function evaluated; or the two of an inner product
    points: jax.ShapeDtypeStruct | None  # (*batch, dim); None for an inner product
    value: jax.ShapeDtypeStruct  # (*batch,)

    def repeated(self, times: int) -> "Site":
        more = lambda x: jax.ShapeDtypeStruct((times, *x.shape), x.dtype)
        return Site(self.which, None if self.points is None else more(self.points), more(self.value))


def sites(jaxpr: Any, depth: int) -> list[Site]:
    """The uses of the functions of one gradient, in the order in which `run` meets them.

    Raises:
        NotImplementedError: for a use inside of an operation that `run` does not enter.
    """
    return [found for equation in bare(jaxpr).eqns for found in sites_of(equation, depth)]


def matters(jaxpr: Any, depth: int, needed: Sequence[bool]) -> list[bool]:
    """For each site, whether an output that is needed depends on its equation."""
    jaxpr = bare(jaxpr)
    wanted = set(variables([v for v, is_needed in zip(jaxpr.outvars, needed, strict=True) if is_needed]))
    answers = []
    for equation in reversed(jaxpr.eqns):
        needed = [v in wanted for v in equation.outvars]
        if equation.primitive.name == "jit":
            answers.append(matters(equation.params["jaxpr"], depth, needed))
        else:
            answers.append([any(needed)] * len(sites_of(equation, depth)))
        if any(needed):
            wanted.update(variables(equation.invars))
    return [answer for of_equation in reversed(answers) for answer in of_equation]


def sites_of(equation: Any, depth: int) -> list[Site]:
    if is_site(equation, depth):
        shape = lambda v: jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
        which = equation.params["which"]
        points = shape(equation.invars[1]) if len(which) == 1 else None
        return [Site(which, points, shape(equation.outvars[0]))]
    inside = [found for jaxpr in _jaxprs_in(equation.params) for found in sites(jaxpr, depth)]
    if inside and equation.primitive.name not in ENTERED:
        raise not_entered(equation)
    is_scan = equation.primitive.name == "scan"
    return [found.repeated(equation.params["length"]) for found in inside] if is_scan else inside


def is_site(equation: Any, depth: int) -> bool:
    return equation.primitive is site and equation.params["depth"] == depth


def _jaxprs_in(params: Any) -> Iterator[Any]:
    """In the order in which they stand there: for cond, that of the branches."""
    if isinstance(params, Jaxpr | ClosedJaxpr):
        yield params
    elif isinstance(params, dict | tuple | list):
        for value in params.values() if isinstance(params, dict) else params:
            yield from _jaxprs_in(value)


def bare(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def variables(atoms: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(v for v in atoms if not isinstance(v, Literal)))


def not_entered(equation: Any) -> Exception:
    name = equation.primitive.name
    if not any(True for _ in _jaxprs_in(equation.params)):
        return leaves_used(f"`{name}` of")
    way_out = _WAYS_OUT.get(name, "use f outside of it")
    return NotImplementedError(f"rkhs.grad: the loss uses f inside of `{name}`. Way out: {way_out}")


def leaves_used(how: str) -> Exception:
    return TypeError(
        f"rkhs.grad: the loss uses {how} the leaves of f as a pytree. A function is not the numbers that it "
        "is written with: it has evaluations, sums, multiples and inner products. Way out: use those, such "
        "as norm_sq(f) in place of a sum of squares"
    )
