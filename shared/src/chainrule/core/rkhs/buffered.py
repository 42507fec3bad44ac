"""Functions with room for a fixed number of atoms, which gather new ones on the device.

    BufferedFun.zero(kernel, dim, capacity)     the zero function
    f + g, for an RKHSFun g                     f with the atoms of g taken in, equal points put together
    f.count, f.overflowed                       atoms so far; whether there was no room for one

For loops that do not know beforehand where a loss evaluates its function: f + 0.01 * grad(loss)(f) has the
shape of f, under jit and as the carry of scan, and a point that comes again takes no new room.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from chainrule.core.rkhs._block import Block
from chainrule.core.rkhs._pytree import register
from chainrule.core.rkhs._vector import Vector, is_start_of_sum, number
from chainrule.core.rkhs.function import RKHSFun, as_function, common_space, nan_unless
from chainrule.core.rkhs.kernels import Kernel


@register
class BufferedFun(Vector):
    """sum_i a_i k(x_i, .) with at most `capacity` atoms, which are the first `count` of its arrays.

    A sum with more distinct points than the capacity is marked as overflowed, its coefficients become NaN,
    and stay so: no atom is dropped. Points are the same if they are equal; an atom with coefficient zero
    takes room like any other, for its coefficient may have a derivative.

    Example:
        >>> f = BufferedFun.zero(SquaredExponential(), dim=1, capacity=3)
        >>> g = RKHSFun(f.kernel, jnp.array([[1.0], [2.0]]), jnp.array([1.0, 1.0]))
        >>> h = f + g + 0.5 * g
        >>> print(h.count, h.coefficients, h.overflowed)
        2 [1.5 1.5 0. ] False
    """

    kernel: Kernel
    points: Float[Array, "capacity dim"]  # zero where there is no atom
    coefficients: Float[Array, " capacity"]  # zero where there is no atom; all NaN once overflowed
    count: Int[Array, ""]  # of atoms
    overflowed: Bool[Array, ""]  # whether a sum had more than `capacity` atoms

    @classmethod
    def zero(cls, kernel: Kernel, dim: int, capacity: int, dtype: Any = float) -> "BufferedFun":
        """The zero function, with room for `capacity` atoms."""
        if capacity < 1:
            raise ValueError(f"BufferedFun: capacity must be at least 1, got {capacity}")
        points = jnp.zeros((capacity, dim), dtype)
        return cls(kernel, points, jnp.zeros(capacity, dtype), jnp.asarray(0), jnp.asarray(False))

    @property
    def function(self) -> RKHSFun:
        """The same as an RKHSFun, with an atom of coefficient zero in each place that is free.

        It knows which places these are, and so do its multiples, and gradients such as that of |f|^2, which
        is 2 f: a BufferedFun takes in none of them.
        """
        block = Block(self.points, self.coefficients, count=self.count)
        return RKHSFun.of_blocks(self.kernel, [block], self.points.shape[-1])

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        return self.function(x)

    def __add__(self, other: Any) -> "BufferedFun":
        if is_start_of_sum(other):
            return self
        if not isinstance(other, RKHSFun | BufferedFun):
            return NotImplemented
        f, g = self.function, as_function(other)
        kernel, _, same = common_space(f, g)
        total = dataclasses.replace(self, coefficients=nan_unless(same, self.coefficients))
        if isinstance(other, BufferedFun):
            total = dataclasses.replace(
                total,
                coefficients=nan_unless(~other.overflowed, total.coefficients),
                overflowed=self.overflowed | other.overflowed,
            )
        (own,), elsewhere = f.blocks, []
        for block in g.blocks:
            if isinstance(block, Block) and block.key == own.key:  # as the derivative of |f|^2, which is 2 f
                total = dataclasses.replace(total, coefficients=total.coefficients + block.coefficients)
            else:
                elsewhere.append(block)
        if elsewhere:
            rest = RKHSFun.of_blocks(kernel, elsewhere, g.dim)
            if jnp.result_type(rest.points, rest.coefficients, self.points) != self.points.dtype:
                raise TypeError(
                    f"BufferedFun: it holds {self.points.dtype}, and cannot take in points of "
                    f"{rest.points.dtype} with coefficients of {rest.coefficients.dtype}. Way out: the wider "
                    "dtype in BufferedFun.zero"
                )
            are_atoms = jnp.concatenate([block.are_atoms for block in rest.atoms()])
            total = _with_atoms(total, rest.points, rest.coefficients, are_atoms)
        return total

    def __mul__(self, factor: Any) -> "BufferedFun":
        return dataclasses.replace(self, coefficients=number(factor) * self.coefficients)

    def gradient_of_atoms(self, atoms: RKHSFun) -> RKHSFun:
        """What rkhs.grad makes of the functional gradient: itself. f + 0.01 * gradient takes it in."""
        return atoms


@jax.jit
def _with_atoms(f, points, coefficients, are_atoms):
    """f with those of the points that are atoms put where equal ones are, or in free places."""
    capacity = len(f.points)
    points = points.astype(f.points.dtype)
    equal = lambda X, Y: jnp.all(X[:, None] == Y[None], axis=-1)
    held = equal(points, f.points) & (jnp.arange(capacity) < f.count)[None]
    first = jnp.argmax(equal(points, points) & are_atoms[None], axis=1)  # of the equal ones among the new
    is_new = are_atoms & ~held.any(axis=1) & (first == jnp.arange(len(points)))
    free = f.count + jnp.cumsum(is_new) - 1
    place = jnp.where(held.any(axis=1), jnp.argmax(held, axis=1), free[first])
    nowhere = capacity
    count = f.count + jnp.sum(is_new)
    overflowed = f.overflowed | (count > capacity)
    total = f.coefficients.at[jnp.where(are_atoms, place, nowhere)].add(
        coefficients.astype(f.coefficients.dtype), mode="drop"
    )
    return dataclasses.replace(
        f,
        points=f.points.at[jnp.where(is_new, free, nowhere)].set(points, mode="drop"),
        coefficients=jnp.where(overflowed, jnp.nan, 1).astype(total.dtype) * total,
        count=jnp.minimum(count, capacity).astype(f.count.dtype),
        overflowed=overflowed,
    )
