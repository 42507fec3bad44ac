"""Chains on the host: neither chunks nor capacity change a draw, a broken bound stops it, dtypes stay."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference.flymc import (
    HMC,
    MALA,
    BoundViolated,
    Explicit,
    Firefly,
    FullData,
    Implicit,
    RandomWalk,
    Weighted,
    find_map,
    logistic_bound,
    preconditioned,
    sample,
    sampling,
    weighted,
)

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
ROWS, DIMS = 400, 3


def log_prior(theta):
    return -jnp.sum(theta**2) / 2


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, DIMS)).astype(dtype)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-x @ [1.0, -0.5, 0.2]))).astype(int)
    bound = logistic_bound(x, labels)
    theta = find_map(log_prior, bound, jnp.zeros(DIMS, dtype))
    return bound.tuned(theta), theta


BOUND, THETA = problem()
KERNEL = Firefly(log_prior, BOUND, move=HMC(2), brightness=Implicit(0.05))


def short(kernel=KERNEL, **settings):
    settings = dict(num_chains=3, num_warmup=30, num_samples=30, chunk=20) | settings
    return sample(KEY, kernel, THETA.astype(kernel.bound.signed.dtype), **settings)


@pytest.fixture(scope="module")
def reference():
    return short()


def test_results_have_the_shapes_they_say(reference):
    assert reference.draws["theta"].shape == (3, 30, DIMS)
    assert reference.info.num_bright.shape == (3, 30) and reference.step_size.shape == (3,)
    assert reference.replays == 0 and reference.capacity == 64
    assert reference.info.violations.sum() == 0
    assert reference.summary().rhat["theta"].shape == (DIMS,)


def test_the_same_key_gives_the_same_bits_in_chunks_of_any_length(reference):
    again = short(chunk=7)
    np.testing.assert_array_equal(again.draws["theta"], reference.draws["theta"])
    assert (again.info.num_bright == reference.info.num_bright).all()


def test_sums_are_counted_from_near_where_chains_start(reference):
    """A tuned bound is left as it is; one that is counted from zero is centred."""
    np.testing.assert_array_equal(reference.kernel.bound.reference, BOUND.reference)
    untuned = dataclasses.replace(KERNEL, bound=BOUND.centred(jnp.zeros(DIMS)))
    run = short(untuned, num_warmup=0, num_samples=5)
    np.testing.assert_array_equal(run.kernel.bound.reference, THETA)


def test_too_small_a_capacity_is_replayed_to_the_same_draws():
    """At spread 0 all is dark in the beginning; two places do not do for long."""
    seen = []
    wide, narrow = (short(capacity=c, spread=0.0, progress=seen.append) for c in (64, 2))
    assert wide.replays == 0 and wide.capacity == 64
    assert narrow.replays >= 1 and narrow.capacity == 2 * 2**narrow.replays
    assert seen[-1].capacity == narrow.capacity and seen[-1].done == seen[-1].total == 60
    np.testing.assert_allclose(narrow.draws["theta"], wide.draws["theta"], rtol=1e-9, atol=1e-9)
    assert (narrow.info.num_bright == wide.info.num_bright).all()


def test_too_little_room_for_candidates_is_replayed_too(reference):
    tight = short(dataclasses.replace(KERNEL, room=20))
    assert tight.replays >= 1
    np.testing.assert_allclose(tight.draws["theta"], reference.draws["theta"], rtol=1e-9, atol=1e-9)


def test_an_overflow_in_a_step_of_ones_own_is_never_a_number():
    state = KERNEL.init(KEY, THETA + 1.0, capacity=2)  # many more are bright there
    state, _ = jax.jit(KERNEL.step)(KEY, state)
    assert np.isnan(state.position).all()


def test_evaluations_are_counted_as_said(reference):
    """Dark candidates once, bright points for the first gradient and for each of two leapfrog steps."""
    info = reference.info
    candidates = info.evaluations - 3 * info.num_bright
    assert (candidates >= 0).all() and abs(candidates.mean() / (0.05 * ROWS) - 1) < 0.2
    full = short(FullData(log_prior, BOUND, move=RandomWalk()))
    assert (full.info.evaluations == ROWS).all()


def test_firefly_and_full_data_have_the_same_posterior():
    settings = dict(num_chains=4, num_warmup=200, num_samples=800, chunk=250)
    fly, full = (
        short(kernel, **settings).summary()
        for kernel in (dataclasses.replace(KERNEL, move=HMC(4)), FullData(log_prior, BOUND, move=HMC(4)))
    )
    assert max(fly.worst_rhat, full.worst_rhat) < 1.03
    error = np.hypot(fly.mcse["theta"], full.mcse["theta"])
    assert (np.abs(fly.mean["theta"] - full.mean["theta"]) < 4 * error).all()
    np.testing.assert_allclose(fly.sd["theta"], full.sd["theta"], rtol=0.15)


def test_a_step_makes_nothing_as_long_as_the_data():
    """Whatever a step computes is smaller than N, although the data are a thousand times larger than it."""
    num_data, cells = 100_000, 1 << 17
    bound = dataclasses.replace(BOUND, signed=jnp.zeros((num_data, DIMS)), touching=jnp.zeros(num_data))
    table = jnp.zeros(cells, jnp.uint32), jnp.zeros(cells, jnp.int32)
    by_row = Weighted(*table, jnp.zeros(num_data), jnp.zeros(200, jnp.uint32))
    for brightness in (by_row, Implicit(1e-3), Explicit(1e-3)):
        kernel = dataclasses.replace(KERNEL, bound=bound, brightness=brightness)
        state = jax.eval_shape(lambda kernel, theta: kernel.init(KEY, theta, 128), kernel, THETA)
        assert max(leaf.size for leaf in jax.tree.leaves(state)) == 128
        jaxpr = jax.make_jaxpr(lambda kernel, state: kernel.step(KEY, state))(kernel, state)
        assert 200 < largest(jaxpr.jaxpr) < 20_000


def largest(jaxpr):
    """Size of the largest array that is computed, here or in what is called."""
    sizes = [out.aval.size for eqn in jaxpr.eqns for out in eqn.outvars]
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            sizes += [largest(inner)] if hasattr(inner, "eqns") else []
    return max(sizes, default=0)


def test_weighted_candidates_and_the_same_for_all_sample_one_posterior():
    """A few hundred data, with a proposal that knows them: moments as with Implicit, and sums add up."""
    weights = weighted(log_prior, BOUND, THETA)
    assert 0.5 < np.exp(weights.log_q).sum() / short().info.num_bright.mean() < 3
    settings = dict(num_chains=4, num_warmup=200, num_samples=800, chunk=250)
    one, other = (
        short(dataclasses.replace(KERNEL, move=HMC(4), brightness=update), **settings).summary()
        for update in (weights, Implicit(0.3))
    )
    assert max(one.worst_rhat, other.worst_rhat) < 1.03
    error = np.hypot(one.mcse["theta"], other.mcse["theta"])
    assert (np.abs(one.mean["theta"] - other.mean["theta"]) < 4 * error).all()
    np.testing.assert_allclose(one.sd["theta"], other.sd["theta"], rtol=0.15)
    with pytest.raises(ValueError, match=r"excess = 0\.0 must be above 0"):
        weighted(log_prior, BOUND, THETA, excess=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TooHigh:
    """A bound that is none near where the chain goes."""

    inner: object

    num_data = property(lambda self: self.inner.num_data)
    signed = property(lambda self: self.inner.signed)
    log_bound = lambda self, theta, rows: self.inner.log_bound(theta, rows)
    collapsed = lambda self, theta: self.inner.collapsed(theta)
    gap = lambda self, theta, rows: self.inner.gap(theta, rows) - 0.01


def test_a_broken_bound_stops_the_chain_and_is_never_clipped():
    broken = dataclasses.replace(KERNEL, bound=TooHigh(BOUND))
    with pytest.raises(
        BoundViolated, match=r"gaps were negative or NaN, the first in chain 0 at iteration 0"
    ):
        short(broken)
    assert short(broken, on_violation="flag").info.violations.sum() > 0


def test_single_precision_stays_single_where_double_is_on():
    bound, theta = problem(np.float32)
    assert theta.dtype == jnp.float32
    for move in (HMC(2), RandomWalk()):
        kernel = preconditioned(Firefly(log_prior, bound, move=move), theta)
        state = kernel.init(KEY, theta + 0.01, capacity=64)
        before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        after, info = jax.eval_shape(kernel.step, KEY, state)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == before
        assert info.acceptance.dtype == jnp.float32


def test_theta_may_be_a_tree_with_names():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Split:
        inner: object
        num_data = property(lambda self: self.inner.num_data)
        signed = property(lambda self: self.inner.signed)
        whole = staticmethod(lambda theta: jnp.concatenate([theta["intercept"][None], theta["slopes"]]))
        gap = lambda self, theta, rows: self.inner.gap(self.whole(theta), rows)
        log_bound = lambda self, theta, rows: self.inner.log_bound(self.whole(theta), rows)
        collapsed = lambda self, theta: self.inner.collapsed(self.whole(theta))

    prior = lambda theta: log_prior(theta["slopes"]) + log_prior(theta["intercept"])
    kernel = dataclasses.replace(KERNEL, bound=Split(BOUND), log_prior=prior)
    run = sample(
        KEY, kernel, {"intercept": THETA[0], "slopes": THETA[1:]}, num_chains=3, num_warmup=30, num_samples=30
    )
    assert run.draws["intercept"].shape == (3, 30) and run.draws["slopes"].shape == (3, 30, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_samples=0), "num_samples = 0 must be a whole number, at least 1"),
        (dict(capacity=-1), "capacity = -1 must be"),
        (dict(kernel=dataclasses.replace(KERNEL, step_size=0.0)), r"step_size = 0\.0 must be positive"),
        (dict(kernel=dataclasses.replace(KERNEL, moves=0)), "Firefly: moves = 0 must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        short(**changes)


def test_starts_that_make_no_sense_are_refused():
    with pytest.raises(TypeError, match=r"theta has dtype .*float32.*must be one floating dtype"):
        KERNEL.init(KEY, THETA.astype(jnp.float32))
    with pytest.raises(ValueError, match="the capacity must be given"):
        jax.jit(KERNEL.init)(KEY, THETA)
    with pytest.raises(ValueError, match="log density is not finite"):
        sample(KEY, KERNEL, lambda key: THETA + jnp.inf, precondition=False)
    for kernel in (KERNEL, FullData(log_prior, BOUND)):
        with pytest.raises(
            TypeError, match=r"sample: theta of shape \[\(4,\)\] does not fit the bound.collapsed"
        ):
            sample(KEY, kernel, jnp.zeros(4))
        with pytest.raises(TypeError, match=r"sample: theta has dtype \['int64'\], must be floating"):
            sample(KEY, kernel, jnp.zeros(3, int))
    with pytest.raises(TypeError, match=r"find_map: theta of shape \[\(4,\)\] does not fit"):
        find_map(log_prior, BOUND, jnp.zeros(4))
    with pytest.raises(TypeError, match=r"FullData\.init: theta has dtype"):
        FullData(log_prior, BOUND).init(KEY, THETA.astype(jnp.float32))
    vector = dataclasses.replace(KERNEL, log_prior=lambda theta: -(theta**2))
    with pytest.raises(TypeError, match=r"sample: log prior has shape \(3,\) where \(\) is due"):
        sample(KEY, vector, THETA)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A bound without `collapsed`."""

    inner: object

    num_data = property(lambda self: self.inner.num_data)
    log_bound = lambda self, theta, rows: self.inner.log_bound(theta, rows)
    gap = lambda self, theta, rows: self.inner.gap(theta, rows)


