"""Derivatives of a minimum: against the closed form of ridge regression, and against training to the end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chainrule.hypergrad import fit, train, value_and_hypergrad

RNG = np.random.default_rng(0)
X, V = jnp.asarray(RNG.normal(size=(30, 4))), jnp.asarray(RNG.normal(size=(20, 4)))
Y, U = jnp.sin(X.sum(1)), jnp.sin(V.sum(1))
DATA = {"x": X, "y": Y}
START = {"w": jnp.ones(4)}


def squares(params, log_l2, batch, key):
    w = params["w"]
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) + jnp.exp(log_l2) * jnp.sum(w**2)


def objective(params):
    return jnp.mean((V @ params["w"] - U) ** 2)


def closed_form(log_l2, data):
    x, y = data["x"], data["y"]
    matrix = x.T @ x / len(y) + jnp.exp(log_l2) * jnp.eye(4)
    return objective({"w": jnp.linalg.solve(matrix, x.T @ y / len(y))})


def by_minimum(log_l2, data, start=START, **settings):
    settings = dict(steps=100, method="implicit") | settings
    return objective(train(squares, start, log_l2, None, None, data=data, **settings).params)


def assert_near(found, exact, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-12), found, exact)


def test_ridge_regression_has_the_derivatives_of_its_closed_form():
    exact_value, exact = jax.value_and_grad(closed_form, (0, 1))(-1.0, DATA)
    value, gradient, certificate = jax.jit(
        lambda log_l2, data: value_and_hypergrad(
            objective,
            squares,
            START,
            log_l2,
            None,
            None,
            data=data,
            wrt=("hyper", "data"),
            steps=100,
            method="implicit",
        )
    )(-1.0, DATA)
    assert certificate.holds
    assert_near((value, gradient.hyper, gradient.data), (exact_value, *exact), 1e-9)
    second, exact = (jax.jit(jax.grad(jax.grad(f)))(-1.0, DATA) for f in (by_minimum, closed_form))
    assert_near(second, exact, 1e-8)
    several = jnp.asarray([-2.0, 0.0, 1.0])
    found, exact = (
        jax.jit(jax.vmap(jax.grad(f), in_axes=(0, None)))(several, DATA) for f in (by_minimum, closed_form)
    )
    assert_near(found, exact, 1e-8)


def test_a_minimum_has_the_derivatives_of_long_training():
    """Logistic regression; 400 steps of momentum leave it some 1e-9 away from the minimum."""

    def logistic(params, log_l2, batch, key):
        margins = (batch["x"] @ params["w"]) * jnp.sign(batch["y"])
        return jnp.mean(jnp.logaddexp(0.0, -margins)) + jnp.exp(log_l2) * jnp.sum(params["w"] ** 2)

    def final(log_l2, x, schedule, method, steps):
        data = {"x": x, "y": Y}
        settings = dict(data=data, steps=steps, method=method)
        return objective(train(logistic, START, log_l2, *schedule, **settings).params)

    derivative = lambda *settings: jax.jit(jax.grad(lambda h, x: final(h, x, *settings), (0, 1)))(-2.0, X)
    assert_near(derivative((None, None), "implicit", 50), derivative((2.0, 0.8), "checkpoint", 400), 1e-6)


def test_where_training_began_does_not_matter():
    slope = jax.grad(lambda start: by_minimum(-1.0, DATA, start))(START)
    assert (slope["w"] == 0).all()


def test_a_minimum_that_is_not_found_is_nan():
    cosh = lambda w, h, batch, key: jnp.sum(jnp.cosh(w - h))
    call = lambda steps: value_and_hypergrad(
        jnp.sum, cosh, jnp.full(2, 5.0), 1.0, None, None, steps=steps, method="implicit"
    )
    value, gradient, certificate = call(2)
    assert certificate.overflow and not certificate.holds and np.isnan([value, gradient.hyper]).all()
    value, gradient, certificate = call(50)
    assert certificate.holds
    np.testing.assert_allclose([value, gradient.hyper], [2.0, 2.0], rtol=1e-9)


def test_fit_learns_by_it():
    training = lambda meta, key: dict(params=START, hyper=meta, data=DATA)
    settings = dict(training=training, key=jax.random.key(0), meta_steps=60, steps=50, method="implicit")
    fitted = fit(objective, squares, -4.0, optax.adam(0.2), **settings)
    grid = min(float(closed_form(log_l2, DATA)) for log_l2 in np.linspace(-8, 2, 101))
    assert fitted.history[-1].objective <= grid * 1.001


REFUSED = {
    "schedule": (dict(learning_rate=0.1), "learning_rate must be None.*reversible"),
    "momentum": (dict(momentum=0.9), "momentum must be None"),
    "batches": (dict(batch_size=3, key=jax.random.key(0)), "batch_size must be None"),
    "optimizer": (dict(optimizer=optax.sgd(0.1)), "optimizer must be None"),
    "function": (dict(data=lambda t: DATA), "data as a function must be None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_minimum_does_not_depend_on_is_refused(case):
    change, message = REFUSED[case]
    settings = dict(learning_rate=None, momentum=None, data=DATA, steps=9, method="implicit") | change
    with pytest.raises(ValueError, match=message):
        train(squares, START, -1.0, **settings)


@pytest.mark.parametrize("settings", [dict(method="implicit", wrt=("params",)), dict(method="naive")])
def test_derivatives_that_there_are_not_are_refused(settings):
    with pytest.raises(ValueError, match=r"method='implicit' give some of|no certificate"):
        value_and_hypergrad(objective, squares, START, -1.0, None, None, data=DATA, steps=9, **settings)
