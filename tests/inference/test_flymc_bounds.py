"""Bounds are bounds: against 50 decimal digits, at their touching points, in their sums, by a hunt."""

import dataclasses
from decimal import Decimal as D
from decimal import localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import flymc
from chainrule.inference.flymc.check import BoundBroken
from chainrule.inference.flymc.local import LocalBound
from chainrule.inference.flymc.local_softmax import LocalSoftmaxBound
from chainrule.inference.flymc.logistic import logistic_gap
from chainrule.inference.flymc.softmax import softmax_gap
from chainrule.inference.flymc.student_t import StudentTCurve, student_t_gap

KEY = jax.random.key(0)


def _exact_logistic(y, y0):
    v, v0 = abs(D(float(y))) / 2, abs(D(float(y0))) / 2
    log_cosh = lambda v: v + (1 + (-2 * v).exp()).ln()
    slope = D(1) / 2 if v0 < D("1e-20") else (1 - (-2 * v0).exp()) / (1 + (-2 * v0).exp()) / (2 * v0)
    return slope * (v - v0) * (v + v0) - log_cosh(v) + log_cosh(v0)


def _exact_student_t(r, r0, df=4):
    r, r0 = D(float(r)), D(float(r0))
    return D(df + 1) / 2 * ((r * r - r0 * r0) / (df + r0 * r0) - ((df + r * r) / (df + r0 * r0)).ln())


def _exact_softmax(y, y0):
    y, y0 = [D(float(v)) for v in y], [D(float(v)) for v in y0]
    log_sum = lambda y: max(y) + sum((v - max(y)).exp() for v in y).ln()
    d = [a - b for a, b in zip(y, y0, strict=True)]
    g = [(v - log_sum(y0)).exp() for v in y0]
    curved = (sum(v * v for v in d) - sum(d) ** 2 / len(d)) / 4
    return curved - log_sum(y) + log_sum(y0) + sum(a * b for a, b in zip(g, d, strict=True))


