"""Functions f = sum_i a_i k(x_i, .) of a reproducing kernel Hilbert space, as values.

    RKHSFun(kernel, points, coefficients)     f; without points, the zero function
    f(x)                                      of one point (dim,) or of many (..., dim)
    f + g, f - g, -f, 2.0 * f, f / 2.0        a vector space

Source: the slides "User-defined types: reproducing kernel Hilbert space" of the talk The Chain Rule
Unchained (D. Maclaurin). There an RKHSFun holds a dict from points to coefficients, and dicts are added key
by key; here it holds blocks of points, and blocks are added that are known to be the same.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from chainrule.core.rkhs._argument import Argument, evaluate_argument
from chainrule.core.rkhs._block import Block
from chainrule.core.rkhs._vector import Vector, is_start_of_sum, number
from chainrule.core.rkhs.kernels import PRECISION, Kernel


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False, eq=False)
class RKHSFun(Vector):
    """f = sum_i a_i k(x_i, .), a function of points with `dim` coordinates.

    A pytree of the kernel's hyperparameters, the points x_i and the coefficients a_i. The points are held
    in blocks. A sum of functions holds each block of its terms once, with coefficients added, as far as
    blocks are known to have the same points:

    * outside jit, if the points are equal;
    * while JAX traces, when values are not known, if they are one array, or the same slices of one.

    What is not recognised is appended: the sum is right, but longer; `merge` mends that outside jit. The
    zero function has no blocks.

    Args:
        kernel: of the space that f is in.
        points: the x_i, shape (n, dim). Without points, f is the zero function.
        coefficients: the a_i, shape (n,).

    Raises:
        TypeError, ValueError: for what is no kernel, and for arrays that do not fit together.

    Example:
        >>> f = RKHSFun(SquaredExponential(), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
        >>> print(f"{f(jnp.array([0.0])):.4f} {norm_sq(f):.4f} {norm_sq(f - 0.5 * f):.4f}")
        0.8647 1.7293 0.4323

    Source: slides "User-defined types: reproducing kernel Hilbert space".
    """

    kernel: Kernel
    blocks: tuple[Block | Argument, ...]  # all with different keys
    dim: int | None  # None only for a zero function of whatever points

    def __init__(
        self, kernel: Kernel, points: ArrayLike | None = None, coefficients: ArrayLike | None = None
    ) -> None:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"RKHSFun: kernel must be a Kernel, got {kernel!r}")
        if (points is None) != (coefficients is None):
            raise TypeError("RKHSFun: give points and coefficients, or neither for the zero function")
        if points is None or coefficients is None:
            self._set(kernel, (), None)
            return
        points, coefficients = floating(points), floating(coefficients)
        if points.ndim != 2 or coefficients.shape != points.shape[:1]:
            raise ValueError(
                "RKHSFun: points must have shape (n, dim) and coefficients (n,), got "
                f"{points.shape} and {coefficients.shape}"
            )
        self._set(kernel, (Block(points, coefficients),), points.shape[1])

    @classmethod
    def zero(cls, kernel: Kernel, dim: int | None = None) -> "RKHSFun":
        """The zero function, without atoms, of points with `dim` coordinates."""
        return cls.of_blocks(kernel, (), dim)

    @classmethod
    def of_blocks(cls, kernel: Kernel, blocks: Iterable[Block | Argument], dim: int | None) -> "RKHSFun":
        """The sum of blocks of atoms, those with the same points put together."""
        merged = {}
        for block in blocks:
            same = merged.get(block.key)
            merged[block.key] = block if same is None else same.plus(block)
        return object.__new__(cls)._set(kernel, tuple(merged.values()), dim)

    @property
    def points(self) -> Float[Array, "n dim"]:
        """All x_i, in the order of the coefficients."""
        points = [block.points for block in self.atoms("points")]
        if len(points) == 1:
            return points[0]  # the very array, so that a sum recognises it again
        return jnp.concatenate(points) if points else jnp.zeros((0, self.dim or 0))

    @property
    def coefficients(self) -> Float[Array, " n"]:
        """All a_i."""
        coefficients = [block.coefficients for block in self.atoms("coefficients")]
        return jnp.concatenate(coefficients) if coefficients else jnp.zeros(0)

    @property
    def dtype(self) -> np.dtype | None:
        """Of values, unless points are of a wider one; None for a zero function, whose values are like x."""
        parts = [block.parts for block in self.blocks], self.kernel
        strong = [leaf.dtype for leaf in jax.tree.leaves(parts) if not jax.typeof(leaf).weak_type]
        return jnp.result_type(*strong) if strong else None

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        """f(x) = sum_i a_i k(x_i, x), for one point of shape (dim,) or many of shape (..., dim)."""
        x = floating(x)
        if x.ndim == 0:
            raise ValueError("RKHSFun: a point has shape (dim,), got a number x: write f(x[..., None])")
        if self.dim not in (None, x.shape[-1]):
            raise ValueError(
                f"RKHSFun: f is a function of {self.dim} coordinates, got points of shape {x.shape}, whose "
                "last axis should be the coordinates"
            )
        value = jnp.zeros(x.shape[:-1], x.dtype if self.dtype is None else jnp.result_type(x, self.dtype))
        arguments, atoms = self.split()
        for argument in arguments:
            value = value + evaluate_argument(argument, x)
        if atoms.blocks:
            value = value + _evaluate(self.kernel, atoms.points, atoms.coefficients, x)
        return value

    def __add__(self, other: Any) -> "RKHSFun":
        if is_start_of_sum(other):
            return self
        if not isinstance(other, RKHSFun):
            return NotImplemented
        kernel, dim, _ = common_space(self, other)
        return RKHSFun.of_blocks(kernel, self.blocks + other.blocks, dim)

    def __mul__(self, factor: Any) -> "RKHSFun":
        factor = number(factor)
        return RKHSFun.of_blocks(self.kernel, [block.scaled(factor) for block in self.blocks], self.dim)

    def __repr__(self) -> str:
        return f"RKHSFun({self.kernel!r}, {' + '.join(map(repr, self.blocks)) or 'zero'})"

    def _set(self, kernel, blocks, dim):
        for name, value in (("kernel", kernel), ("blocks", blocks), ("dim", dim)):
            object.__setattr__(self, name, value)
        return self

    def split(self) -> tuple[list[Argument], "RKHSFun"]:
        """The arguments of a loss that f contains, and the rest of f."""
        arguments = [block for block in self.blocks if isinstance(block, Argument)]
        rest = [block for block in self.blocks if isinstance(block, Block)]
        return arguments, RKHSFun.of_blocks(self.kernel, rest, self.dim)

    def joined(self) -> "RKHSFun":
        """The same with all atoms in one block: quicker to evaluate, but points are not recognised."""
        arguments, rest = self.split()
        if len(rest.blocks) < 2:
            return self
        return RKHSFun.of_blocks(self.kernel, [*arguments, Block(rest.points, rest.coefficients)], self.dim)

    def atoms(self, reading: str = "atoms") -> list[Block]:
        """The blocks, of an f that is known by its atoms."""
        atoms = []
        for block in self.blocks:
            if isinstance(block, Argument):
                raise TypeError(
                    f"rkhs.grad: the loss reads f.{reading}. That has no derivative with respect to f as a "
                    "function, which can be written as a sum of atoms in many ways. Way out: evaluate f, or "
                    "use inner and norm_sq; give constants, such as points, to the loss as further arguments"
                )
            if block.points.ndim != 2:
                raise ValueError(
                    f"RKHSFun: its points have shape {block.points.shape}, not (n, dim): it is a batch of "
                    "functions, as vmap makes them. Way out: use it within jax.vmap, or take one of them by "
                    "jax.tree.map"
                )
            atoms.append(block)
        return atoms

    def tree_flatten_with_keys(self):
        names = ("kernel", "blocks")
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return children, _Layout(self.dim, len(self.blocks))

    @classmethod
    def tree_unflatten(cls, layout, children):
        kernel, blocks = children
        return object.__new__(cls)._set(kernel, blocks, layout.dim)


def as_function(f: Any) -> RKHSFun:
    """The RKHSFun that f is, or is a form of."""
    function = f if isinstance(f, RKHSFun) else getattr(f, "function", None)
    if not isinstance(function, RKHSFun):
        raise TypeError(f"rkhs: expected a function of a reproducing kernel Hilbert space, got {f!r}")
    return function


def floating(x: ArrayLike) -> Float[Array, "..."]:
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"rkhs: points and coefficients are real, got {x.dtype}")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


@jax.jit  # fused, see kernels._gram
def _evaluate(kernel, points, coefficients, x):
    gram = kernel.gram(x.reshape(-1, x.shape[-1]), points)
    return jnp.matmul(gram, coefficients, precision=PRECISION).reshape(x.shape[:-1])


def common_space(f: RKHSFun, g: RKHSFun) -> tuple[Kernel, int | None, bool | Array]:
    """The kernel and the dimension of both, and whether kernels agree: True, or for the run to find out."""
    if f.dim != g.dim and None not in (f.dim, g.dim):
        raise ValueError(
            f"rkhs: functions of {f.dim} and of {g.dim} coordinates have no sum or inner product"
        )
    same = agree(f.kernel, g.kernel)
    if same is False:
        raise ValueError(
            f"rkhs: functions of different spaces have no sum or inner product: {f.kernel} and {g.kernel}"
        )
    return nan_unless(same, f.kernel), f.dim or g.dim, same


def agree(a: Any, b: Any) -> bool | Array:
    """Whether two pytrees are equal; a traced array if that is for the run to find out."""
    (xs, tree), (ys, tree_of_b) = jax.tree.flatten(a), jax.tree.flatten(b)
    if tree != tree_of_b or any(jnp.shape(x) != jnp.shape(y) for x, y in zip(xs, ys, strict=True)):
        return False
    others = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not y]
    is_traced = lambda pair: any(isinstance(x, jax.core.Tracer) for x in pair)
    if not all(np.array_equal(*pair) for pair in others if not is_traced(pair)):
        return False
    traced = [jnp.all(jnp.equal(*pair)) for pair in others if is_traced(pair)]
    return jnp.stack(traced).all() if traced else True


def nan_unless(same: bool | Array, tree: Any) -> Any:
    """A pytree of numbers, NaN where what should agree turns out not to."""
    return tree if same is True else jax.tree.map(lambda x: jnp.where(same, x, jnp.nan), tree)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What of an RKHSFun is no array; JAX shows it where the structures of two functions differ."""

    dim: int | None
    blocks: int

    def __repr__(self):
        return (
            f"dim={self.dim}, {self.blocks} blocks of points (a function that a loop carries must keep its "
            "points: use a DictionaryFun or a BufferedFun)"
        )
