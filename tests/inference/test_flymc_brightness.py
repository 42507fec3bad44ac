"""Updates of the brightness leave p(z | theta) as it is: by enumeration, and by counting what they do."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from chainrule.inference.flymc import Bright, Explicit, Implicit, Weighted, brightness
from chainrule.inference.flymc.brightness import candidates, refresh
from chainrule.inference.flymc.weighted import from_hazard

ODDS = np.array([0.05, 2.0, 0.4])
ROWS = 500  # of a larger set
ROWS_OF_ODDS = jnp.arange(len(ODDS))
STATES = list(itertools.product([0, 1], repeat=len(ODDS)))


def independent(probability):
    """Every set of candidates, with its probability."""
    for inside in STATES:
        p = np.prod([q if c else 1 - q for c, q in zip(inside, probability, strict=True)])
        yield inside, p


def block_of_one(probability):
    """One candidate, of all rows alike."""
    for row in range(len(ODDS)):
        yield tuple(int(n == row) for n in range(len(ODDS))), 1 / len(ODDS)


def probabilities(update):
    """Of each row, to be a candidate."""
    if isinstance(update, Weighted):
        return np.exp(np.asarray(update.log_q))
    return np.full(len(ODDS), update.probability)


def enumerated(update, sets):
    """The transition matrix over all 2^N states, from the update's own probabilities."""
    light = np.exp(np.asarray(update.log_light(jnp.log(ODDS), ROWS_OF_ODDS)))
    darken = np.exp(np.asarray(update.log_darken(jnp.log(ODDS), ROWS_OF_ODDS)))

    def site(n, z, after, candidate):
        moves = candidate or (z and update.all_bright)
        p = (darken[n] if z else light[n]) if moves else 0
        return p if after != z else 1 - p

    matrix = np.zeros((len(STATES), len(STATES)))
    for inside, p in sets(probabilities(update)):
        for i, z in enumerate(STATES):
            for j, after in enumerate(STATES):
                matrix[i, j] += p * np.prod([site(n, z[n], after[n], inside[n]) for n in range(len(ODDS))])
    return matrix


TARGET = np.array(
    [np.prod([o / (1 + o) if b else 1 / (1 + o) for o, b in zip(ODDS, z, strict=True)]) for z in STATES]
)


def error(update, sets):
    matrix = enumerated(update, sets)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    return np.abs(TARGET @ matrix - TARGET).max()


WEIGHTED = from_hazard(np.array([0.3, 0.9, 0.1]), np.float64)
UPDATES = [Implicit(0.01), Implicit(0.3), Implicit(1.0), WEIGHTED, Explicit(0.25), Explicit(1.0)]


def name(update):
    return "Weighted" if isinstance(update, Weighted) else str(update)


@pytest.mark.parametrize("update", UPDATES, ids=name)
def test_update_leaves_the_distribution_as_it_is(update):
    assert error(update, independent) < 1e-12


class Flipped(Implicit):
    """The acceptance of a well-known port: both signs of the logarithms turned round."""

    def log_light(self, log_odds, rows):
        return jnp.minimum(-log_odds - math.log(self.q), 0)

    def log_darken(self, log_odds, rows):
        return jnp.minimum(math.log(self.q) + log_odds, 0)


class Unweighted(Implicit):
    """Metropolis' rule that forgets that the proposal is not symmetric."""

    def log_light(self, log_odds, rows):
        return jnp.minimum(log_odds, 0)

    def log_darken(self, log_odds, rows):
        return jnp.minimum(-log_odds, 0)


@dataclasses.dataclass(frozen=True)
class Shared(Weighted):
    """Rows are candidates with probabilities of their own, but accepted as if with one for all."""

    def log_light(self, log_odds, rows):
        return jnp.minimum(log_odds - self.log_q.mean(), 0)

    def log_darken(self, log_odds, rows):
        return jnp.minimum(self.log_q.mean() - log_odds, 0)


def two_draws(probability):
    """Not a Poisson number of draws but two, of rows such that each is hit with its probability."""
    p = 1 - np.sqrt(1 - probability)
    p = np.append(p, 1 - p.sum())  # the last hits nothing
    for pair in itertools.product(range(len(p)), repeat=2):
        yield tuple(int(n in pair) for n in range(len(ODDS))), p[pair[0]] * p[pair[1]]


@pytest.mark.parametrize(
    ("update", "sets"),
    [
        (Flipped(0.5), independent),
        (Unweighted(0.5), independent),
        (Implicit(1 / 3), block_of_one),
        (Shared(**vars(WEIGHTED)), independent),
        (WEIGHTED, two_draws),
    ],
    ids=[
        "acceptance with flipped signs",
        "acceptance without q",
        "block of candidates of fixed size",
        "one q for all rows in the acceptance",
        "a fixed number of draws",
    ],
)
def test_enumeration_rejects_wrong_updates(update, sets):
    assert error(update, sets) > 1e-3


