"""Where lost bits go: registers that spill bytes onto a tape, at steps known from the momenta alone.

spill_plan(n, bits of d), bounded_spill_plan(...)      at which steps a byte leaves the registers
spill(tape, row, register), unspill(...)               the byte goes, the byte comes back
spill_rest(...), unspill_rest(...)                     the register itself, after the last step

A register that is below M becomes one below ceil(M d / n), by a step with momentum n / d, whatever is in it
(exact.py). So M says when there might be no room for another step; then the lowest byte of each register
of an array leaves, and M becomes ceil(M / 256). The tape is one array of bytes with a row for each such
step, written in place: no pointers, and no memory beyond the bits. A velocity multiplied by zero is lost
whole; it goes onto a tape of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, PyTree, Real, UInt8, UInt32

from chainrule.hypergrad.exact import Momentum, wide

NO_ROW = -1
FIRST_ROOM = 2**6  # M of the empty registers at the start: larger ones cost bits, smaller ones round more
IMPOSSIBLE = np.uint32(2**32 - 1)  # for a momentum that cannot be


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpillPlan:
    """What a schedule of momenta means for the arrays that it moves: a number for each step."""

    momenta: Float[Array, "*lanes steps"]  # what is really multiplied by, exact in float32
    scale: Momentum  # the same as fractions; but one where it is zero
    row: Int32[Array, "*lanes steps"]  # of the tape, for the byte that leaves; NO_ROW
    erased_row: Int32[Array, "*lanes steps"]  # for a velocity that is multiplied by zero; NO_ROW
    kept: Bool[Array, "*lanes"]  # whether the tape has rows enough, and all momenta are possible
    rows: int = dataclasses.field(metadata={"static": True})  # for bytes that leave during training
    last_rows: int = dataclasses.field(metadata={"static": True})  # for the registers at the end
    erased_rows: int = dataclasses.field(metadata={"static": True})

    def bits(self, velocity_bits: int) -> int:
        """Stored for each number, over all steps."""
        return 8 * (self.rows + self.last_rows) + velocity_bits * self.erased_rows


def numerators(momentum: Real[Array, " steps"], denominator_bits: int) -> UInt32[Array, " steps"]:
    """n of the nearest n / d; IMPOSSIBLE for momenta that are not possible, NaN among them.

    A momentum is 0 or 1 or at least 1/256 and (2 d)^-1 away from these: a smaller one forgets nearly
    everything at a cost of more than 8 bits a step, a larger one would be rounded to 1.
    """
    d = 2**denominator_bits
    momentum = momentum.astype(wide(momentum.dtype))  # d is infinite in float16, zero in int8
    n = jnp.round(momentum * d)
    possible = ((n >= d // 256) & (n < d)) | (momentum == 0) | (momentum == 1)
    return jnp.where(possible, jnp.where(possible, n, 0).astype(jnp.uint32), IMPOSSIBLE)


def spill_plan(n: UInt32[Array, " steps"], denominator_bits: int) -> SpillPlan:
    """The plan for momenta that are known."""
    scale, row, erased_row, (room, rows, erased_rows) = _follow(n, denominator_bits)
    last_rows = -(-(int(room) - 1).bit_length() // 8)
    sizes = int(rows), last_rows, int(erased_rows)
    return SpillPlan(_momenta(n, denominator_bits), scale, row, erased_row, jnp.asarray(True), *sizes)


def bounded_spill_plan(n: UInt32[Array, " steps"], smallest: int, denominator_bits: int) -> SpillPlan:
    """The plan for traced momenta, with a tape that suffices if none of n is below `smallest`.

    It also suffices if smaller ones are made up for by larger ones: what counts is the sum of their bits.
    """
    with jax.ensure_compile_time_eval():
        *_, (_, rows, _) = _follow(jnp.full(n.shape, smallest, jnp.uint32), denominator_bits)
    possible = (n > 0) & (n != IMPOSSIBLE)
    scale, row, erased_row, (_, used, _) = _follow(
        jnp.where(possible, n, jnp.uint32(2**denominator_bits)), denominator_bits
    )
    kept = jnp.all(possible) & (used <= rows)
    last_rows = -(-(32 - denominator_bits) // 8)
    return SpillPlan(_momenta(n, denominator_bits), scale, row, erased_row, kept, int(rows), last_rows, 0)


def _momenta(n, denominator_bits):
    return n.astype(jnp.float32) * 2.0**-denominator_bits


def _follow(n, denominator_bits):
    """The growth of registers, step by step, and what it comes to: (room, rows, erased_rows)."""
    d = 2**denominator_bits
    most = 2 ** (32 - denominator_bits)

    def step(carry, n):
        room, rows, erased_rows = carry
        erase = n == 0
        scale = Momentum.of(jnp.where(erase, d, n), room, d)
        full = scale.grown > most
        after = jnp.where(full, (scale.grown - 1) // 256 + 1, scale.grown)
        at = scale, jnp.where(full, rows, NO_ROW), jnp.where(erase, erased_rows, NO_ROW)
        return (after, rows + full.astype(jnp.int32), erased_rows + erase.astype(jnp.int32)), at

    end, at = lax.scan(step, (jnp.uint32(FIRST_ROOM), jnp.int32(0), jnp.int32(0)), n)
    return *at, end


def spill(
    tape: UInt8[Array, "rows ..."], row: Int32[Array, ""], register: UInt32[Array, "*shape"]
) -> tuple[UInt8[Array, "rows ..."], UInt32[Array, "*shape"]]:
    """The lowest byte of the register goes to that row, and the register is shifted; nothing for NO_ROW."""
    full = row != NO_ROW
    return write(tape, row, register.astype(jnp.uint8)), jnp.where(full, register >> 8, register)


def unspill(
    tape: UInt8[Array, "rows ..."], row: Int32[Array, ""], register: UInt32[Array, "*shape"]
) -> UInt32[Array, "*shape"]:
    """The register before `spill`."""
    byte = read(tape, row).astype(jnp.uint32)
    return jnp.where(row != NO_ROW, (register << 8) | byte, register)


def spill_rest(
    tape: UInt8[Array, "rows ..."], last_rows: int, register: UInt32[Array, "*shape"]
) -> UInt8[Array, "rows ..."]:
    """The whole register goes to the last rows."""
    for row in range(last_rows):
        tape, register = spill(tape, jnp.int32(len(tape) - last_rows + row), register)
    return tape


def unspill_rest(tape: UInt8[Array, "rows ..."], last_rows: int) -> UInt32[Array, "*shape"]:
    """The register that was given to `spill_rest`."""
    register = jnp.zeros(tape.shape[1:], jnp.uint32)
    for row in reversed(range(last_rows)):
        register = unspill(tape, jnp.int32(len(tape) - last_rows + row), register)
    return register


def write(tape: PyTree, row: Int32[Array, ""], x: PyTree) -> PyTree:
    """x in that row; for NO_ROW the tape as it is, by writing what was there, which needs no copy."""

    def put(rows, x):
        x = jnp.where(row != NO_ROW, x, lax.dynamic_index_in_dim(rows, row, keepdims=False))
        return lax.dynamic_update_index_in_dim(rows, x, row, 0)

    return jax.tree.map(put, tape, x)


def read(tape: PyTree, row: Int32[Array, ""]) -> PyTree:
    """That row."""
    return jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, row, keepdims=False), tape)