def test_a_bound_that_is_none_is_named():
    with pytest.raises(TypeError, match="the bound, a Unfinished, lacks collapsed"):
        sample(KEY, Firefly(log_prior, Unfinished(BOUND)), THETA)
    with pytest.raises(TypeError, match="the bound, a function, lacks num_data, gap"):
        Firefly(log_prior, log_prior).init(KEY, THETA)


def test_a_class_in_place_of_a_move_or_an_update_is_named():
    def with_part(kernel, **parts):
        kernel = dataclasses.replace(kernel)
        for name, part in parts.items():  # not by the constructor, whose types are checked in tests
            object.__setattr__(kernel, name, part)
        return kernel

    for kernel in (with_part(KERNEL, move=MALA), with_part(FullData(log_prior, BOUND), move=RandomWalk)):
        with pytest.raises(TypeError, match=r"sample: move is .*, must be a Move such as MALA\(\)"):
            sample(KEY, kernel, THETA)
    with pytest.raises(TypeError, match=r"brightness is .*Implicit.*, must be a Update such as Implicit"):
        with_part(KERNEL, brightness=Implicit).init(KEY, THETA)


def test_an_interrupt_keeps_the_draws_there_are(monkeypatch):
    whole = short(num_warmup=20, num_samples=40, chunk=20)
    chunk, calls = sampling._chunk, iter([False, False, True])

    def interrupted(*args):
        if next(calls):
            raise KeyboardInterrupt
        return chunk(*args)

    monkeypatch.setattr(sampling, "_chunk", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 20 of 40 draws"):
        part = short(num_warmup=20, num_samples=40, chunk=20)
    np.testing.assert_array_equal(part.draws["theta"], whole.draws["theta"][:, :20])
    assert part.info.acceptance.shape == part.draws["theta"].shape[:2]