def test_a_block_of_fixed_size_is_right_where_only_candidates_change():
    """Gibbs sampling of a block that does not depend on z."""
    assert error(Explicit(1 / 3), block_of_one) < 1e-12


def bright_of(z, capacity, odds=ODDS):
    """The state of the buffers for a set of bright points."""
    z = jnp.asarray(z, bool)
    (rows,) = jnp.nonzero(z, size=capacity, fill_value=len(z))
    rows = rows.astype(jnp.int32)
    gap = jnp.log1p(jnp.asarray(odds))
    near = jnp.where(rows < len(z), gap[jnp.minimum(rows, len(z) - 1)], 1)
    return Bright(rows, jnp.sum(z, dtype=jnp.int32), near)


def consistent(bright, capacity):
    rows = np.asarray(bright.rows)
    count = int(bright.count)
    assert len(set(rows[:count])) == count and (rows[:count] < ROWS).all()
    assert (rows[count:] == ROWS).all() and len(rows) == capacity


@pytest.mark.parametrize("update", [Implicit(0.3), WEIGHTED, Explicit(0.4)], ids=name)
def test_what_it_does_has_the_enumerated_probabilities(update):
    """40,000 updates from each state; counts within 5 standard deviations of the enumerated matrix."""
    number = 40_000
    matrix = enumerated(update, independent)
    gap = jnp.log1p(jnp.asarray(ODDS))

    @jax.jit
    def after(key, z):
        one = lambda key: refresh(
            update, key, bright_of(z, 3), gap.__getitem__, 3, update.room(3)
        ).bright.mask(3)
        return jax.vmap(one)(jax.random.split(key, number))

    for i, z in enumerate(STATES):
        found = np.asarray(after(jax.random.key(i), jnp.asarray(z))) @ (4, 2, 1)
        counts = np.bincount(found, minlength=len(STATES))
        sd = np.sqrt(number * matrix[i] * (1 - matrix[i]))
        assert (np.abs(counts - number * matrix[i]) <= 5 * sd + 1e-9).all()


def block_of_fixed_size(key, num_data, probability, room):
    """In place of `candidates`: as many as there are in the mean, all sets alike."""
    size = round(num_data * probability)
    rows = jnp.sort(jax.random.permutation(key, num_data)[:size].astype(jnp.int32))
    return jnp.pad(rows, (0, room - size), constant_values=num_data), jnp.asarray(True)


def p_of_states_after(update, updates=2, number=200_000):
    """Of chi-square: states drawn exactly, and updated, still have the probabilities that they had."""
    gap = jnp.log1p(jnp.asarray(ODDS))

    def lane(key):
        start_key, key = jax.random.split(key)
        z = jax.random.uniform(start_key, 3) < jnp.asarray(ODDS / (1 + ODDS))
        again = lambda bright, key: (refresh(update, key, bright, lambda rows: gap[rows], 3, 4).bright, None)
        return jax.lax.scan(again, bright_of(z, 3), jax.random.split(key, updates))[0].mask(3)

    keys = jax.random.split(jax.random.key(0), number)
    counts = np.bincount(np.asarray(jax.jit(jax.vmap(lane))(keys)) @ (4, 2, 1), minlength=len(STATES))
    return stats.chisquare(counts, number * TARGET).pvalue


def test_states_keep_their_probabilities_and_lose_them_to_wrong_updates(monkeypatch):
    assert p_of_states_after(Implicit(1 / 3)) > 1e-3
    assert p_of_states_after(Flipped(1 / 3)) < 1e-9
    monkeypatch.setattr(brightness, "candidates", block_of_fixed_size)
    assert p_of_states_after(Implicit(1 / 3)) < 1e-9


@pytest.mark.parametrize(
    "update",
    [Implicit(0.1), from_hazard(np.linspace(0, 0.3, ROWS), np.float64), Explicit(0.2)],
    ids=name,
)
def test_buffers_agree_and_draws_do_not_depend_on_their_size(update):
    rng = np.random.default_rng(0)
    odds = rng.exponential(0.3, ROWS)
    gap = jnp.log1p(jnp.asarray(odds))
    room = update.room(ROWS)
    ends = []
    for capacity, extra in ((256, 0), (400, 50)):
        one = jax.jit(
            lambda key, bright, room=room + extra: refresh(update, key, bright, gap.__getitem__, ROWS, room)
        )
        bright = bright_of(np.zeros(ROWS), capacity, odds)
        for i in range(20):
            before, done = bright, one(jax.random.key(i), bright)
            bright = done.bright
            assert not done.overflow and done.violations == 0
            assert done.flips == (before.mask(ROWS) != bright.mask(ROWS)).sum()
            consistent(bright, capacity)
        ends.append(np.asarray(bright.mask(ROWS)))
        np.testing.assert_array_equal(bright.gap[: bright.count], gap[bright.rows[: bright.count]])
    assert ends[0].sum() > 20 and (ends[0] == ends[1]).all()


