"""Training and its reversal as one differentiable function.

train_reversibly(program, inputs, momenta, probe)      -> final weights, velocities, and all else
"""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from chainrule.hypergrad.reversal import Final, Inputs, Program, backward, floats, forward


def train_reversibly(
    program: Program, inputs: Inputs, momenta: list[Array], probe: Float[Array, "2"]
) -> tuple[list[Array], list[Array], Final]:
    """What `forward` makes of the inputs, with the derivative by `backward`.

    Args:
        momenta: where derivatives by momentum go; they are those at the fractions of inputs.plans.
        probe: does nothing. The findings of the reversal leave the backward pass as the derivative by it,
            the number of mismatches and whether there was an overflow, for cotangents are all that can.

    Returns:
        Weights and velocities, NaN after an overflow, and the state that can be reversed.
    """
    plan_structure, groups = jax.tree.structure(inputs.plans), inputs.groups
    structure = None  # of the final state

    def train(params, others, rates, plans, wanted=()):
        nonlocal structure
        inputs = Inputs(params, others, rates, jax.tree.unflatten(plan_structure, plans), groups)
        final = forward(program, inputs, wanted)
        valid = lambda numbers: [jnp.where(final.overflow, jnp.nan, x) for x in floats(inputs, numbers)]
        weights, velocities = valid([m.x for m in final.moved]), valid([m.v for m in final.moved])
        leaves, structure = jax.tree.flatten(final)
        return weights, velocities, leaves

    @jax.custom_vjp
    def call(params, others, rates, momenta, probe, plans):
        return train(params, others, rates, plans)

    def call_forward(*primals):
        params, others, rates, _, probe, plans = jax.tree.map(lambda primal: primal.value, primals)
        wanted = [
            i for i, x in enumerate(primals[1]) if x.perturbed and jnp.issubdtype(x.value.dtype, jnp.inexact)
        ]
        result = train(params, others, rates, plans, wanted)
        return result, ((params, others, rates, probe, plans), result[2], dict.fromkeys(wanted))

    def call_backward(saved, cotangents):
        inputs, final, wanted = saved  # the keys of a dictionary are static
        by_params, by_velocities, _ = jax.tree.map(_instantiate, cotangents, is_leaf=_is_zero)
        return _refuse_second_derivatives(pull_back, [*wanted])(inputs, final, by_params, by_velocities)

    def pull_back(wanted, saved, final, by_params, by_velocities):
        params, others, rates, probe, plans = saved
        inputs = Inputs(params, others, rates, jax.tree.unflatten(plan_structure, plans), groups)
        final = jax.tree.unflatten(structure, final)
        found = backward(program, inputs, final, (by_params, by_velocities), wanted)
        failed = (found.mismatches > 0) | final.overflow
        params, others, (rates, momenta) = jax.tree.map(
            lambda x: jnp.where(failed, jnp.nan, x),
            (found.adjoints.params, found.adjoints.others, found.schedules),
        )
        others = dict(zip(wanted, others, strict=True))
        probe = jnp.stack([x.astype(probe.dtype) for x in (found.mismatches, final.overflow)])
        return params, [others.get(i) for i in range(len(inputs.others))], rates, momenta, probe, None

    call.defvjp(call_forward, call_backward, symbolic_zeros=True)
    plans = jax.tree.leaves(inputs.plans)
    weights, velocities, leaves = call(inputs.params, inputs.others, inputs.rates, momenta, probe, plans)
    return weights, velocities, jax.tree.unflatten(structure, leaves)


def _refuse_second_derivatives(f, static):
    call = jax.custom_jvp(lambda *arrays: f(static, *arrays))

    @call.defjvp
    def refuse(primals, tangents):
        raise TypeError(
            "train: second derivatives do not go through a reversal, whose numbers are integers: use "
            "method='checkpoint'"
        )

    return call


def _is_zero(x):
    return isinstance(x, SymbolicZero)


def _instantiate(x):
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) and jnp.issubdtype(x.dtype, jnp.floating) else x
