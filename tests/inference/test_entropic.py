"""The bound that comes with gradient descent is one, and on a Gaussian posterior it is the analytic one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from chainrule.inference.entropic import (
    PARABOLA_HOLDS_TO,
    Gaussian,
    Trace,
    choose_stopping,
    log_volume,
    run,
    run_ensemble,
)

KEY = jax.random.key(11)
N, D = 12, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
DATA = jnp.asarray(X), jnp.asarray(X @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.5 * RNG.normal(size=N))
NOISE, SCALE = 0.5, 1.5


def log_likelihood(w, data):
    x, y = data
    return jnp.sum(jax.scipy.stats.norm.logpdf(y, x @ w, NOISE))


PRIOR = Gaussian(jnp.zeros(D), SCALE)
COVARIANCE = NOISE**2 * np.eye(N) + SCALE**2 * X @ X.T
EVIDENCE = scipy.stats.multivariate_normal(np.zeros(N), COVARIANCE).logpdf(DATA[1])
RATE = 0.6 / np.linalg.eigvalsh(X.T @ X / NOISE**2)[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class At:
    """One point, with the entropy of the Gaussian that it stands for."""

    point: jax.Array

    def sample(self, key):
        return self.point

    def log_density(self, params):
        return PRIOR.log_density(params)

    def entropy(self):
        return PRIOR.entropy()


def mean_over_draws(**settings):
    """E over q_0 of the bound, without error: it is a quadratic function of the draw, and these 2 D points
    have the mean and the covariance of q_0."""
    axes = SCALE * D**0.5 * jnp.eye(D)
    points = jnp.concatenate([axes, -axes])
    one = lambda point: run(KEY, log_likelihood, PRIOR, start=At(point), **settings)[1]
    mean = lambda x: x.all(0) if x.dtype == bool else x.mean(0)
    return jax.tree.map(mean, jax.jit(jax.vmap(one))(points))


def analytic_bounds(batches, steps):
    """E_q log p(w, D) + S[q] of the Gaussian q_t of gradient descent on these batches, for t = 0, 1, ..."""
    mean, covariance, entropy = np.zeros(D), SCALE**2 * np.eye(D), float(PRIOR.entropy())
    x, y = map(np.asarray, DATA)
    H = x.T @ x / NOISE**2
    for t in range(steps + 1):
        spread = 0.5 * np.trace((H + np.eye(D) / SCALE**2) @ covariance)
        yield float(log_likelihood(mean, DATA) + PRIOR.log_density(jnp.asarray(mean)) - spread + entropy)
        rows = batches(t)
        scale = N / len(rows) / NOISE**2
        mean = mean + RATE * scale * x[rows].T @ (y[rows] - x[rows] @ mean)
        J = np.eye(D) - RATE * scale * x[rows].T @ x[rows]
        covariance = J @ covariance @ J.T
        entropy += np.linalg.slogdet(J)[1]  # that of the covariance drowns in rounding


@pytest.mark.parametrize("batch_size", [None, 8])
def test_exact_bound_is_that_of_the_analytic_gaussian_and_below_the_evidence(batch_size):
    """Also with batches of 8 of 12 rows, which end in the middle and go around."""
    steps = 40
    trace = mean_over_draws(
        step_size=RATE, steps=steps, data=DATA, batch_size=batch_size, method="exact", watch_steps=4
    )
    batches = lambda t: np.arange(N) if batch_size is None else np.arange(8 * t, 8 * t + 8) % N
    expected = np.array([*analytic_bounds(batches, steps)])
    np.testing.assert_allclose(trace.elbo, expected, atol=1e-6, rtol=0)
    assert np.all(trace.elbo <= EVIDENCE) and np.all(trace.standard_error == 0)
    if batch_size is None:
        stopping = choose_stopping(trace)
        assert EVIDENCE - 10 < stopping.elbo < EVIDENCE and 0 < stopping.step < steps
        np.testing.assert_allclose(trace.a_lambda_max[1:], 0.6, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_lanczos_bound_stays_below_the_evidence_within_its_error(batch_size):
    trace = mean_over_draws(step_size=RATE, steps=40, data=DATA, probes=4, batch_size=batch_size)
    batches = lambda t: np.arange(N) if batch_size is None else np.arange(8 * t, 8 * t + 8) % N
    exact = np.array([*analytic_bounds(batches, 40)])
    # Each draw has probes of its own seed, here one seed for all: so the error is that of one run.
    error = np.asarray(trace.standard_error)
    assert np.all(np.abs(trace.elbo - exact) <= 4 * error + 1e-9) and error[-1] > 0
    assert np.all(trace.elbo <= EVIDENCE + 4 * error)


def test_parabola_bound_is_below_the_exact_one():
    settings = dict(step_size=RATE, steps=20, data=DATA)
    bound = mean_over_draws(method="bound", probes=100, **settings)
    exact = mean_over_draws(method="exact", **settings)
    assert np.all(bound.elbo[1:] < exact.elbo[1:] + 3 * bound.standard_error[1:])
    assert bound.elbo[-1] < exact.elbo[-1] - 1 and np.all(bound.bound_holds)


def test_momentum_keeps_the_bound_below_the_evidence_and_gets_near():
    """The pair's bound is one in the mean over draws, not for each; so within its standard error."""
    members, settings = 2000, dict(step_size=RATE, steps=60, data=DATA, momentum=0.9, record_every=5)
    train = jax.jit(lambda: run_ensemble(KEY, members, log_likelihood, PRIOR, **settings))
    _, trace = train()
    mean, error = np.mean(trace.elbo, 0), np.std(trace.elbo, 0) / members**0.5
    assert np.all(mean <= EVIDENCE + 4 * error)
    assert trace.one_to_one.all() and trace.elbo.shape == (members, 13)
    stopping = choose_stopping(trace)
    assert (
        abs(stopping.elbo - mean.max()) < 1e-9
        and abs(stopping.standard_error / error[stopping.record] - 1) < 1e-2
    )
    assert stopping.elbo > EVIDENCE - 10 and stopping.step % 5 == 0


