"""Local bounds: the least curvature that is a bound within a distance, and what that is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import flymc
from chainrule.inference.flymc.local import curvature
from chainrule.inference.flymc.logistic import LogisticCurve
from chainrule.inference.flymc.shells import interpolated, shells
from chainrule.inference.flymc.student_t import StudentTCurve

CURVES = {
    "logistic": LogisticCurve(),
    "student_t": StudentTCurve(4.0, 1.0),
    "heavy tails": StudentTCurve(0.2, 1.0),
}
RNG = np.random.default_rng(0)


def _needed(curve, t0, w):
    """The largest 2 (f(t0) + f'(t0) d - f(t0 + d)) / d^2 for |d| <= w, by trying."""
    d = w[:, None] * np.linspace(-1, 1, 2000)[None]  # not 0
    return (2 * curve.fall(t0[:, None], d) / d**2).max(1)


@pytest.mark.parametrize("name", CURVES)
def test_curvature_is_the_least_that_bounds_within_the_distance(name):
    curve = CURVES[name]
    t0 = np.concatenate([np.linspace(-12, 12, 49), 10 ** np.linspace(-6, 3, 28)])
    t0, w = (jnp.asarray(v.ravel()) for v in np.meshgrid(t0, 10 ** np.linspace(-2, 2, 13)))
    c, needed = (
        np.asarray(curvature(curve, t0, w)),
        np.asarray(jax.jit(_needed, static_argnums=0)(curve, t0, w)),
    )
    assert (c >= needed * (1 - 1e-12)).all()
    inside = (needed > 0) & (c > 0)
    assert (c[inside] < needed[inside] * 1.01 + 1e-6).all() and inside.mean() > 0.3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CURVES)
def test_fall_is_right_in_single_precision_and_its_derivative_is_finite(name, dtype):
    curve = CURVES[name]
    t0, d = (RNG.normal(size=3000) * 10 ** RNG.uniform(-3, 2, 3000) for _ in range(2))
    t0, d = t0.astype(np.float32), d.astype(np.float32)
    fall = lambda t0, d: np.asarray(jax.jit(curve.fall)(t0, d), np.float64)
    exact = fall(t0.astype(np.float64), d.astype(np.float64))
    terms = np.abs(curve.slope(t0.astype(np.float64)) * d) + np.abs(exact)
    assert np.abs(fall(t0.astype(dtype), d.astype(dtype)) - exact).max() <= 1e-5 * terms.max()
    assert (np.abs(fall(t0.astype(dtype), d.astype(dtype)) - exact) <= 1e-5 * terms + 1e-25).all()
    slope = jax.vmap(jax.grad(curve.fall, 1))(jnp.asarray(t0, dtype), jnp.asarray(d, dtype))
    expected = curve.slope(t0.astype(np.float64)) - curve.slope(t0.astype(np.float64) + d)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


def test_levels_are_continuous_and_their_bounds_reach_far_enough():
    around = shells(np.diag([2.0, 0.5]), 2, np.float64)
    radii = np.concatenate([np.linspace(1e-6, 40, 500), np.asarray(around.radii[:-2])])
    away = lambda r, sign=1: jnp.array([0.0, 0.5 * r * sign])
    for r in radii:
        level = around.level(away(r))
        near, far = around.radii_at(level)
        assert r <= near <= far and 0 <= level.part <= 1
    values = jnp.exp(-jnp.minimum(jnp.arange(len(around.radii), dtype=float), len(around.radii) - 2))
    at = jax.jit(jax.vmap(lambda r: interpolated(values, around.level(away(r)))))
    edges = around.radii[:-2] / (1 + 1e-3)
    np.testing.assert_allclose(at(edges * (1 - 1e-9)), at(edges * (1 + 1e-9)), rtol=1e-6)
    assert interpolated(values, around.level(jnp.full(2, jnp.nan))) != 0  # NaN stays NaN
    assert jnp.isfinite(jax.grad(lambda a: interpolated(values, around.level(a)))(jnp.zeros(2))).all()


def _data(size, rng):
    x = np.concatenate([rng.normal(size=(size, 5)), np.ones((size, 1))], 1).astype(np.float32)
    theta = np.array([2.0, -2.0, 1.0, 0.5, 0.0, 3.0])
    return x, (rng.random(size) < 1 / (1 + np.exp(-x @ theta))).astype(int)


def _expected_bright(bound, best, scale):
    noise = jax.random.normal(jax.random.key(0), (20, best.size), jnp.float32)
    gaps = lambda theta: bound.gap(theta, jnp.arange(bound.num_data))
    thetas = best[None] + noise @ scale.T
    return float(jnp.mean(jnp.sum(-jnp.expm1(-jax.vmap(gaps)(thetas)), 1)))


def test_the_number_of_bright_points_falls_with_the_square_root_of_the_data():
    log_prior = lambda theta: -jnp.sum(theta**2) / 2
    bright = {}
    for size in (2000, 32_000):
        bound = flymc.logistic_bound(*_data(size, np.random.default_rng(1)))
        best = flymc.find_map(log_prior, bound, jnp.zeros(6))
        bound = bound.tuned(best)
        scale = flymc.posterior_scale(log_prior, bound, best)
        bright[size] = [_expected_bright(b, best, scale) for b in (bound, bound.tuned(best, scale))]
    (wide, near), (wide_later, near_later) = bright[2000], bright[32_000]
    assert 0.6 < wide_later / wide < 1.6  # of Jaakkola and Jordan's bound: as many
    assert near < wide / 2 and 0.15 < near_later / near < 0.4  # 16 times the data, a fourth


def test_what_no_local_bound_can_be_made_of_is_refused():
    bound = flymc.logistic_bound(np.ones((3, 2)), np.array([0, 1, 1]))
    for scale in (np.ones(2), np.eye(2)[:1], np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"scale has shape \(.*\), must be a square matrix"):
            bound.tuned(jnp.zeros(2), scale)
    with pytest.raises(ValueError, match=r"scale has shape .*, theta has 2 numbers"):
        bound.tuned(jnp.zeros(2), np.eye(3))
    with pytest.raises(ValueError, match="scale has no inverse"):
        bound.tuned(jnp.zeros(2), np.ones((2, 2)))
