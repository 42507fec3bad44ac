"""Worlds move as their formulas say, films are cut from them, and what is easily predicted is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from chainrule.svae import baselines, worlds
from chainrule.svae.worlds import Ball, Dot

KEY = jax.random.key(0)
simulate = jax.jit(worlds.simulate, static_argnums=(0, 2, 3))


def test_the_dot_is_that_of_the_original():
    """There x(t) = triangle(v t + (1 + x0) / 2) with triangle(t) = sawtooth(pi t, .5), in frames of .1."""
    films = simulate(Dot(), KEY, 3, 60)
    t = films.states.phase[:, :1] + 0.75 * 0.1 * np.arange(60)[None, :]
    x = scipy.signal.sawtooth(np.pi * t, 0.5)
    expected = np.exp(-((x[..., None] - np.linspace(-1, 1, 20)) ** 2) / (2 * 0.15**2))
    np.testing.assert_allclose(films.clean, expected, atol=1e-9)
    noise = films.frames - films.clean
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.1], atol=4 * 0.1 / np.sqrt(3600))


def test_each_film_of_random_speed_keeps_its_own():
    films = simulate(Dot(speed=(0.5, 1.0)), KEY, 200, 5)
    speed = films.states.speed
    assert (speed == speed[:, :1]).all() and 0.5 <= speed.min() < 0.55 and 0.95 < speed.max() <= 1
    steps = jnp.mod(jnp.diff(films.states.phase, axis=1), 2)
    np.testing.assert_allclose(steps, 0.1 * speed[:, 1:], rtol=1e-9)


def test_a_long_step_of_the_ball_is_many_short_ones():
    """Through several bounces, in corners too; the speed stays, and the ball inside."""
    long, short = Ball(dt=4.0), Ball(dt=4.0 / 1000)
    start = jax.vmap(long.reset)(jax.random.split(KEY, 50))
    far = jax.vmap(long.step)(start)
    slowly = jax.lax.fori_loop(0, 1000, lambda _, s: jax.vmap(short.step)(s), start)
    np.testing.assert_allclose(far.position, slowly.position, atol=1e-6)
    np.testing.assert_allclose(far.velocity, slowly.velocity, atol=1e-6)
    assert ((far.position >= 3) & (far.position <= 29)).all()
    speed = jnp.linalg.norm(far.velocity, axis=-1)
    assert (far.velocity != start.velocity).any() and ((speed > 10) & (speed < 15)).all()


def test_the_ball_is_drawn_where_it_is_and_as_large_as_it_is():
    films = simulate(Ball(), KEY, 20, 6)
    area = films.frames.sum((2, 3))
    np.testing.assert_allclose(area, np.pi * 3**2, rtol=0.03)
    middles = np.arange(32) + 0.5
    centre = np.stack([films.frames.sum(2) @ middles, films.frames.sum(3) @ middles], -1) / area[..., None]
    np.testing.assert_allclose(centre, films.states.position, atol=0.05)
    assert films.frames.min() >= 0 and films.frames.max() == 1


def test_films_are_those_of_their_key():
    again = simulate(Dot(), KEY, 2, 5)
    np.testing.assert_array_equal(simulate(Dot(), KEY, 2, 5).frames, again.frames)
    assert (simulate(Dot(), jax.random.key(1), 2, 5).frames != again.frames).all()
    assert (again.frames[0] != again.frames[1]).all()


def test_arms_of_a_pinwheel_are_alike_but_turned():
    """Turned back by its own angle, each arm has the same mean, and no two points are in one place."""
    points, arms = worlds.pinwheel(KEY, arms=5, points=4000)
    turn = jnp.exp(-2j * jnp.pi * arms / 5)
    back = (points[:, 0] + 1j * points[:, 1]) * turn
    means = jnp.stack([jnp.mean(back[arms == a]) for a in range(5)])
    np.testing.assert_allclose(means, jnp.full(5, jnp.mean(means)), atol=0.02)
    assert jnp.bincount(arms).tolist() == [4000] * 5 and (arms[:10] != arms[0]).any()
    np.testing.assert_allclose(jnp.mean(jnp.abs(back)), 1.0, atol=0.02)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: Dot(pixels=1), "Dot.*pixels must be at least 2"),
        (lambda: Dot(speed=(1.0, 0.5)), "interval of speeds rising"),
        (lambda: Ball(radius=16.0), "diameter must be below pixels"),
        (lambda: worlds.simulate(Dot(), KEY, 0, 5), "at least 1, got 0 and 5"),
        (lambda: worlds.pinwheel(KEY, arms=0), "at least 1, got 0 and 100"),
        (lambda: baselines.Autoregression.fit(jnp.zeros((2, 20, 3)), 20), "lag must be from 1 to 19"),
        (
            lambda: baselines.Autoregression(jnp.zeros((3, 7))).forecast(jnp.zeros((1, 1, 3)), 1),
            "needs 2",
        ),
    ],
)
def test_what_makes_no_world_is_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        wrong()


# Baselines ------------------------------------------------------------------------------------------


@functools.cache
def films_of(world):
    train, test = simulate(world, KEY, 100, 50), simulate(world, jax.random.key(1), 32, 100)
    return train.frames, test.frames[:, :25], test.clean[:, 25:]


def error(prediction, truth, first=0, last=None):
    return float(jnp.mean((prediction - truth)[:, first:last] ** 2))


def test_autoregression_is_ridge_regression():
    frames = jax.random.normal(KEY, (4, 12, 3))
    fitted = baselines.Autoregression.fit(frames, 2, ridge=0.7)
    rows = [(np.r_[f[t - 2], f[t - 1], 1.0], f[t]) for f in np.asarray(frames) for t in range(2, 12)]
    x, y = map(np.stack, zip(*rows, strict=True))
    padded = np.r_[x, np.sqrt(0.7) * np.eye(7)], np.r_[y, np.zeros((7, 3))]
    np.testing.assert_allclose(fitted.coefficients, np.linalg.lstsq(*padded)[0].T, atol=1e-10)
    one = fitted.forecast(frames, 2)
    first = np.r_[frames[0, -2], frames[0, -1], 1.0] @ fitted.coefficients.T
    np.testing.assert_allclose(one[0, 0], first, rtol=1e-10)
    second = np.r_[frames[0, -1], first, 1.0] @ fitted.coefficients.T
    np.testing.assert_allclose(one[0, 1], second, rtol=1e-10)


def test_a_dot_of_one_speed_is_easily_predicted_and_one_of_random_speed_is_not():
    """Squared errors of frames without noise, 1 to 75 frames ahead."""
    train, seen, truth = films_of(Dot())
    easy = baselines.Autoregression.fit(train, 20).forecast(seen, 75)
    mean = jnp.broadcast_to(baselines.mean_frame(train), truth.shape)
    assert error(easy, truth) < 0.003 < 0.05 < error(mean, truth)
    train, seen, truth = films_of(Dot(speed=(0.5, 1.0)))
    hard = baselines.Autoregression.fit(train, 20).forecast(seen, 75)
    assert 0.05 < error(hard, truth, 10, 25) < error(hard, truth, 25)
    assert error(baselines.copy_last(seen, 75), truth) > 0.15