def rough(w):
    """A likelihood with curvature of both signs."""
    return -jnp.sum(jnp.cos(2 * w) + w**2) - 0.3 * jnp.sum(w) ** 2


def test_threshold_has_the_entropy_of_its_jacobian():
    """Two steps of which the Jacobian is taken as a whole, also where a H has eigenvalues beyond 1."""

    def two_steps(w, step_size):
        settings = dict(gradient_threshold=1.5, method="exact", watch_steps=3)
        prior = Gaussian(jnp.zeros(3), 1.0)
        state, _ = run(KEY, rough, prior, start=At(w), step_size=step_size, steps=2, **settings)
        return state.params, state

    jacobian = jax.jit(jax.jacobian(two_steps, has_aux=True))
    for step_size in (0.1, 0.4):
        J, state = jacobian(jnp.array([0.3, -1.2, 2.0]), step_size)
        np.testing.assert_allclose(state.entropy - PRIOR.entropy(), np.linalg.slogdet(J)[1], rtol=1e-10)
        assert np.abs(J - J.T).max() > 1e-2  # no symmetric matrix
        assert state.one_to_one == (step_size == 0.1)


def test_momentum_has_the_entropy_of_its_jacobian():
    """The map of parameters and velocity, written out here, and the one that `run` takes."""
    rate, decay, steps = 0.3, jnp.array([0.9, 0.5, 0.7]), 3
    prior = Gaussian(jnp.zeros(3), 1.0)
    settings = dict(step_size=rate, momentum=decay, gradient_threshold=0.5)
    state, _ = run(KEY, rough, prior, steps=steps, **settings)
    draw_key, velocity_key, _ = jax.random.split(KEY, 3)
    pair = jnp.concatenate(
        [prior.sample(draw_key), jax.random.normal(jax.random.split(velocity_key, 1)[0], 3)]
    )

    def heavy_ball(pair):
        w, v = pair[:3], pair[3:]
        for b in decay:
            g = -jax.grad(rough)(w)
            v = b * v - rate**0.5 * (g - 0.5 * jnp.tanh(g / 0.5))
            w = w + rate**0.5 * v
        return jnp.concatenate([w, v])

    np.testing.assert_allclose(jnp.concatenate([state.params, state.velocity]), heavy_ball(pair), rtol=1e-12)
    log_det = np.linalg.slogdet(jax.jit(jax.jacobian(heavy_ball))(pair))[1]
    first = 3 * np.log(2 * np.pi * np.e)  # of six standard normal numbers
    np.testing.assert_allclose(state.entropy, first + log_det, rtol=1e-10)
    np.testing.assert_allclose(log_det, 3 * np.sum(np.log(decay)), rtol=1e-10)


