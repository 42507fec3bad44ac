"""Fixed-point arithmetic against integers of any length, on random and extreme operands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.hypergrad.exact import Double, Momentum, Single

KINDS = {"single": (Single, 32, 24), "double": (Double, 64, 52)}
both = pytest.mark.parametrize("kind", KINDS)


def integers(x):
    """The units of a fixed-point array, as Python integers."""
    if isinstance(x, Single):
        return np.asarray(x.units).astype(object)
    return np.asarray(x.high).astype(object) * 2**32 + np.asarray(x.low).astype(object)


def fixed(kind, units):
    if kind == "single":
        return Single(jnp.asarray(units.astype(np.int32)))
    high, low = units // 2**32, units % 2**32
    return Double(jnp.asarray(high.astype(np.int32)), jnp.asarray(low.astype(np.uint32)))


def operands(kind, size=4000, seed=0):
    """Integers of all sizes and signs, and those next to a power of two, to the range's both ends."""
    _, bits, _ = KINDS[kind]
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0, bits - 1, size)
    random = [int(sign * 2.0**size) for sign, size in zip(rng.choice([-1, 1], size), sizes, strict=True)]
    random = [u + int(e) for u, e in zip(random, rng.integers(-(2**10), 2**10, size), strict=True)]
    edges = [s * 2**k + e for s in (-1, 1) for k in range(bits) for e in (-2, -1, 0, 1, 2)]
    top = 2 ** (bits - 1)
    return np.array([min(max(u, -top), top - 1) for u in random + edges], dtype=object)


def denominator(kind):
    return 2 ** KINDS[kind][0].denominator_bits


def momenta(kind):
    """Fractions n / d at the ends and in the middle, with registers small and as large as can be."""
    d = denominator(kind)
    for n in [d // 256, d // 256 + 1, d // 3, d // 2, d // 2 + 1, round(0.9 * d), d - 1, d]:
        for room in [1, 64, 2**32 // d // 256 + 1, 2**32 // d - 1, 2**32 // d]:
            yield n, room, -(-room * d // n)


def momentum(n, room, kind):
    return Momentum.of(jnp.uint32(n), jnp.uint32(room), denominator(kind))


def registers(room, size, seed=1):
    """Below room, both ends among them."""
    lost = np.random.default_rng(seed).integers(0, room, size).astype(object)
    lost[::5], lost[1::5] = room - 1, 0
    return lost


def product(units, n, room, grown, lost, d):
    """The docstring's three lines, on integers of any length."""
    q, r = (units + d // 2) // d, (units + d // 2) % d
    s = (r * room + lost) // grown
    middle = (d // 2 * room + room // 2) // grown
    return q * n + s - middle, (r * room + lost) % grown


def within(units, kind):
    """As `plus` leaves them: d / 2 below the end of the range."""
    return np.minimum(units, 2 ** (KINDS[kind][1] - 1) - (2**12 if kind == "single" else 2**32) - 1)


@both
def test_times_agrees_with_long_integers_and_over_undoes_it(kind):
    units = within(operands(kind), kind)
    times, over = (
        jax.jit(lambda v, by, lost: v.times(by, lost)),
        jax.jit(lambda v, by, lost: v.over(by, lost)),
    )
    for n, room, grown in momenta(kind):
        by = momentum(n, room, kind)
        assert by.grown == grown
        lost = registers(room, len(units))
        scaled, register = times(fixed(kind, units), by, jnp.asarray(lost.astype(np.uint32)))
        expected, expected_register = product(units, n, room, grown, lost, denominator(kind))
        np.testing.assert_array_equal(integers(scaled), expected)
        np.testing.assert_array_equal(np.asarray(register).astype(object), expected_register)
        assert expected_register.max() < grown
        restored, before = over(scaled, by, register)
        np.testing.assert_array_equal(integers(restored), units)
        np.testing.assert_array_equal(np.asarray(before).astype(object), lost)


@both
def test_a_product_errs_by_a_unit_and_the_rounding_of_the_register(kind):
    d = denominator(kind)
    units = within(operands(kind), kind)
    for n, room, grown in momenta(kind):
        scaled, _ = product(units, n, room, grown, registers(room, len(units)), d)
        slack = 2 + d / 2 * (n / d - room / grown)
        assert all(abs(s * d - u * n) <= slack * d for s, u in zip(scaled, units, strict=True))
        assert slack <= 2 + n / 2 / grown


@both
def test_a_velocity_of_zero_stays_within_a_unit_of_zero(kind):
    for n, room, grown in momenta(kind):
        zero = np.zeros(50, object)
        scaled, _ = product(zero, n, room, grown, registers(room, 50), denominator(kind))
        assert max(abs(scaled)) <= 1


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_agree_with_long_integers_or_say_that_they_left_the_range(kind, dtype):
    _, bits, fraction = KINDS[kind]
    units = operands(kind)
    rng = np.random.default_rng(3)
    c = rng.choice([-1, 1], len(units)) * 2 ** rng.uniform(-fraction - 8, bits - fraction + 1, len(units))
    c[:8] = [
        0.0,
        -0.0,
        2.0 ** (bits - 1 - fraction),
        np.inf,
        -np.inf,
        np.nan,
        2.0**-fraction,
        -(2.0**-fraction),
    ]
    c = c.astype(dtype)
    cut = round if kind == "single" else int
    finite = np.isfinite(c)
    steps = np.array(
        [cut(float(x) * 2**fraction) if ok else 0 for x, ok in zip(c, finite, strict=True)], object
    )
    sums, left = jax.jit(lambda x, c: x.plus(c))(fixed(kind, units), jnp.asarray(c))
    lowest, top = -(2 ** (bits - 1)), within(np.array([2**bits], object), kind)[0]
    inside = finite & (units + steps >= lowest) & (units + steps <= top) & (abs(steps) < -lowest)
    np.testing.assert_array_equal(np.asarray(left), ~inside)
    np.testing.assert_array_equal(integers(sums)[inside], (units + steps)[inside])
    restored = jax.jit(lambda x, c: x.minus(c))(sums, jnp.asarray(c))
    np.testing.assert_array_equal(integers(restored), units)


@both
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_values_are_the_nearest_floats(kind, dtype):
    _, _, fraction = KINDS[kind]
    units = operands(kind)
    values = np.asarray(fixed(kind, units).value(jnp.dtype(dtype)).astype(jnp.float64))
    exact = np.array([float(u) for u in units]) * 2.0**-fraction
    # One rounding; in float32 of 64 bits, three: of either limb and of their sum.
    np.testing.assert_allclose(values, exact, rtol=1.5 * float(jnp.finfo(dtype).eps), atol=0)


@both
def test_a_float32_comes_back_as_it_was(kind):
    x = np.random.default_rng(4).normal(size=1000).astype(np.float32)
    x = np.where(abs(x) < 2**-5, np.float32(0.5), x)  # single has 24 bits below 1
    x = x if kind == "double" else (np.round(x * 2**18) / 2**18).astype(np.float32)
    there, left = KINDS[kind][0].of(jnp.asarray(x))
    assert not left.any()
    np.testing.assert_array_equal(there.value(jnp.float32), x)
