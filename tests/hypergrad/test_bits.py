"""The plan of spilled bytes: as few as there can be, never too few, and the same for traced momenta."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.hypergrad.bits import (
    IMPOSSIBLE,
    NO_ROW,
    bounded_spill_plan,
    numerators,
    spill,
    spill_plan,
    spill_rest,
    unspill,
    unspill_rest,
)

both = pytest.mark.parametrize("k", [12, 16], ids=["single", "double"])


def constant(momentum, steps, k):
    return numerators(jnp.full(steps, momentum), k)


@both
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.98])
def test_storage_is_within_a_twentieth_of_what_is_lost(k, momentum):
    plan = spill_plan(constant(momentum, 10_000, k), k)
    assert plan.bits(64) <= 1.05 * 10_000 * math.log2(1 / momentum)


@both
def test_registers_always_have_room(k):
    """Whatever the momenta: what a register can be, and what it is multiplied by, stays below 2^32."""
    rng = np.random.default_rng(0)
    d = 2**k
    n = rng.integers(d // 256, d + 1, 5000).astype(np.uint32)
    n[rng.random(5000) < 0.3] = d - 1
    n[rng.random(5000) < 0.1] = d // 256
    plan = spill_plan(jnp.asarray(n), k)
    room, rows = 64, 0
    for at in range(5000):
        assert room * d <= 2**32
        assert (int(plan.scale.room[at]), int(plan.scale.grown[at])) == (room, -(-room * d // int(n[at])))
        room = -(-room * d // int(n[at]))
        full = int(plan.row[at]) != NO_ROW
        if full:
            assert int(plan.row[at]) == rows
            room, rows = -(-room // 256), rows + 1
    assert plan.rows == rows and room <= 256**plan.last_rows


def test_momenta_are_the_nearest_fractions_or_impossible():
    n = numerators(jnp.asarray([0.0, 1.0, 0.5, 0.9, 0.9999, 1 / 256]), 16)
    assert n.tolist() == [0, 65536, 32768, 58982, 65529, 256]
    wrong = numerators(jnp.asarray([-0.1, 1.1, 1e-3, 0.999999, jnp.nan, jnp.inf]), 16)
    assert (wrong == IMPOSSIBLE).all()
    assert numerators(jnp.asarray([0.9999]), 12) == IMPOSSIBLE


@both
def test_a_traced_plan_is_the_known_one_on_a_tape_that_suffices(k):
    rng = np.random.default_rng(1)
    n = numerators(jnp.asarray(rng.uniform(0.6, 1.0, 300)), k)
    known, traced = spill_plan(n, k), jax.jit(lambda n: bounded_spill_plan(n, int(0.6 * 2**k), k))(n)
    for name in ("momenta", "scale", "row"):
        jax.tree.map(np.testing.assert_array_equal, getattr(known, name), getattr(traced, name))
    assert traced.kept and known.rows <= traced.rows


@both
def test_a_traced_plan_says_when_the_tape_is_too_short_or_a_momentum_impossible(k):
    bounded = lambda n: bounded_spill_plan(n, int(0.9 * 2**k), k).kept
    assert not bounded(constant(0.5, 300, k))
    assert not bounded(constant(0.95, 300, k).at[7].set(IMPOSSIBLE))
    assert not bounded(constant(0.95, 300, k).at[7].set(0))  # a whole velocity would be lost
    assert bounded(constant(0.95, 300, k).at[7].set(2**k // 2))  # the others make up for it


def test_spilled_bytes_come_back():
    rng = np.random.default_rng(2)
    register = jnp.asarray(rng.integers(0, 2**24, (5, 7)), jnp.uint32)
    tape = jnp.zeros((9, 5, 7), jnp.uint8)
    written, left = spill(tape, jnp.int32(3), register)
    np.testing.assert_array_equal(unspill(written, jnp.int32(3), left), register)
    assert (left < 2**16).all() and not written[np.arange(9) != 3].any()
    same, unchanged = spill(written, jnp.int32(NO_ROW), register)
    np.testing.assert_array_equal(same, written)
    np.testing.assert_array_equal(unchanged, register)
    np.testing.assert_array_equal(unspill_rest(spill_rest(tape, 3, register), 3), register)
