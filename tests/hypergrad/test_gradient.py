"""The gradient of a step is one program in both directions, and hands out what its derivative reads."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from chainrule.hypergrad import reverse, train, value_and_hypergrad

KEY = jax.random.key(0)


def primitives(jaxpr):
    """How often each stands in a program and in the programs within."""
    counts = collections.Counter()
    for equation in jaxpr.eqns:
        counts[equation.primitive.name] += 1
        for part in jax.tree.leaves(
            [*equation.params.values()], is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            part = part.jaxpr if isinstance(part, ClosedJaxpr) else part
            if isinstance(part, Jaxpr):
                counts += primitives(part)
    return counts


def test_the_derivative_computes_no_activation_and_draws_no_noise_again(problem):
    """A step forwards and a step backwards have one tanh, one exponential and one dropout each."""
    p = problem("mlp")

    def loss(params, hyper, batch, key):
        noise = jax.random.bernoulli(key, 0.5, batch["x"].shape)
        logits = p.model(params, batch["x"] * noise)
        return -jnp.mean(jax.nn.log_softmax(logits) * batch["y"])

    def final(params):
        trained = train(loss, params, None, 0.1, 0.9, data=p.data, batch_size=8, key=KEY, steps=5)
        return jnp.sum(trained.params["w"])

    counts = primitives(jax.make_jaxpr(jax.grad(final))(p.params).jaxpr)
    steps = 2
    assert counts["tanh"] == counts["exp"] == steps
    assert counts["random_bits"] == 3 * steps  # two for the rows of the batch


def losses_with_complex_numbers(gain, size):
    """The same spectrum to be met: complex as a hyperparameter, closed over, and within the loss."""
    spectrum = jnp.fft.fft(gain * jnp.arange(size))
    distance = lambda x, other: jnp.sum(jnp.abs(jnp.fft.fft(x) - other) ** 2)
    return {
        "hyper": (lambda x, hyper, batch, key: distance(x, hyper), spectrum),
        "closed over": (lambda x, hyper, batch, key: distance(x, spectrum), None),
        "within": (lambda x, hyper, batch, key: distance(x, jnp.fft.fft(hyper)), gain * jnp.arange(size)),
    }


@pytest.mark.parametrize("case", ["hyper", "closed over", "within"])
def test_derivatives_flow_through_complex_numbers(case):
    def final(gain, method):
        loss, hyper = losses_with_complex_numbers(gain, 4)[case]
        trained = train(loss, jnp.ones(4), hyper, 0.1, 0.875, steps=5, method=method)
        return jnp.sum(jnp.sin(trained.params))

    found, exact = (jax.grad(final)(1.5, method) for method in ("reversible", "naive"))
    assert exact != 0
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_no_tracer_is_left_behind_and_no_dtype_is_promoted_unsaid():
    def run(weights, target):
        loss = lambda x, hyper, batch, key: jnp.sum(jnp.tanh(x * target) ** 2)
        return value_and_hypergrad(lambda x: jnp.sum(x), loss, weights, None, 0.1, 0.875, steps=3)

    with jax.checking_leaks(), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        *_, certificate = jax.jit(run)(jnp.ones(4, jnp.bfloat16), jnp.bfloat16(0.5))
    assert certificate.holds


@pytest.mark.slow
@pytest.mark.parametrize("model", ["layernorm", "attention"])
def test_reversal_of_a_run_that_was_differentiated_is_exact_or_noticed(problem, model):
    """Derivatives by hyperparameters hand out more than `reverse` asks for."""
    p = problem(model)

    def run(hyper):
        trained = train(p.loss, p.params, hyper, 0.3, 0.9, data=p.data, steps=30)
        return p.objective(trained.params), trained

    _, trained = jax.jit(jax.grad(run, has_aux=True))(p.hyper)
    start, _, certificate = jax.jit(reverse)(trained)
    same = [np.array_equal(x, p.params[name]) for name, x in start.items()]
    assert all(same) or not certificate.holds
