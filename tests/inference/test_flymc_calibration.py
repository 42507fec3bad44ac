"""The law of whole chains, by simulation alone; wrong kernels are told from right ones. See conftest.py.

All moves, bounds and updates: `python3 noxfile.py -s validate-inference`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference.flymc import (
    HMC,
    Bright,
    Explicit,
    Firefly,
    Implicit,
    RandomWalk,
    logistic_bound,
    softmax_bound,
    student_t_bound,
)

pytestmark = pytest.mark.slow

LEAST = 1e-3  # p-value, of all numbers together


def kernel(model, bound, move, update):
    step_size = 0.7 * move.first_step_size(int(np.prod(model.shape)))
    scale = model.scale_of(bound)
    return Firefly(model.log_prior, bound, move=move, brightness=update, step_size=step_size, scale=scale)


@pytest.mark.parametrize("name", ["logistic", "student_t", "softmax"])
def test_bounds_of_the_simulations_are_the_librarys(calibration, name):
    """Simulations make bounds while they are compiled; the library does on the host."""
    model = calibration(name)
    _, made = jax.jit(model.joint)(jax.random.key(0), True)
    best = made.reference
    if name == "logistic":
        bound = logistic_bound(np.asarray(made.signed), np.ones(made.num_data))
    elif name == "student_t":
        bound = student_t_bound(np.asarray(made.features) * 0.7, np.asarray(made.targets) * 0.7, scale=0.7)
    else:
        bound = softmax_bound(np.asarray(made.features), np.asarray(made.labels), num_classes=3)
    for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(bound.tuned(best)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    slope = jax.grad(lambda theta: model.log_prior(theta) + model.log_likelihood(made, theta))(best)
    assert np.abs(slope).max() < 0.3  # near the most probable theta


@pytest.mark.parametrize("name", ["logistic", "student_t", "softmax"])
def test_local_bounds_of_the_simulations_are_the_librarys(calibration, name):
    model = calibration(f"local {name}")
    made = jax.jit(lambda key: model.joint(key, True)[1])(jax.random.key(0))
    best, scale = made.reference, 0.6 * np.eye(made.reference.size)
    if name == "logistic":
        bound = logistic_bound(np.asarray(made.features), np.ones(made.num_data))
    elif name == "student_t":
        targets = np.asarray(made.predictors - made.features @ best) * 0.7
        bound = student_t_bound(-np.asarray(made.features) * 0.7, targets, scale=0.7)
    else:
        bound = softmax_bound(np.asarray(made.features), np.asarray(made.labels), num_classes=3)
    for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(bound.tuned(best, scale)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_chains_with_a_local_bound_have_the_joint_law(calibration):
    right = lambda model, bound, variant: kernel(model, bound, HMC(2), Implicit(0.3))
    assert min(calibration("local logistic").geweke(right, (True,))) > LEAST


def test_chains_that_alternate_with_new_data_have_the_joint_law(calibration):
    right = lambda model, bound, variant: kernel(model, bound, HMC(2), Explicit(0.4))
    assert min(calibration("logistic").geweke(right)) > LEAST


def test_the_truth_has_any_rank_among_draws_of_its_posterior(calibration):
    """In single precision. And a kernel that takes the prior to be narrower than it is, is found out."""

    def right_or_overconfident(model, bound, variant):
        made = kernel(model, bound, RandomWalk(), Implicit(0.3))
        narrow = jnp.where(variant == 0, 1, 4).astype(model.dtype)
        return dataclasses.replace(made, log_prior=lambda theta: narrow * model.log_prior(theta))

    right, overconfident = calibration("logistic", np.float32).ranks(right_or_overconfident, (True, True))
    assert overconfident < LEAST < right


@dataclasses.dataclass(frozen=True)
class Turned(RandomWalk):
    """Metropolis' rule; with the sign -1, the log ratio is turned round."""

    sign: Any = 1

    def move(self, key, point, density, step_size, scale):
        turned = lambda found: found._replace(value=self.sign * found.value)
        there, moved = super().move(key, turned(point), lambda x: turned(density(x)), step_size, scale)
        return turned(there), moved


@dataclasses.dataclass(frozen=True)
class Flipped(Implicit):
    """With the sign -1, both signs of the brightness' acceptance are turned round."""

    sign: Any = 1

    def log_light(self, log_odds, rows):
        return jnp.minimum(self.sign * log_odds - math.log(self.q), 0)

    def log_darken(self, log_odds, rows):
        return jnp.minimum(math.log(self.q) - self.sign * log_odds, 0)


@dataclasses.dataclass(frozen=True)
class Overflowing:
    """A chain that goes on without room: with the first bright points only, or with the state before."""

    kernel: Firefly
    room: Any
    rejects: Any

    def init(self, *args):
        return self.kernel.init(*args)

    def step(self, key, state):
        after, info = self.kernel.step(key, state)
        bright = after.bright
        kept = jnp.arange(len(bright.rows)) < jnp.minimum(bright.count, self.room)
        rows = jnp.where(kept, bright.rows, self.kernel.bound.num_data)
        count = kept.sum(dtype=bright.count.dtype)
        cut = after._replace(bright=Bright(rows, count, jnp.where(kept, bright.gap, 1)))
        ignored = self.rejects & (bright.count > self.room)
        return jax.tree.map(lambda old, new: jnp.where(ignored, old, new), state, cut), info


def test_wrong_kernels_do_not_have_the_joint_law(calibration):
    """Right; accepting theta, then brightness, by the inverse ratio; overflow ignored, then rejected."""

    def variants(model, bound, variant):
        sign = lambda wrong: jnp.where(variant == wrong, -1, 1).astype(model.dtype)
        made = kernel(model, bound, Turned(sign=sign(1)), Flipped(0.3, sign(2)))
        return Overflowing(made, jnp.where(variant < 3, bound.num_data, 4), variant == 4)

    right, *wrong = calibration("student_t").geweke(variants, (False,) * 5, chains=300)
    assert right > LEAST > 1e-6 > max(wrong)
