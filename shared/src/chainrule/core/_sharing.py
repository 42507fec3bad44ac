"""Compute once what a function computes repeatedly: common subexpressions shared, dead ones dropped.

    shared(f)       f, equation by equation, each distinct one once

Differentiating a derivative repeats what the first differentiation computed. XLA removes the repetitions,
but only after all of them were traced, lowered and hashed; shared in between, they never pile up.

The method is value numbering: equal operations on equal numbers get the same number.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array


def shared(f: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """f, from arrays to a list of arrays, such that a trace of it holds each distinct operation once.

    Calls of jitted functions are dissolved, for they hide what they have in common; bodies of loops and
    branches stay as they are. Operations with effects all remain, in order.
    """

    def f_shared(*arrays):
        closed = jax.make_jaxpr(f)(*arrays)
        values = _Values()
        numbers = values.of_call(closed, [values.of_input(x) for x in arrays])
        return [values.known[number] for number in numbers]

    return f_shared


class _Values:
    """What has been computed so far; equal values have one number, their place in `known`."""

    def __init__(self):
        self.known, self.inputs, self.literals, self.operations = [], {}, {}, {}

    def new(self, x) -> int:
        self.known.append(x)
        return len(self.known) - 1

    def of_input(self, x) -> int:
        if id(x) not in self.inputs:  # `known` keeps x alive, so that its id stays its own
            self.inputs[id(x)] = self.new(x)
        return self.inputs[id(x)]

    def of_literal(self, literal: Literal) -> int:
        if np.ndim(literal.val):
            return self.of_input(literal.val)
        key = (literal.aval, np.asarray(literal.val).tobytes())  # bytes: 0.0 == -0.0, but 1 / 0.0 != 1 / -0.0
        if key not in self.literals:
            self.literals[key] = self.new(literal.val)
        return self.literals[key]

    def of_call(self, closed, inputs: list[int]) -> list[int]:
        """The numbers of the outputs of a jaxpr, given those of its inputs."""
        jaxpr = closed.jaxpr
        numbers = dict(zip(jaxpr.invars, inputs, strict=True))
        numbers |= {var: self.of_input(x) for var, x in zip(jaxpr.constvars, closed.consts, strict=True)}

        def number(atom) -> int:
            return self.of_literal(atom) if isinstance(atom, Literal) else numbers[atom]

        for equation in _alive(jaxpr):
            outputs = self.of_equation(jaxpr, equation, [number(atom) for atom in equation.invars])
            numbers |= dict(zip(equation.outvars, outputs, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def of_equation(self, jaxpr, equation, inputs: list[int]) -> list[int]:
        # What a jitted function wishes for its shardings is lost.
        if equation.primitive.name in ("jit", "pjit"):
            return self.of_call(equation.params["jaxpr"], inputs)
        operation = (equation.primitive, tuple(inputs), tuple(sorted(equation.params.items(), key=_name)))
        if equation.effects or not _hashable(operation):
            operation = object()  # equal to nothing else
        if operation not in self.operations:
            # As a jaxpr of one equation, so that it keeps its name scopes and its special rules.
            pairs = zip(equation.invars, inputs, strict=True)
            arguments = {var: number for var, number in pairs if not isinstance(var, Literal)}
            alone = jaxpr.replace(
                constvars=[], invars=[*arguments], outvars=equation.outvars, eqns=[equation]
            )
            outputs = jax.core.eval_jaxpr(alone, (), *(self.known[number] for number in arguments.values()))
            self.operations[operation] = [self.new(x) for x in outputs]
        return self.operations[operation]


def _alive(jaxpr) -> list:
    """The equations that an output depends on, or that have effects."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    alive = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or wanted.intersection(equation.outvars):
            alive.append(equation)
            wanted.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    return alive[::-1]


def _name(parameter: tuple) -> str:
    return parameter[0]


def _hashable(x) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True
