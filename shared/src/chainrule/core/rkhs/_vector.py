"""What follows from a sum and from a product with a number, for every form of a function."""

from typing import Any

import jax.numpy as jnp


class Vector:
    """A subclass has `__add__` and `__mul__`."""

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError

    def __mul__(self, factor: Any) -> Any:
        raise NotImplementedError

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __sub__(self, other: Any) -> Any:
        return self + -other if isinstance(other, Vector) else NotImplemented

    def __neg__(self) -> Any:
        return self.__mul__(-1.0)

    def __rmul__(self, factor: Any) -> Any:
        return self.__mul__(factor)

    def __truediv__(self, divisor: Any) -> Any:
        return self.__mul__(1.0 / number(divisor))

    __array_ufunc__ = None  # numpy numbers leave `number * f` to __rmul__


def number(factor: Any) -> Any:
    """What a function can be multiplied by."""
    if isinstance(factor, Vector):
        raise TypeError("rkhs: a product of functions is not in their space. Way out: multiply their values")
    if jnp.shape(factor) != ():
        raise ValueError(f"rkhs: a function is scaled by one number, got shape {jnp.shape(factor)}")
    return factor


def is_start_of_sum(x: Any) -> bool:
    """Whether it is the 0 that Python's sum([f, g]) begins with."""
    return isinstance(x, int) and x == 0
