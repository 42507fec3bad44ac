"""The jaxpr of a loss, run with values in place of its functions.

    run_loss(jaxpr, number, context)       the outputs, with a perturbation added at each site
    Context(depth, use, perturbations)     what goes into the sites, and what comes out of them

With f_s the value at site s, the derivative of the loss with respect to a perturbation added to it is
dL / df_s. Control flow is kept: a site within scan has a perturbation for each step, and one within a branch
of cond has derivative zero unless the branch is taken.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array

from chainrule.core.rkhs._block import Which, rearranged
from chainrule.core.rkhs._sites import bare, is_site, leaves_used, not_entered, sites, sites_of, variables


@dataclasses.dataclass(frozen=True)
class Token:
    """What stands for a function among the values of a jaxpr."""

    live: Any = True  # False if lax.stop_gradient stopped it; an array if it did for some of many copies


@dataclasses.dataclass(frozen=True)
class Seen:
    """What `run` learns about a site apart from numbers."""

    origin: Hashable  # where its points come from, if it is known
    live: tuple[bool, ...]  # for each of its functions, whether derivatives flow to it


@dataclasses.dataclass
class Context:
    """What goes into the sites and what comes out of them, for one body that JAX traces."""

    depth: int
    use: Callable[[tuple[int, ...], Any], Array]  # f(points), or <f, g>
    perturbations: Iterator[Array]
    points: list[Any] = dataclasses.field(default_factory=list)  # at each site so far; None for <f, g>
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def within(self, perturbations: Sequence[Array]) -> "Context":
        return Context(self.depth, self.use, iter(perturbations))

    def take(self, jaxpr: Any) -> list[Array]:
        """The perturbations for the sites of a jaxpr."""
        return [next(self.perturbations) for _ in sites(jaxpr, self.depth)]

    def note(self, points: Sequence[Any], seen: Sequence[Seen]) -> None:
        self.points += points
        self.seen += seen


def run_loss(jaxpr: Any, number: int, context: Context) -> list[Any]:
    """The outputs of the jaxpr of a loss, whose inputs are the tokens of its functions."""
    value, *aux = run(jaxpr, [Token()] * number, [None] * number, context)
    if _is_token(value):
        raise leaves_used("one of")
    return [value, *(jnp.full((), jnp.nan) if _is_token(x) else x for x in aux)]


def run(jaxpr: Any, inputs: Sequence[Any], origins: Sequence[Hashable], context: Context) -> list[Any]:
    """The outputs of a jaxpr, while `context` gathers the points of its sites."""
    consts = list(jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else []
    jaxpr = bare(jaxpr)
    given = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(given, [*consts, *inputs], strict=True))
    known = dict(zip(given, [*map(Which, consts), *origins], strict=True))
    value = lambda v: v.val if isinstance(v, Literal) else values[v]
    origin = lambda v: Which(v.val) if isinstance(v, Literal) else known[v]

    for equation in jaxpr.eqns:
        operands, whence = list(map(value, equation.invars)), list(map(origin, equation.invars))
        name, has_token = equation.primitive.name, any(map(_is_token, operands))
        if is_site(equation, context.depth):
            outputs = [_run_site(equation, operands, whence, context)]
        elif has_token and name == "stop_gradient":
            outputs = [Token(live=False)]
        elif has_token and name in ("broadcast_in_dim", "select_n"):
            outputs = [_run_copies(equation, operands)]
        elif has_token or sites_of(equation, context.depth):
            if name not in _RULES:
                raise not_entered(equation)
            outputs = _RULES[name](equation, operands, whence, context)
        else:  # as a jaxpr of its own, so that it keeps its name scopes and its special rules
            used = variables(equation.invars)
            alone = jaxpr.replace(constvars=[], invars=used, outvars=equation.outvars, eqns=[equation])
            outputs = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(value, used))
        values.update(zip(equation.outvars, outputs, strict=True))
        known.update(zip(equation.outvars, rearranged(equation, whence), strict=True))
    return list(map(value, jaxpr.outvars))


def _run_site(equation, operands, origins, context):
    which, dtype = equation.params["which"], equation.outvars[0].aval.dtype
    tokens = operands[: len(which)]
    if not all(map(_is_token, tokens)):
        raise leaves_used("other numbers in place of")
    points, origin = (operands[1], origins[1]) if len(which) == 1 else (None, None)
    live = tuple(token.live is not False for token in tokens)
    context.note([points], [Seen(origin, live)])
    value = context.use(which, points).astype(dtype)
    return value + _where_live(next(context.perturbations), tokens)


def _where_live(perturbation, tokens):
    """The perturbation, zero for those of many copies of a function that are stopped."""
    # One perturbation serves both functions of an inner product, so both have to be stopped alike.
    masks = {id(token.live): token.live for token in tokens if token.live is not False}
    if len(masks) > 1:
        raise NotImplementedError(
            "rkhs.grad: the loss takes the inner product of two functions within a `cond` that vmap maps "
            "over. Way out: take it before the cond"
        )
    for mask in masks.values():
        if mask is not True:
            mask = mask.reshape(mask.shape + (1,) * (perturbation.ndim - mask.ndim))
            perturbation = jnp.where(mask, perturbation, 0)
    return perturbation


def _run_copies(equation, operands):
    """vmap of cond: copies of what a branch uses, stopped where another branch is taken."""
    is_selection = equation.primitive.name == "select_n"
    cases, params = operands[is_selection:], equation.params
    if not all(map(_is_token, cases)):
        raise not_entered(equation)
    if all(isinstance(token.live, bool) and token.live == cases[0].live for token in cases):
        return cases[0]
    shape = equation.outvars[0].aval.shape
    if not is_selection:
        return Token(lax.broadcast_in_dim(cases[0].live, shape, params["broadcast_dimensions"]))
    return Token(lax.select_n(operands[0], *(jnp.broadcast_to(token.live, shape) for token in cases)))


def _run_jit(equation, operands, origins, context):
    return run(equation.params["jaxpr"], operands, origins, context)  # dissolved


def _run_checkpoint(equation, operands, origins, context):
    jaxpr, params = equation.params["jaxpr"], equation.params
    arrays, with_tokens = _without_tokens(operands)
    seen = []

    def body(arrays, perturbations):
        inner = context.within(perturbations)
        outputs = _arrays(equation, run(jaxpr, with_tokens(arrays), origins, inner))
        seen[:] = inner.seen
        return outputs, inner.points

    body = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    outputs, points = body(arrays, context.take(jaxpr))
    context.note(points, seen)
    return outputs


def _run_scan(equation, operands, origins, context):
    params, jaxpr = equation.params, bare(equation.params["jaxpr"])
    # What is scanned over, or stacked, has one axis more outside than inside.
    rank = lambda v: len(v.aval.shape)
    scanned = sum(rank(o) > rank(i) for o, i in zip(equation.invars, jaxpr.invars, strict=True))
    carried = sum(rank(o) == rank(i) for o, i in zip(equation.outvars, jaxpr.outvars, strict=True))
    first, last = len(operands) - scanned - carried, len(operands) - scanned
    consts, carry = operands[:first], _arrays(equation, operands[first:last])
    xs = _arrays(equation, operands[last:])
    seen = []

    def step(carry, scanned):
        xs, perturbations = scanned
        inner = context.within(perturbations)
        outputs = _arrays(
            equation, run(params["jaxpr"], [*consts, *carry, *xs], [None] * len(operands), inner)
        )
        seen[:] = inner.seen
        return outputs[:carried], (outputs[carried:], inner.points)

    scanned = (xs, context.take(jaxpr))
    carry, (ys, points) = lax.scan(
        step, carry, scanned, params["length"], params["reverse"], params["unroll"]
    )
    # Points that were scanned over come out as the array that went in, and so are recognised.
    context.note(points, [Seen(None, each.live) for each in seen])
    return [*carry, *ys]


def _run_cond(equation, operands, origins, context):
    branches = equation.params["branches"]
    index, *operands = operands
    arrays, with_tokens = _without_tokens(operands)
    nowhere = [[_zeros(found.points) for found in sites(branch, context.depth)] for branch in branches]
    seen = [[] for _ in branches]

    def taking(i):
        def branch(arrays, perturbations):
            inner = context.within(perturbations[i])
            outputs = _arrays(equation, run(branches[i], with_tokens(arrays), [None] * len(operands), inner))
            seen[i] = [Seen(None, each.live) for each in inner.seen]
            # The points of the other branches are not known; their coefficients will be zero.
            return outputs, [*nowhere[:i], inner.points, *nowhere[i + 1 :]]

        return branch

    choices = [taking(i) for i in range(len(branches))]
    outputs, points = lax.switch(index, choices, arrays, [context.take(branch) for branch in branches])
    context.note(*(list(itertools.chain(*each)) for each in (points, seen)))
    return outputs


_RULES = {
    "jit": _run_jit,
    "remat2": _run_checkpoint,
    "checkpoint": _run_checkpoint,
    "scan": _run_scan,
    "cond": _run_cond,
}


def _zeros(like: jax.ShapeDtypeStruct | None) -> Array | None:
    return None if like is None else jnp.zeros(like.shape, like.dtype)


def _is_token(x: Any) -> bool:
    return isinstance(x, Token)


def _without_tokens(operands: Sequence[Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """The arrays among operands, and how to put them back between the tokens."""

    def with_tokens(arrays):
        arrays = iter(arrays)
        return [x if _is_token(x) else next(arrays) for x in operands]

    return [x for x in operands if not _is_token(x)], with_tokens


def _arrays(equation: Any, values: Sequence[Any]) -> list[Any]:
    """Values that go through a loop, or come out of a branch."""
    if any(map(_is_token, values)):
        raise TypeError(
            f"rkhs.grad: in the loss, f itself is carried through `{equation.primitive.name}`, or comes out "
            "of it. Way out: let the body close over f, and return values of f"
        )
    return list(values)
