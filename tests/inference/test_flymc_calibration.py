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
from scipy import stats

from chainrule.inference.flymc import (
    HMC,
    Bright,
    Explicit,
    Firefly,
    Implicit,
    RandomWalk,
    Slice,
    brightness,
    logistic_bound,
    softmax_bound,
    student_t_bound,
)

pytestmark = pytest.mark.slow

LEAST = 1e-3  # p-value, of all numbers together


def kernel_with(move, update):
    def kernel_of(model, bound):
        step_size = 0.7 * move.first_step_size(int(np.prod(model.shape)))
        return Firefly(
            model.log_prior,
            bound,
            move=move,
            brightness=update,
            step_size=step_size,
            scale=model.scale_of(bound),
        )

    return kernel_of


RIGHT = kernel_with(RandomWalk(), Implicit(0.3))


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
    assert np.abs(slope).max() < 0.1  # tuned to about the most probable theta


def test_chains_that_alternate_with_new_data_have_the_joint_law(calibration):
    assert min(calibration("logistic").geweke(RIGHT)) > LEAST
    assert min(calibration("student_t").geweke(kernel_with(HMC(2), Explicit(0.4)), (False,))) > LEAST


def test_the_truth_has_any_rank_among_draws_of_its_posterior(calibration):
    model = calibration("logistic", np.float32)
    assert min(model.ranks(RIGHT, (True,))) > LEAST

    def overconfident(model, bound):
        return dataclasses.replace(RIGHT(model, bound), log_prior=lambda theta: -2 * jnp.sum(theta**2))

    assert max(model.ranks(overconfident, (True,))) < LEAST


class Uphill(RandomWalk):
    """Metropolis' rule with the sign of the log ratio turned round."""

    def move(self, key, point, density, step_size, scale):
        minus = lambda found: found._replace(value=-found.value)
        there, moved = super().move(key, minus(point), lambda x: minus(density(x)), step_size, scale)
        return minus(there), moved


class Flipped(Implicit):
    """Both signs of the brightness' acceptance turned round."""

    def log_light(self, log_odds):
        return jnp.minimum(-log_odds - math.log(self.q), 0)

    def log_darken(self, log_odds):
        return jnp.minimum(math.log(self.q) + log_odds, 0)


@dataclasses.dataclass(frozen=True)
class Overflowing:
    """A chain that goes on without room: with the first bright points only, or with the state before."""

    kernel: Any
    room: int
    rejects: bool

    def init(self, *args):
        return self.kernel.init(*args)

    def step(self, key, state):
        after, info = self.kernel.step(key, state)
        bright = after.bright
        if self.rejects:
            full = bright.count > self.room
            return jax.tree.map(lambda old, new: jnp.where(full, old, new), state, after), info
        kept = jnp.arange(len(bright.rows)) < jnp.minimum(bright.count, self.room)
        rows = jnp.where(kept, bright.rows, len(bright.is_bright))
        is_bright = jnp.zeros_like(bright.is_bright).at[rows].set(True, mode="drop")
        count = kept.sum(dtype=bright.count.dtype)
        cut = Bright(rows, count, jnp.where(kept, bright.gap, 1), is_bright)
        return after._replace(bright=cut), info


MUTANTS = {
    "theta accepted with the sign turned round": kernel_with(Uphill(), Implicit(0.3)),
    "brightness accepted with the signs turned round": kernel_with(RandomWalk(), Flipped(0.3)),
    "overflow ignored": lambda model, bound: Overflowing(RIGHT(model, bound), 4, False),
    "overflow rejected": lambda model, bound: Overflowing(RIGHT(model, bound), 4, True),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_wrong_kernels_do_not_have_the_joint_law(calibration, mutant):
    assert max(calibration("student_t").geweke(mutant, (False,), chains=200)) < LEAST
