"""Fixed-point numbers with updates that can be undone exactly.

Single(units)            multiples of 2^-24 from -128 to 128, one int32 each
Double(high, low)        multiples of 2^-52 from -2048 to 2048, two 32-bit limbs; needs no jax_enable_x64

x.plus(c), x.minus(c)                        add the float c, rounded to a multiple; the one undoes the other
v.times(momentum, lost), v.over(...)         multiply by a fraction n / d, divide by it: likewise
wide(dtype)                                  the floats to compute with, at least float32

A product with n / d has fewer values than there were before it: log2(d / n) bits a number are lost. `times`
moves them into an integer beside it, the register `lost`, whence `over` takes them back. Registers that were
below M before are below M' = ceil(M d / n) after, whatever the numbers are:

    q, r = (v + d/2) // d, (v + d/2) mod d        r is the part that n / d breaks up
    s, lost = (r M + lost) // M', (r M + lost) mod M'
    v = q n + s - (r's middle, scaled alike)

r and the register together are less than d M, which is at most n M': so s is less than n, and each line can
be undone. As s is r M / M' up to one unit, v is the product up to one unit and the rounding of M', which is
1 / M' of r at most. Here v // d is a shift, for d is a power of two. Other divisions are products with a
float and a correction by the remainder: exact, and several at a time where integer division is not.

Differs from the source, Algorithm 3 of Maclaurin, Duvenaud and Adams, Gradient-based hyperparameter
optimization through reversible learning, ICML 2015: there s is the register mod n, so that products err by
up to n units, and registers are integers of any length.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32, UInt32


class Momentum(NamedTuple):
    """A fraction n / d to multiply by, and the size of registers before and after."""

    n: UInt32[Array, "*lanes"]  # from d / 256 to d
    room: UInt32[Array, "*lanes"]  # M, at most 2^32 / d
    grown: UInt32[Array, "*lanes"]  # M' = ceil(M d / n)
    middle: UInt32[Array, "*lanes"]  # s for r = d / 2 and a register half full

    @classmethod
    def of(cls, n: UInt32[Array, ""], room: UInt32[Array, ""], d: int) -> "Momentum":
        grown = (room * d - 1) // n + 1  # room d may be 2^32, which is 0 here, and right once it is less one
        return cls(n, room, grown, (room * (d // 2) + room // 2) // grown)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Single:
    """Multiples of 2^-24 from -128 to 128: fast, and as fine as float32 is just below 1."""

    units: Int32[Array, "*shape"]

    bits: ClassVar[int] = 32
    denominator_bits: ClassVar[int] = 12  # of d; the finer d is, the coarser the rounding of M'
    LARGEST: ClassVar[int] = 2**31 - 2**12  # what sums may be, so that d / 2 may be added

    @classmethod
    def of(cls, x: Float[Array, "*shape"]) -> tuple["Single", Bool[Array, "*shape"]]:
        """The nearest multiples, and where there are none: out of range, or NaN. Those are zero."""
        scaled = x.astype(wide(x.dtype)) * 2.0**24
        fits = jnp.abs(scaled) <= 2.0**31 - 1
        return cls(jnp.round(jnp.where(fits, scaled, 0)).astype(jnp.int32)), ~fits

    def value(self, dtype: DTypeLike) -> Float[Array, "*shape"]:
        """The numbers as floats, rounded where the dtype has fewer digits."""
        return (self.units.astype(wide(dtype)) * 2.0**-24).astype(dtype)

    def plus(self, c: Float[Array, "*shape"]) -> tuple["Single", Bool[Array, "*shape"]]:
        """The sum, and where it has left the range, or c is NaN."""
        added, bad = Single.of(c)
        sums = self.units + added.units
        wrapped = ((self.units ^ sums) & (added.units ^ sums)) < 0
        return Single(sums), bad | wrapped | (sums > self.LARGEST)

    def minus(self, c: Float[Array, "*shape"]) -> "Single":
        """What `plus` was given, from what it returned."""
        return Single(self.units - Single.of(c)[0].units)

    def times(self, by: Momentum, lost: UInt32[Array, "*shape"]) -> tuple["Single", UInt32[Array, "*shape"]]:
        """The product with by.n / 2^12, and the register with the bits that this loses."""
        k, d = self.denominator_bits, 2**self.denominator_bits
        centred = self.units + d // 2
        s, lost = _divmod((_bits(centred) & (d - 1)) * by.room + lost, by.grown)
        return Single((centred >> k) * _signed(by.n) + _signed(s - by.middle)), lost

    def over(self, by: Momentum, lost: UInt32[Array, "*shape"]) -> tuple["Single", UInt32[Array, "*shape"]]:
        """What `times` was given, from what it returned."""
        k, d = self.denominator_bits, 2**self.denominator_bits
        product = self.units + _signed(by.middle)
        sign = product >> 31  # -1 for negative ones: v // n = ~(~v // n)
        q, remainder = _divmod(_bits(product ^ sign), by.n)
        s = jnp.where(sign < 0, by.n - 1 - remainder, remainder)
        r, lost = _divmod(s * by.grown + lost, by.room)
        return Single((((_signed(q) ^ sign) << k) | _signed(r)) - d // 2), lost

    def differs(self, other: "Single") -> Bool[Array, "*shape"]:
        return self.units != other.units


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Double:
    """Multiples of 2^-52 from -2048 to 2048: the accuracy of float64 without jax_enable_x64.

    The number is (high 2^32 + low) 2^-52. Floats are cut to a multiple, towards zero, not rounded to the
    nearest: any float32 from 2^-29 on is one as it is.
    """

    high: Int32[Array, "*shape"]
    low: UInt32[Array, "*shape"]

    bits: ClassVar[int] = 64
    denominator_bits: ClassVar[int] = 16  # one digit of what follows

    @classmethod
    def of(cls, x: Float[Array, "*shape"]) -> tuple["Double", Bool[Array, "*shape"]]:
        """As for Single."""
        scaled = x.astype(wide(x.dtype)) * 2.0**20
        fits = jnp.abs(scaled) < 2.0**31
        scaled = jnp.where(fits, scaled, 0)
        whole = jnp.trunc(scaled)
        magnitude = (jnp.abs(scaled - whole) * 2.0**32).astype(jnp.uint32)  # both exact, and below 2^32
        negative = scaled < 0
        low = jnp.where(negative, -magnitude, magnitude)
        high = whole.astype(jnp.int32) - (negative & (magnitude > 0)).astype(jnp.int32)
        return cls(high, low), ~fits

    def value(self, dtype: DTypeLike) -> Float[Array, "*shape"]:
        """As for Single."""
        negative = self.high < 0  # sign and magnitude, or small negative numbers would cancel
        low = jnp.where(negative, -self.low, self.low)
        high = jnp.where(negative, ~self.high + (self.low == 0).astype(jnp.int32), self.high)
        magnitude = _bits(high).astype(wide(dtype)) * 2.0**-20 + low.astype(wide(dtype)) * 2.0**-52
        return jnp.where(negative, -magnitude, magnitude).astype(dtype)

    def plus(self, c: Float[Array, "*shape"]) -> tuple["Double", Bool[Array, "*shape"]]:
        """As for Single."""
        added, bad = Double.of(c)
        total = _add(self, added)
        wrapped = ((self.high ^ total.high) & (added.high ^ total.high)) < 0
        return total, bad | wrapped | (total.high == 2**31 - 1)  # so that d / 2 may be added

    def minus(self, c: Float[Array, "*shape"]) -> "Double":
        """As for Single."""
        return _add(self, _negative(Double.of(c)[0]))

    def times(self, by: Momentum, lost: UInt32[Array, "*shape"]) -> tuple["Double", UInt32[Array, "*shape"]]:
        """The product with by.n / 2^16, and the register with the bits that this loses."""
        centred = _add(self, _small(jnp.uint32(2**15)))
        s, lost = _divmod((centred.low & 0xFFFF) * by.room + lost, by.grown)
        # q n, of the three remaining digits of centred, the highest of which has the sign.
        first, second = (centred.low >> 16) * by.n, (_bits(centred.high) & 0xFFFF) * by.n
        high = (centred.high >> 16) * _signed(by.n) + _signed(second >> 16)
        product = _add(Double(high, second << 16), _small(first))
        return _add(product, _small_difference(s, by.middle)), lost

    def over(self, by: Momentum, lost: UInt32[Array, "*shape"]) -> tuple["Double", UInt32[Array, "*shape"]]:
        """What `times` was given, from what it returned."""
        product = _add(self, _small(by.middle))
        sign = product.high >> 31
        high, low = _bits(product.high ^ sign), product.low ^ _bits(sign)
        # Long division. The quotient has three digits, or the number that was multiplied would not fit.
        third, rest = _divmod(high, by.n)
        second, rest = _divmod((rest << 16) | (low >> 16), by.n)
        first, remainder = _divmod((rest << 16) | (low & 0xFFFF), by.n)
        s = jnp.where(sign < 0, by.n - 1 - remainder, remainder)
        r, lost = _divmod(s * by.grown + lost, by.room)
        high = _signed((third << 16) | second) ^ sign
        low = ((first << 16) ^ (_bits(sign) << 16)) | r
        return _add(Double(high, low), _negative(_small(jnp.uint32(2**15)))), lost

    def differs(self, other: "Double") -> Bool[Array, "*shape"]:
        return (self.high != other.high) | (self.low != other.low)


Fixed = Single | Double


def wide(dtype: DTypeLike) -> DTypeLike:
    """What to compute in: float32 for shorter numbers, and for integers; its exponents reach far enough."""
    return dtype if dtype in (jnp.float32, jnp.float64) else jnp.float32


def _divmod(p, n):
    """p // n and p mod n, for quotients below 2^19.

    In float32 the quotient errs by 3 2^-24 of itself, less than 1. Once it is cut, the remainder, which is
    exact, tells whether it is right, or one off, and which way.
    """
    half = _signed(p >> 1).astype(jnp.float32)  # converting signed integers is one instruction
    quotient = (half * (2 / n.astype(jnp.float32))).astype(jnp.int32)
    rest = _signed(p) - quotient * _signed(n)
    one = (rest >= _signed(n)).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    return _bits(quotient + one), _bits(rest - one * _signed(n))


def _add(x, y):
    low = x.low + y.low
    return Double(x.high + y.high + (low < y.low).astype(jnp.int32), low)


def _negative(x):
    return Double(~x.high + (x.low == 0).astype(jnp.int32), -x.low)


def _small(low):
    return Double(jnp.zeros_like(low, jnp.int32), low)


def _small_difference(x, y):
    return Double(-(x < y).astype(jnp.int32), x - y)


def _bits(x):
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _signed(x):
    return jax.lax.bitcast_convert_type(x, jnp.int32)