def test_too_little_room_is_said():
    gap = jnp.full(ROWS, 5.0)
    run = lambda update, capacity, room: jax.jit(
        lambda bright: refresh(update, jax.random.key(0), bright, gap.__getitem__, ROWS, room)
    )(bright_of(np.zeros(ROWS), capacity))
    assert run(Implicit(0.1), 16, 200).overflow  # bright points have no room
    assert run(Implicit(0.1), 256, 10).overflow  # candidates have none
    assert not run(Implicit(0.1), 256, 200).overflow


def test_gaps_that_are_none_are_counted_and_light_nothing():
    gap = jnp.full(ROWS, 1e-3).at[3].set(-0.1).at[4].set(jnp.nan)
    once = lambda bright: refresh(Implicit(1.0), jax.random.key(0), bright, gap.__getitem__, ROWS, ROWS + 1)
    done = jax.jit(once)(bright_of(np.zeros(ROWS), 512))
    assert done.violations == 2 and not done.bright.mask(ROWS)[jnp.array([3, 4])].any()
    assert done.evaluations == ROWS


@pytest.mark.parametrize("probability", [0.001, 0.03, 0.5])
def test_candidates_are_independent_with_their_probability(probability):
    """Counts of a row, of pairs of rows and of all rows, within 5 standard deviations."""
    number, size = 20_000, 60
    room = Implicit(probability).room(size)
    chosen = jax.jit(jax.vmap(lambda key: candidates(key, size, probability, room)))
    rows, complete = chosen(jax.random.split(jax.random.key(1), number))
    assert complete.all()
    inside = np.zeros((number, size + 1), bool)
    inside[np.arange(number)[:, None], np.minimum(rows, size)] = True
    inside = inside[:, :size]
    within = lambda count, p: np.abs(count - number * p) <= 5 * np.sqrt(number * p) + 1e-9
    assert within(inside.sum(0), probability).all()
    for lag in (1, 2, 17):
        pairs = (inside[:, lag:] & inside[:, :-lag]).sum(0)
        assert abs(pairs.sum() - number * len(pairs) * probability**2) <= 5 * np.sqrt(pairs.sum() + 1)
    totals = inside.sum(1)
    variance = size * probability * (1 - probability)
    deviation = np.sqrt((2 + 1 / variance) / number)  # of a binomial's sample variance, relative
    assert abs(totals.var() / variance - 1) < 5 * deviation


def test_candidates_of_a_large_set_do_not_overflow():
    rows, complete = candidates(jax.random.key(0), 2**30 - 2, 1e-7, 200)
    assert complete and (jnp.diff(rows) >= 0).all() and rows[0] >= 0
    assert 60 < (rows < 2**30 - 2).sum() < 160


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_probabilities_are_checked(value):
    with pytest.raises(ValueError, match=r"q = .* must be above 0"):
        Implicit(value)
    with pytest.raises(ValueError, match="fraction = "):
        Explicit(value)
    assert dataclasses.replace(Implicit(), q=0.5).probability == 0.5


def test_each_row_is_hit_with_the_probability_that_is_used():
    """Weighted candidates of uneven rows, many of them and few: counts, pairs, and the table itself."""
    hazard = np.random.default_rng(0).gamma(0.3, size=37) + 1e-4
    update = from_hazard(hazard, np.float64)
    q, number = np.exp(np.asarray(update.log_q)), 40_000
    floor = 0.02 * hazard.sum() / 37
    np.testing.assert_allclose(q, -np.expm1(-0.98 * hazard - floor), rtol=1e-5)  # as asked for
    one = lambda key: update.candidates(key, 37, update.room(37))[0]
    rows = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), number)))
    inside = (rows[:, :, None] == np.arange(37)).any(1).astype(int)
    sd = np.sqrt(number * q * (1 - q))
    assert (np.abs(inside.sum(0) - number * q) <= 5 * sd).all()
    together = inside.T @ inside / number - np.outer(q, q)
    error = np.sqrt(np.outer(q, q) / number)
    assert (np.abs(together - np.diag(np.diag(together))) <= 6 * error).all()


def test_a_table_of_a_million_rows_says_what_it_does():
    """The probabilities of all rows add up to 1 and are those asked for, to what 32 bits resolve."""
    hazard = np.random.default_rng(0).gamma(0.1, size=1_000_000) * 1e-3
    update = from_hazard(hazard, np.float32)
    rate = -np.log1p(-np.exp(np.asarray(update.log_q, np.float64)))
    expected = 0.98 * hazard + 0.02 * hazard.sum() / len(hazard)
    assert abs(rate.sum() / hazard.sum() - 1) < 1e-6
    assert np.abs(rate / expected - 1).max() < 1e-4
    assert len(update.cumulative) < hazard.sum() + 9 * hazard.sum() ** 0.5 + 16
