"""Hypergradients: against reverse mode through training, against optax, under JAX's transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from chainrule.hypergrad import to_sgd, train, value_and_hypergrad
from chainrule.hypergrad.bits import NO_ROW, numerators, spill_plan
from chainrule.hypergrad.exact import Double, Single

pytestmark = pytest.mark.slow
KEY = jax.random.key(3)
NAMES = ("params", "hyper", "learning_rate", "momentum", "data")


def distances(found, exact):
    """By argument: of all its numbers as one vector, relative."""
    vector = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return {
        name: np.linalg.norm(vector(found[name]) - vector(exact[name])) / np.linalg.norm(vector(exact[name]))
        for name in exact
    }


def schedules(steps):
    """A learning rate per layer and step, a momentum per step that a fraction of 2^12 is."""
    rate = {"w": np.linspace(0.2, 0.05, steps), "b": 0.1, "out": 0.1, "c": np.full(steps, 0.05)}
    return rate, np.round(np.linspace(0.5, 0.95, steps) * 4096) / 4096


def by_reverse_mode(p, rate, momentum, method="naive", **settings):
    def value(chosen):
        trained = train(
            p.loss, *(chosen[name] for name in NAMES[:4]), data=chosen["data"], method=method, **settings
        )
        return p.objective(trained.params)

    chosen = dict(zip(NAMES, (p.params, p.hyper, rate, momentum, p.data), strict=True))
    return jax.jit(jax.value_and_grad(value))(jax.tree.map(jnp.asarray, chosen))


def test_double_precision_agrees_with_float64_reverse_mode_after_a_thousand_steps(problem):
    p = problem("mlp", np.float64)
    rate, momentum = schedules(1000)
    settings = dict(batch_size=8, key=KEY, steps=1000)
    call = lambda params: value_and_hypergrad(
        p.objective, p.loss, params, p.hyper, rate, momentum, data=p.data, wrt=NAMES, **settings
    )
    value, gradient, certificate = jax.jit(call)(p.params)
    exact_value, exact = by_reverse_mode(p, rate, momentum, **settings)
    assert certificate.holds
    np.testing.assert_allclose(value, exact_value, rtol=1e-9)
    assert max(distances(vars(gradient), exact).values()) <= 1e-8


def straight_through(p, fixed, plan, rate, hyper):
    """The same quantised steps, rounding differentiated as if there were none, by plain reverse mode."""
    through = lambda x, exact: x + lax.stop_gradient(exact.value(x.dtype) - x)

    def step(carry, at):
        x, v, X, V, lost = carry
        rate, b, scale, row = at
        g = jax.grad(p.loss)(x, hyper, p.data, None)
        out = [V[k].times(scale, lost[k]) for k in x]
        lost = {k: jnp.where(row == NO_ROW, left, left >> 8) for k, (_, left) in zip(x, out, strict=True)}
        V = {k: Vk.plus(lax.stop_gradient((b - 1) * g[k]))[0] for k, (Vk, _) in zip(x, out, strict=True)}
        v = {k: through(b * v[k] + (b - 1) * g[k], V[k]) for k in x}
        X = {k: X[k].plus(lax.stop_gradient(rate * v[k]))[0] for k in x}
        x = {k: through(x[k] + rate * v[k], X[k]) for k in x}
        return (x, v, X, V, lost), None

    X = {k: fixed.of(x)[0] for k, x in p.params.items()}
    x = {k: through(x, X[k]) for k, x in p.params.items()}
    zeros = jax.tree.map(jnp.zeros_like, p.params)
    start = x, zeros, X, jax.tree.map(jnp.zeros_like, X), jax.tree.map(lambda x: x.astype(jnp.uint32), zeros)
    (x, *_), _ = lax.scan(step, start, (rate, plan.momenta, plan.scale, plan.row))
    return p.objective(x)


@pytest.mark.parametrize("precision, fixed", [("single", Single), ("double", Double)])
def test_either_precision_agrees_with_reverse_mode_through_its_own_quantised_steps(problem, precision, fixed):
    with jax.enable_x64(False):
        p, rate = problem("mlp"), jnp.full(100, 0.2, jnp.float32)
        k = fixed.denominator_bits
        plan = spill_plan(numerators(jnp.full(100, 0.9), k), k)
        exact_value, exact = jax.jit(
            jax.value_and_grad(lambda rate, hyper: straight_through(p, fixed, plan, rate, hyper), (0, 1))
        )(rate, p.hyper)
        value, gradient, _ = jax.jit(
            lambda rate: value_and_hypergrad(
                p.objective, p.loss, p.params, p.hyper, rate, 0.9, data=p.data, steps=100, precision=precision
            )
        )(rate)
        assert value == exact_value
        exact = dict(zip(("learning_rate", "hyper"), exact, strict=True))
        assert max(distances(vars(gradient), exact).values()) <= 1e-4


@pytest.mark.parametrize("method", ["checkpoint", "reversible"])
def test_methods_agree_with_each_other(problem, method):
    p = problem("mlp", np.float64)
    settings = dict(batch_size=8, key=KEY, steps=23, min_momentum=0.5)  # no multiple of a square root
    _, exact = by_reverse_mode(p, *schedules(23), **settings)
    _, found = by_reverse_mode(p, *schedules(23), method=method, **settings)
    assert max(distances(found, exact).values()) <= {"checkpoint": 1e-13, "reversible": 1e-9}[method]


def test_any_optimizer_is_differentiated_by_checkpoints(problem):
    p = problem("mlp", np.float64)

    def final(rate, hyper, method):
        settings = dict(data=p.data, steps=17, method=method, optimizer=optax.adam(rate))
        return p.objective(train(p.loss, p.params, hyper, None, None, **settings).params)

    gradients = [
        jax.jit(jax.grad(final, (0, 1)), static_argnums=2)(0.01, p.hyper, m) for m in ("naive", "checkpoint")
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-12)
    with pytest.raises(ValueError, match="only our momentum can be reversed"):
        final(0.01, p.hyper, "reversible")


def test_steps_are_those_of_optax_sgd(problem):
    p = problem("mlp", np.float64)
    momentum = np.linspace(0.5, 0.95, 50)
    trained = train(p.loss, p.params, p.hyper, np.linspace(0.3, 0.1, 50), momentum, data=p.data, steps=50)
    rates, momenta = to_sgd(jnp.linspace(0.3, 0.1, 50), trained.momentum.astype(jnp.float64))
    params, state = p.params, optax.trace(1.0).init(p.params)
    for rate, momentum in zip(rates, momenta, strict=True):
        gradient = jax.grad(p.loss)(params, p.hyper, p.data, None)
        updates, state = optax.sgd(rate, momentum).update(gradient, (state, optax.EmptyState()))
        params, state = optax.apply_updates(params, updates), state[0]
    # 50 steps, each of which rounds the velocity by 2^-45 at most.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=50 * 2.0**-45), trained.params, params
    )


def test_what_loss_and_data_close_over_is_differentiated(problem):
    p = problem("mlp", np.float64)

    def explicit(hyper, gain):
        data = p.data | {"x": gain * p.data["x"]}
        return p.objective(train(p.loss, p.params, hyper, 0.1, 0.9, data=data, steps=20).params)

    def closed(hyper, gain):
        loss = lambda params, _, batch, key: p.loss(params, hyper, batch, key)
        data = lambda t: p.data | {"x": gain * p.data["x"]}
        return p.objective(train(loss, p.params, None, 0.1, 0.9, data=data, steps=20).params)

    gradients = [jax.jit(jax.grad(f, (0, 1)))(p.hyper, jnp.float64(1.1)) for f in (explicit, closed)]
    np.testing.assert_allclose(*gradients, rtol=1e-10)


def test_gradients_under_vmap_are_those_one_by_one(problem):
    p = problem("mlp", np.float64)

    def final(hyper, key):
        settings = dict(data=p.data, batch_size=8, key=key, steps=20)
        return p.objective(train(p.loss, p.params, hyper, 0.1, 0.9, **settings).params)

    hypers, keys = jnp.linspace(-5.0, -1.0, 3), jax.random.split(KEY, 3)
    gradient = jax.jit(jax.grad(final))
    together = jax.jit(jax.vmap(jax.grad(final)))(hypers, keys)
    np.testing.assert_allclose(
        together, [gradient(h, k) for h, k in zip(hypers, keys, strict=True)], rtol=1e-9
    )


def test_traced_momenta_need_a_bound_and_keep_to_it(problem):
    p = problem("mlp", np.float64)
    final = lambda m, **bound: p.objective(
        train(p.loss, p.params, p.hyper, 0.1, m, data=p.data, steps=20, **bound).params
    )
    eager = jax.grad(final)(0.9)  # known under jax.grad alone
    with pytest.raises(ValueError, match=r"momentum is traced.*min_momentum"):
        jax.jit(final)(0.9)
    bounded = jax.jit(jax.value_and_grad(lambda m: final(m, min_momentum=0.8)))
    np.testing.assert_allclose(bounded(0.9)[1], eager, rtol=1e-9)
    assert np.isnan(bounded(0.5)).all() and np.isnan(bounded(1.5)).all()


def test_second_derivatives_are_refused_with_the_way_out(problem):
    p = problem("mlp", np.float64)
    final = lambda h: p.objective(train(p.loss, p.params, h, 0.1, 0.9, data=p.data, steps=5).params)
    with pytest.raises(TypeError, match=r"second derivatives.*method='checkpoint'"):
        jax.grad(jax.grad(final))(p.hyper)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("method", ["reversible", "naive"])
def test_schedules_are_not_rounded_to_the_dtype_of_short_weights(dtype, method):
    """In bfloat16, 0.999 is 1, by which a gradient would be multiplied by zero."""

    def final(rate, x):
        loss = lambda x, target, batch, key: jnp.sum((x - target) ** 2)
        return train(loss, x, x.dtype.type(2), rate, 0.9999, steps=50, method=method).params.astype(float)

    found, exact = (jax.value_and_grad(final)(1.0, x) for x in (dtype(0), jnp.float32(0)))
    np.testing.assert_allclose(found, exact, rtol=0.1)


@pytest.mark.parametrize("momentum", [np.int8(1), np.float16(1), np.float16(0.875), jnp.bfloat16(0.875)])
def test_a_momentum_is_the_same_number_in_any_dtype(momentum):
    assert (train(ball, jnp.ones(3), None, 0.1, momentum, steps=2).momentum == float(momentum)).all()


@pytest.mark.parametrize("momentum", [1.0, np.array([0.5, 1.0, 0.9])])
def test_a_momentum_of_one_has_no_equal_in_sgd(momentum):
    with pytest.raises(ValueError, match=r"momentum is 1.0.*below 1"):
        to_sgd(0.1, momentum)


def ball(x, hyper, batch, key):
    return jnp.sum(x**2)


REFUSED = {
    "no function": (dict(loss=3), "loss"),
    "no number": (dict(loss=lambda x, *_: x), "one real number"),
    "no params": (dict(params={}), "no arrays"),
    "integers": (dict(params=jnp.arange(3)), "int.*floating"),
    "schedule": (dict(learning_rate=np.ones(7)), r"learning_rate has shape \(7,\).*10 steps"),
    "prefix": (
        dict(params=(1.0,), loss=lambda x, *_: x[0], learning_rate={"b": 0.1}),
        "learning_rate is .*no prefix",
    ),
    "small momentum": (dict(momentum=1e-3), "momentum is 0.001 at step 0.*1/256"),
    "large momentum": (
        dict(momentum=np.r_[np.full(9, 0.9), 0.9999], precision="single"),
        "at step 9.*double",
    ),
    "negative momentum": (dict(momentum=-0.5), "momentum is -0.5"),
    "bound": (dict(min_momentum=0.0), "min_momentum is 0.0"),
    "steps": (dict(steps=0), "steps = 0"),
    "method": (dict(method="adam"), "method"),
    "batches": (dict(data=lambda t: t, batch_size=3, key=KEY), "own batches"),
    "key": (dict(data=np.ones((5, 2)), batch_size=3), "key=jax.random.key"),
    "no rows": (dict(data=np.ones((0, 2)), batch_size=3, key=KEY), "no rows"),
    "empty batches": (dict(data=np.ones((5, 2)), batch_size=0, key=KEY), "batch_size = 0"),
    "empty params": (dict(params=jnp.ones((0, 3))), "no numbers"),
    "complex rate": (dict(learning_rate=0.1j), "learning_rate is complex"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_at_once(case):
    change, message = REFUSED[case]
    settings = (
        dict(loss=ball, params=jnp.ones(3), hyper=None, learning_rate=0.1, momentum=0.9, steps=10) | change
    )
    with pytest.raises((ValueError, TypeError), match=message):
        train(**settings)
