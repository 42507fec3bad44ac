"""Two checks of a kernel's law that need no reference: only draws of the prior and of data given theta.

    model = calibration("logistic")
    model.geweke(kernel_of)    chains that alternate with new data, compared with independent draws
    model.ranks(kernel_of)     simulation-based calibration: ranks of the truth among draws of its posterior

`calibration("local logistic")` has local bounds: give it tuned=(True,).

Both return a p-value for each entry of `tuned`, by default one for untuned and one for tuned bounds: the
least of all numbers looked at, times how many they are. Models are small, and what differs between
simulations is an argument of one program: `kernel_of(model, bound, variant)` is told which entry it is for.

Source: J. Geweke, Getting it right: joint distribution tests of posterior simulators, JASA 99, 2004; S. Talts
et al., Validating Bayesian inference algorithms with simulation-based calibration, 2018; M. Modrak et al.,
Simulation-based calibration checking with data-dependent test quantities, 2023, for ranking the likelihood.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy import stats

from chainrule.inference.flymc import Firefly, logistic_bound, softmax_bound, student_t_bound
from chainrule.inference.flymc.local import LocalBound
from chainrule.inference.flymc.local_softmax import LocalSoftmaxBound, last_own
from chainrule.inference.flymc.logistic import LogisticCurve
from chainrule.inference.flymc.shells import shells, spread_of
from chainrule.inference.flymc.student_t import StudentTCurve

CLIMBS = 5  # maximisations of the bound, each tuned where the one before ended


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """theta ~ N(0, 1) and data given theta, with the bound that the library makes of them, but traceable."""

    bound: Any  # of some data
    shape: tuple[int, ...]  # of theta
    answers: Callable  # of a key and theta: data, at random
    filled: Callable  # of a bound and answers: the bound of these data, but for its sums
    touched: Callable  # of a bound and theta: where to touch, to be tight there
    log_likelihood: Callable  # of a bound and theta, written plainly, up to a constant
    local: Callable | None = None  # of a tuned bound: the local one there, but for its sums

    @property
    def dtype(self):
        return self.bound.reference.dtype

    def log_prior(self, theta):
        return -jnp.sum(theta**2) / 2

    def bound_of(self, answers, tuned):
        """Untuned, or tuned to about the most probable theta: a function of data alone, as it must be."""
        untuned = _summed(self.filled(self.bound, answers), jnp.zeros(self.shape, self.dtype))
        if tuned is None:
            return untuned

        def climb(bound, _):
            best = bound.reference + self._newton(bound)
            return _summed(dataclasses.replace(bound, touching=self.touched(bound, best)), best), None

        bound, _ = lax.scan(climb, untuned, length=CLIMBS)
        if self.local is not None:
            return _local_sums(self.local(bound))
        return jax.tree.map(lambda a, b: jnp.where(tuned, a, b), bound, untuned)

    def scale_of(self, bound):
        """As `preconditioned` finds it."""
        values, vectors = jnp.linalg.eigh(self._curvature(bound))
        return vectors / jnp.sqrt(values)[None]

    def joint(self, key, tuned):
        """Theta, and the bound of data."""
        theta_key, data_key = jax.random.split(key)
        theta = jax.random.normal(theta_key, self.shape, self.dtype)
        return theta, self.bound_of(self.answers(data_key, theta), tuned)

    def geweke(self, kernel_of, tuned=(False, True), *, chains=400, rounds=20, steps=3):
        """Draws of (theta, data, brightness): independent ones, and chains that alternate between a few steps
        of the kernel and new data given theta."""

        def around(theta, key, tuned, variant):
            data_key, bright_key, key = jax.random.split(key, 3)
            bound = self.bound_of(self.answers(data_key, theta), tuned)
            kernel = kernel_of(self, bound, variant)
            state = kernel.init(bright_key, theta, bound.num_data)
            advance = lambda state, key: (kernel.step(key, state)[0], None)
            state, _ = lax.scan(advance, state, jax.random.split(key, steps))
            return state.position, self.seen(state, bound)

        def chain(key, tuned, variant):
            key, first = jax.random.split(key)
            keys = jax.random.split(key, rounds)
            theta = jax.random.normal(first, self.shape, self.dtype)
            return lax.scan(lambda theta, key: around(theta, key, tuned, variant), theta, keys)[1].mean(0)

        found = _side_by_side(chain, 0, chains, tuned)
        kinds = sorted(set(tuned))
        exact = dict(zip(kinds, self.independent(tuple(kinds)), strict=True))
        return [self._least_p(of, exact[kind]) for of, kind in zip(found, tuned, strict=True)]

    @functools.cache  # noqa: B019
    def independent(self, tuned, draws=30_000):
        def draw(key, tuned, _):
            joint_key, bright_key = jax.random.split(key)
            theta, bound = self.joint(joint_key, tuned)
            return self.seen(Firefly(self.log_prior, bound).init(bright_key, theta, bound.num_data), bound)

        return _side_by_side(draw, 99, draws, tuned)

    def seen(self, state, bound):
        """Test functions of theta, data and brightness."""
        flat = state.position.ravel()
        lit = state.bright.mask(bound.num_data).astype(flat.dtype)
        count, fit = lit.sum(), self.log_likelihood(bound, state.position)
        second = jnp.outer(flat, flat)[jnp.triu_indices(len(flat))]
        neighbours = jnp.sum(lit[1:] * lit[:-1])
        rest = jnp.stack([count, count**2, neighbours, fit, fit * count])
        return jnp.concatenate([flat, second, count * flat, rest])

    def ranks(self, kernel_of, tuned=(False, True), *, simulations=256, draws=15, warmup=100, thin=12):
        """Of the true theta, and of its likelihood, among draws of a chain that starts elsewhere."""

        def one(key, tuned, variant):
            joint_key, start_key, bright_key, key = jax.random.split(key, 4)
            truth, bound = self.joint(joint_key, tuned)
            kernel = kernel_of(self, bound, variant)
            start = jax.random.normal(start_key, self.shape, self.dtype)
            state = kernel.init(bright_key, start, bound.num_data)
            numbers = lambda theta: jnp.append(theta.ravel(), self.log_likelihood(bound, theta))

            def advance(state, key):
                state, info = kernel.step(key, state)
                return state, (state.position, info.violations)

            keys = jax.random.split(key, warmup + draws * thin)
            _, (positions, violations) = lax.scan(advance, state, keys)
            found = jax.vmap(numbers)(positions[warmup + thin - 1 :: thin])
            bad = (violations.sum() > 0) | jnp.isnan(found).any()
            return jnp.where(bad, -1, jnp.sum(found < numbers(truth)[None], 0))

        def least_p(ranks):
            assert ranks.min() >= 0, "a bound was violated, or a chain is NaN"
            counts = [np.bincount(r // 2, minlength=(draws + 1) // 2) for r in ranks.T]
            return len(counts) * min(stats.chisquare(count).pvalue for count in counts)

        return [least_p(ranks) for ranks in _side_by_side(one, 1, simulations, tuned)]

    def _least_p(self, found, exact):
        error = np.hypot(found.std(0) / len(found) ** 0.5, exact.std(0) / len(exact) ** 0.5)
        z = np.abs(found.mean(0) - exact.mean(0)) / error
        return len(z) * 2 * float(stats.norm.sf(np.nan_to_num(z, nan=np.inf)).min())

    def _curvature(self, bound):
        flat, unravel = ravel_pytree(bound.reference)
        smooth = lambda x: self.log_prior(unravel(x)) + bound.collapsed(unravel(x))
        return -jax.hessian(smooth)(flat)

    def _newton(self, bound):
        flat, unravel = ravel_pytree(bound.reference)
        smooth = lambda x: self.log_prior(unravel(x)) + bound.collapsed(unravel(x))
        return unravel(jnp.linalg.solve(self._curvature(bound), jax.grad(smooth)(flat)))


def _summed(bound, reference):
    """The bound with its sums over data made anew: first and second derivative of the sum of log bounds."""
    total = lambda theta: bound.log_bound(theta, jnp.arange(bound.num_data)).sum()
    sums = dict(reference=reference, linear=jax.grad(total)(reference))
    if hasattr(bound, "quadratic"):
        sums["quadratic"] = -jax.hessian(total)(reference) / 2
    return dataclasses.replace(bound, **sums)


def _local_sums(bound):
    """The same for a local bound: as if all shells were one of them, for each in turn."""

    def of_shell(number, radius):
        alone = bound.shells._replace(radii=jnp.full_like(bound.shells.radii, radius))
        changed = dict(shells=alone)
        if hasattr(bound, "last"):
            changed["last"] = jnp.where(bound.last >= number, len(bound.shells.radii), -1)
        flat, unravel = ravel_pytree(bound.reference)
        here = dataclasses.replace(bound, **changed)
        total = lambda flat: here.log_bound(unravel(flat), jnp.arange(bound.num_data)).sum()
        return unravel(jax.grad(total)(flat)), -jax.hessian(total)(flat)

    numbers = jnp.arange(len(bound.shells.radii))
    linear, quadratic = jax.vmap(of_shell)(numbers, bound.shells.radii)
    return dataclasses.replace(bound, linear=linear[0], quadratic=quadratic)


def _side_by_side(simulate, seed, number, tuned):
    """So many simulations for each entry of `tuned`, all in one program; with the same keys for each."""
    keys = jax.random.split(jax.random.key(seed), number)
    of = lambda key, flag, variant: simulate(key, flag if any(tuned) else None, variant)  # less to compile
    each = jax.vmap(jax.vmap(of, (0, None, None)), (None, 0, 0))
    return np.asarray(jax.jit(each)(keys, jnp.asarray(tuned), jnp.arange(len(tuned))))


def _student_t(key, rows, dtype):
    """With four degrees of freedom: twice the sum of two exponential numbers is chi-square with four."""
    noise_key, width_key = jax.random.split(key)
    square = jax.random.exponential(width_key, (2, rows), dtype).sum(0) / 2
    return jax.random.normal(noise_key, (rows,), dtype) / jnp.sqrt(square)


WIDTH = 0.6  # of the distances of local bounds: any will do


def _local_model(model, name):
    """With local bounds around the most probable theta."""
    dtype, dims = model.dtype, int(np.prod(model.shape))
    around = shells(WIDTH * np.eye(dims), dims, dtype)
    nothing = jnp.zeros((len(around.radii), dims, dims), dtype)
    if name == "softmax":

        def local(bound):
            spread = spread_of(2**0.5 * WIDTH * bound.features)
            scores = bound.features @ bound.reference.T
            last = last_own(scores, spread, around)
            linear = jnp.zeros_like(bound.reference)
            return LocalSoftmaxBound(
                bound.features, bound.labels, scores, spread, last, bound.reference, around, linear, nothing
            )

        return dataclasses.replace(model, local=local)

    curve = LogisticCurve() if name == "logistic" else StudentTCurve(4.0, 0.7)

    def local(bound):
        best = bound.reference
        features = bound.signed if name == "logistic" else -bound.features
        predictors = features @ best if name == "logistic" else bound.targets + features @ best
        spread = spread_of(WIDTH * features)
        return LocalBound(features, predictors, spread, best, around, jnp.zeros_like(best), nothing, curve)

    def log_likelihood(bound, theta):
        t = bound.predictors + bound.features @ (theta - bound.reference)
        return jnp.sum(curve.log_likelihood(t))

    return dataclasses.replace(model, local=local, log_likelihood=log_likelihood)


@functools.cache
def _model(name, dtype=np.float64):
    if name.startswith("local "):
        name = name.removeprefix("local ")
        return _local_model(_model(name, dtype), name)
    rng = np.random.default_rng(0)
    rows = 15 if name == "softmax" else 20
    x = rng.normal(size=(rows, 2)).astype(dtype)
    sign = lambda positive: jnp.where(positive, 1, -1).astype(dtype)
    if name == "logistic":
        return Model(
            logistic_bound(x, np.arange(rows) % 2),
            (2,),
            lambda key, theta: sign(jax.random.bernoulli(key, jax.nn.sigmoid(x @ theta))),
            lambda bound, answers: dataclasses.replace(bound, signed=x * answers[:, None]),
            lambda bound, theta: jnp.abs(bound.signed @ theta),
            lambda bound, theta: jax.nn.log_sigmoid(bound.signed @ theta).sum(),
        )
    if name == "softmax":
        untuned = lambda labels: 1.5 * jax.nn.one_hot(labels, 3, dtype=dtype)
        return Model(
            softmax_bound(x, np.arange(rows) % 3),
            (3, 2),
            lambda key, theta: jax.random.categorical(key, x @ theta.T).astype(jnp.int32),
            lambda bound, answers: dataclasses.replace(bound, labels=answers, touching=untuned(answers)),
            lambda bound, theta: bound.features @ theta.T,
            lambda bound, theta: jnp.sum(
                jax.nn.log_softmax(bound.features @ theta.T) * jax.nn.one_hot(bound.labels, 3, dtype=dtype)
            ),
        )
    return Model(
        student_t_bound(x, np.zeros(rows), scale=0.7),
        (2,),
        lambda key, theta: x / 0.7 @ theta + _student_t(key, rows, dtype),
        lambda bound, answers: dataclasses.replace(bound, targets=answers),
        lambda bound, theta: jnp.abs(bound.targets - bound.features @ theta),
        lambda bound, theta: -2.5 * jnp.log1p((bound.targets - bound.features @ theta) ** 2 / 4).sum(),
    )


@pytest.fixture
def calibration():
    return _model