def test_flags_appear_when_the_step_is_too_large():
    """a lambda = 0.6, 0.9, 1.05, in that order: no flag, the parabola above, and space folded."""
    rates = jnp.repeat(RATE / 0.6 * jnp.array([0.6, 0.9, 1.05]), 5)
    settings = dict(step_size=rates, steps=15, data=DATA, watch_steps=4)
    train = lambda method: run(KEY, log_likelihood, PRIOR, method=method, **settings)[1]
    bound, slq = train("bound"), train("slq")
    np.testing.assert_array_equal(bound.bound_holds, np.arange(16) <= 5)
    np.testing.assert_array_equal(bound.one_to_one, np.arange(16) <= 10)
    np.testing.assert_array_equal(slq.bound_holds, True)
    assert np.all(np.isfinite(slq.elbo))
    assert choose_stopping(bound).trusted_to == 5 and choose_stopping(slq).trusted_to == 10
    assert choose_stopping(slq, flagged=True).trusted_to == 15


def test_without_a_watch_nothing_is_trusted():
    _, trace = run(
        KEY, log_likelihood, PRIOR, data=DATA, step_size=RATE, steps=2, method="bound", watch_steps=0
    )
    assert choose_stopping(trace).trusted_to == 0 and choose_stopping(trace).at_the_end
    state, start = run(KEY, log_likelihood, PRIOR, data=DATA, step_size=RATE, steps=0)
    np.testing.assert_array_equal(start.elbo, trace.elbo[:1])
    assert state.step == 0
    with pytest.raises(ValueError, match="smaller step_size"):
        choose_stopping(trace._replace(elbo=trace.elbo * jnp.nan))


def test_the_same_key_takes_the_same_path_and_records_do_not_change_it():
    train = lambda steps, every: run(
        KEY, log_likelihood, PRIOR, data=DATA, batch_size=5, step_size=RATE, steps=steps,
        record_every=every, monitor=lambda w: {"w": w},
    )  # fmt: skip
    (long, every), (short, seldom) = train(6, 1), train(4, 2)
    np.testing.assert_array_equal(short.params, every.monitored["w"][4])
    np.testing.assert_array_equal(seldom.elbo, every.elbo[:5:2])
    np.testing.assert_array_equal(long.params, every.monitored["w"][-1])
    assert isinstance(every, Trace) and every.elbo.shape == (7,) and seldom.step.tolist() == [0, 2, 4]
    np.testing.assert_allclose(seldom.a_lambda_max[1], np.max(every.a_lambda_max[1:3]))


def test_parabola_ends_where_it_is_said_to():
    apart = lambda x: np.log(1 - x) + x + x**2
    assert abs(scipy.optimize.brentq(apart, 0.5, 0.9) - PARABOLA_HOLDS_TO) < 1e-7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(probes=1), "probes must be at least 2"),
        (dict(momentum=0.0), "momentum must be positive"),
        (dict(gradient_threshold=-1.0), "gradient_threshold must be positive"),
        (dict(record_every=3), "record_every = 3 must divide steps = 4"),
        (dict(step_size=jnp.ones(3)), "step_size is one number"),
        (dict(batch_size=13), "batch_size = 13"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        run(KEY, log_likelihood, PRIOR, **dict(data=DATA, step_size=RATE, steps=4) | changes)


def test_log_volume_of_a_scalar_is_a_logarithm():
    for method in ("slq", "bound", "exact"):
        of_step = lambda method=method: log_volume(KEY, lambda v: 3.0 * v, jnp.ones(()), 0.1, method=method)
        volume = jax.jit(of_step)()
        expected = -0.3 - 0.09 if method == "bound" else np.log(0.7)
        np.testing.assert_allclose(volume.log_det, expected, rtol=1e-12)