def _pairs(size):
    """Numbers and touching points: near each other by all orders, mirrored, and far out."""
    rng = np.random.default_rng(0)
    touching = np.concatenate(
        [rng.normal(size=size) * 3, 10 ** rng.uniform(-6, 4, size), np.zeros(size // 4)]
    )
    near = touching[:size] * (1 + 10 ** rng.uniform(-5, 0, size))
    y = np.concatenate([near, 10 ** rng.uniform(-6, 4, size), 10 ** rng.uniform(-3, 4, size // 4)])
    y[::3] *= -1
    return y, touching


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("gap", "exact"),
    [
        (logistic_gap, _exact_logistic),
        (lambda r, r0: student_t_gap(r, r0, 4.0), _exact_student_t),
    ],
    ids=["logistic", "student_t"],
)
def test_gap_is_right_to_its_last_digits_from_touching_point_to_tails(gap, exact, dtype):
    y, touching = (v.astype(dtype) for v in _pairs(400))
    with localcontext() as context:
        context.prec = 60
        expected = np.array([float(exact(*pair)) for pair in zip(y, touching, strict=True)])
    found = np.asarray(jax.jit(gap)(jnp.asarray(y), jnp.asarray(touching)))
    assert found.dtype == dtype and (found >= 0).all()
    seen = expected > 1e-35  # below, squares leave the range of single precision
    assert seen.sum() > 800
    relative = np.abs(found.astype(np.float64) - expected)[seen] / expected[seen]
    assert relative.max() < 1000 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_gap_is_right_from_touching_point_to_tails(classes, dtype):
    rng = np.random.default_rng(classes)
    sizes = 10 ** rng.uniform(-3, 4, (200, 1))
    touching = (rng.normal(size=(200, classes)) * np.concatenate([sizes[:50], np.full((150, 1), 2)])).astype(
        dtype
    )
    y = (touching + rng.normal(size=(200, classes)) * np.roll(sizes, 7, 0)).astype(dtype)
    with localcontext() as context:
        context.prec = 60
        expected = np.array([float(_exact_softmax(*pair)) for pair in zip(y, touching, strict=True)])
    found = np.asarray(jax.jit(softmax_gap)(jnp.asarray(y), jnp.asarray(touching)))
    assert found.dtype == dtype and (found >= 0).all()
    assert (np.abs(found - expected) / expected).max() < 3000 * np.finfo(dtype).eps


@pytest.mark.parametrize(
    "gap", [logistic_gap, lambda r, r0: student_t_gap(r, r0, 4.0)], ids=["logistic", "student_t"]
)
def test_derivative_of_a_gap_is_finite_and_right(gap):
    y, touching = (jnp.asarray(v) for v in _pairs(100))
    slope = jax.jit(jax.vmap(jax.grad(gap)))
    double = np.asarray(slope(y, touching))
    single = np.asarray(slope(y.astype(jnp.float32), touching.astype(jnp.float32)))
    assert np.isfinite(single).all()
    rounded = np.asarray(
        slope(y.astype(jnp.float32).astype(float), touching.astype(jnp.float32).astype(float))
    )
    assert np.isfinite(double).all()
    unit = np.abs(np.asarray(touching)) * 1e-6  # of s = y^2, the derivative by y is that of a difference
    assert (np.abs(single - rounded) < 1e-3 * np.abs(rounded) + unit + 1e-30).all()


def test_softmax_gap_has_a_finite_derivative_at_its_touching_point():
    y0 = jnp.array([[1.0, 0.0, 0.0], [50.0, -50.0, 0.0]], jnp.float32)
    slope = jax.jit(jax.grad(lambda y: jnp.sum(softmax_gap(y, y0))))
    assert np.abs(slope(y0)).max() == 0
    assert np.isfinite(slope(y0 + 1e4 * jnp.array([[1.0, -1.0, 0.0]], jnp.float32))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_odds_neither_cancel_nor_overflow(dtype):
    gap = np.array([1e-30, 1e-10, 1e-3, 0.5, 0.999, 1.001, 20.0, 80.0, 1e4], dtype)
    with localcontext() as context:
        context.prec = 60
        exact = [float((D(float(g)).exp() - 1).ln()) if g < 1e3 else float(g) for g in gap]
    found = flymc.log_expm1(jnp.asarray(gap))
    np.testing.assert_allclose(found, exact, rtol=4 * np.finfo(dtype).eps)
    slope = jax.vmap(jax.grad(flymc.log_expm1))(jnp.asarray(gap))
    np.testing.assert_allclose(slope, -1 / np.expm1(-gap), rtol=8 * np.finfo(dtype).eps)
    assert np.isnan(flymc.log_expm1(jnp.asarray(-1e-3)))


def _bound(name, dtype=np.float64, tuned=False, size=40):
    """tuned: False, True, or "local" for a bound that is tuned with a scale."""
    rng = np.random.default_rng(1)
    x, classes = rng.normal(size=(size, 3)).astype(dtype), rng.integers(0, 3, size)
    theta = jnp.asarray(rng.normal(size=(3, 3) if name == "softmax" else 3), dtype)
    made = {
        "logistic": lambda: flymc.logistic_bound(x, classes % 2),
        "softmax": lambda: flymc.softmax_bound(x, classes),
        "student_t": lambda: flymc.student_t_bound(x, x @ np.ones(3, dtype), scale=2.0),
    }[name]()
    if tuned == "local":
        return made.tuned(theta, 0.2 * np.eye(theta.size)), theta
    return made.tuned(theta) if tuned else made, theta


def _log_likelihood(bound):
    if isinstance(bound, LocalBound):
        predictor = lambda theta: bound.predictors + bound.features @ (theta - bound.reference)
        density = jax.nn.log_sigmoid
        if isinstance(bound.curve, StudentTCurve):
            df, scale = bound.curve.degrees_of_freedom, bound.curve.scale
            density = lambda r: jax.scipy.stats.t.logpdf(r, df) - jnp.log(scale)
        return lambda theta, rows: density(predictor(theta)[rows])
    if isinstance(bound, flymc.LogisticBound):
        return lambda theta, rows: jax.nn.log_sigmoid(bound.signed[rows] @ theta)
    if isinstance(bound, flymc.SoftmaxBound | LocalSoftmaxBound):
        pick = lambda scores, rows: scores[jnp.arange(len(rows)), bound.labels[rows]]
        return lambda theta, rows: pick(jax.nn.log_softmax(bound.features[rows] @ theta.T), rows)
    df, scale = bound.degrees_of_freedom, bound.scale
    residual = lambda theta, rows: (bound.targets - bound.features @ theta)[rows]
    density = lambda r: jax.scipy.stats.t.logpdf(r, df) - jnp.log(scale)
    return lambda theta, rows: density(residual(theta, rows))


NAMES = ["logistic", "softmax", "student_t"]


@pytest.mark.parametrize("tuned", [False, True, "local"])
@pytest.mark.parametrize("name", NAMES)
def test_bound_survives_the_hunt_and_adds_up(name, tuned):
    bound, theta = _bound(name, tuned=tuned)
    assert isinstance(bound, flymc.Bound)
    report = flymc.check_bound(
        bound, KEY, theta, log_likelihood=_log_likelihood(bound), num_positions=64, num_rows=40
    )
    assert report.tried == 130 * 40 and report.collapsed_error < 1e-13 and report.likelihood_error < 1e-13


@pytest.mark.parametrize("tuned", [True, "local"])
@pytest.mark.parametrize("name", NAMES)
def test_tuned_bound_touches_with_its_slope(name, tuned):
    bound, theta = _bound(name, tuned=tuned)
    rows = jnp.arange(bound.num_data)
    assert np.asarray(jax.jit(bound.gap)(theta, rows)).max() < 1e-20
    likelihood = lambda theta: jnp.sum(_log_likelihood(bound)(theta, rows))
    np.testing.assert_allclose(
        jax.jit(jax.grad(bound.collapsed))(theta),
        jax.jit(jax.grad(likelihood))(theta),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("name", NAMES)
def test_sums_keep_small_differences_in_single_precision(name):
    """20,000 data: sums of log bounds are of order 10^4, differences between neighbours of order 1."""
    single, theta = _bound(name, np.float32, tuned=True, size=20_000)
    double, _ = _bound(name, np.float64, size=20_000)
    double = double.tuned(theta.astype(np.float64))
    there = theta + jnp.full_like(theta, 0.01).at[0].set(-0.02)
    difference = lambda bound, a, b: float(bound.collapsed(b) - bound.collapsed(a))
    exact = difference(double, theta.astype(np.float64), there.astype(np.float64))
    assert abs(difference(single, theta, there) - exact) < 1e-4 * abs(exact) and abs(exact) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_an_untuned_bound_of_a_million_data_is_centred_for_single_precision(name):
    """Sums are of order 10^5 or more, of which single precision keeps 0.01 to 0.5; a step is one of 0.001."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1_000_000, 2)).astype(np.float32)
    theta = jnp.asarray([[1.0, -0.5], [-1.0, 0.5]] if name == "softmax" else [1.0, -0.5], jnp.float32)
    if name == "student_t":
        bound = flymc.student_t_bound(x, x @ np.asarray(theta) + rng.standard_t(4, len(x)))
    else:
        positive = rng.random(len(x)) < 1 / (1 + np.exp(-x @ [2.0, -1.0]))
        bound = getattr(flymc, f"{name}_bound")(
            x, 1 - positive if name == "softmax" else positive.astype(int)
        )
    centred = bound.centred(theta + 0.003)
    assert (centred.touching == bound.touching).all() and centred.collapsed(centred.reference) == 0
    wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, tree)
    exact = wide(bound).centred(wide(theta))
    near = theta[None] + 1e-3 * jnp.asarray(rng.normal(size=(50, *theta.shape)), jnp.float32)
    values = jax.jit(lambda bound, near: jax.vmap(bound.collapsed)(near))
    differences = lambda bound, near: np.diff(np.asarray(values(bound, near), np.float64))
    error = lambda bound: np.abs(differences(bound, near) - differences(exact, wide(near))).max()
    assert error(centred) < 0.01 < 0.03 < error(bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Planted:
    """The logistic bound, but for one row, and there only far out."""

    bound: flymc.LogisticBound
    by: float = dataclasses.field(metadata={"static": True})

    num_data = property(lambda self: self.bound.num_data)
    log_bound = lambda self, theta, rows: self.bound.log_bound(theta, rows)
    collapsed = lambda self, theta: self.bound.collapsed(theta)

    def gap(self, theta, rows):
        y = self.bound.signed[rows] @ theta
        return self.bound.gap(theta, rows) - jnp.where((rows == 7) & (jnp.abs(y) > 30), self.by, 0)


def test_the_hunt_finds_a_planted_violation():
    bound, theta = _bound("logistic")
    flymc.check_bound(Planted(bound, 0.0), KEY, theta, num_positions=64)
    with pytest.raises(BoundBroken, match=r"row 7 and theta = .* above the log likelihood"):
        flymc.check_bound(Planted(bound, 1e4), KEY, theta, num_positions=64)
    assert flymc.check_bound(Planted(bound, 1e4), KEY, theta, num_positions=64, raises=False).worst_gap < 0


def test_the_hunt_finds_a_sum_that_is_none_and_a_likelihood_that_is_another():
    bound, theta = _bound("student_t")
    wrong = dataclasses.replace(bound, linear=bound.linear * 1.01)
    with pytest.raises(BoundBroken, match="`collapsed` are off"):
        flymc.check_bound(wrong, KEY, theta, num_positions=8)
    other = lambda theta, rows: _log_likelihood(bound)(theta, rows) + 0.1
    with pytest.raises(BoundBroken, match="off from log_likelihood"):
        flymc.check_bound(bound, KEY, theta, num_positions=8, log_likelihood=other)


def test_data_that_do_not_fit_are_refused_by_name():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"labels are \[0, 2\]"):
        flymc.logistic_bound(x, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*shape \(2,\)"):
        flymc.logistic_bound(x, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"features\[1, 0\] is nan"):
        flymc.student_t_bound(np.array([[0.0], [np.nan]]), np.zeros(2))
    with pytest.raises(ValueError, match=r"label 2 is beyond num_classes = 2"):
        flymc.softmax_bound(x, np.array([0, 1, 2]), num_classes=2)
    with pytest.raises(ValueError, match=r"scale = 0\.0 must be positive"):
        flymc.student_t_bound(x, np.ones(3), scale=0.0)
    with pytest.raises(ValueError, match=r"answers are <U1, must be numbers"):
        flymc.logistic_bound(x, np.array(["a", "b", "a"]))
    with pytest.raises(ValueError, match="touching = nan must be finite"):
        flymc.student_t_bound(x, np.ones(3), touching=np.nan)
    with pytest.raises(ValueError, match=r"float32 cannot hold: divide the features"):
        flymc.logistic_bound(np.full((3, 2), 1e30, np.float32), np.array([0, 1, 1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_is_tuned_to_a_theta_of_its_own_shape_only(name):
    bound, theta = _bound(name)
    for at in (bound.tuned, bound.centred):
        with pytest.raises(ValueError, match=r"theta has shape \(6,.*\), must have"):
            at(jnp.concatenate([theta, theta]))
        with pytest.raises(ValueError, match="is not finite"):
            at(theta * jnp.nan)
