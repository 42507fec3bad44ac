"""Products with higher derivatives, without the matrices and tensors they are made of.

    hvp(f, x, v)          H v,    H = the Hessian of a scalar function f
    ggnvp(f, g, x, v)     G v,    G = J_f^T H_g J_f, the generalised Gauss-Newton matrix of g(f(x))
    contract(f, x, vs)    the N-th derivative of f along N directions vs

    hvp(f, x), ggnvp(f, g, x)     the same as linear maps v -> H v, v -> G v, for many v at one x

x is any pytree. Its integer leaves are held fixed: their place in v is taken by float0 zeros, as in the
gradients of `jax.grad(f, allow_int=True)`, and so it is in what comes back.

Complex leaves are vectors over the real numbers, with the inner product Re sum conj(x_i) y_i of `PyTrees`. A
gradient is a vector of that space, so the conjugate of what `jax.grad` returns; J^T is the adjoint there.
H and G are symmetric in that inner product: what they are in real and imaginary parts, they are here.

Source: the slide "Higher order autodiff: efficient differential operators" of the talk The Chain Rule
Unchained (D. Maclaurin); Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 1994;
Martens, Deep learning via Hessian-free optimization, ICML 2010.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jaxtyping import Array, Float, PyTree

from chainrule.core._sharing import shared

LinearMap = Callable[[PyTree], PyTree]


@overload
def hvp(f: Callable[..., Float[Array, ""]], x: PyTree, v: None = None, *, args: tuple = ()) -> LinearMap: ...
@overload
def hvp(f: Callable[..., Float[Array, ""]], x: PyTree, v: PyTree, *, args: tuple = ()) -> PyTree: ...
def hvp(f, x, v=None, *, args=()):
    """Multiply a vector with the Hessian of f at x: H v, H_ij = d_i d_j f.

    The product is the derivative of the gradient along v,

        H v = d/dt grad f(x + t v)  at t = 0,

    by forward mode over reverse mode, in about three times the time of a gradient. For complex x, grad f is
    the conjugate of JAX's: f(x + t v) = f(x) + t Re <grad f, v> + t^2 / 2 Re <v, H v> + ...

    Args:
        f: a real scalar function f(x, *args).
        x: where, a pytree of arrays, real or complex.
        v: a vector like x. Without it you get the linear map v -> H v: what the gradient computes at x is
            computed once and kept, and each product takes only what is linear in v.
        args: what else f takes; not differentiated.

    Returns:
        H v, like x; or, without v, the function v -> H v.

    Raises:
        TypeError: if f is not a scalar function, if v is not like x.

    Example:
        >>> f = lambda x: x[0] ** 2 * x[1]
        >>> x = jnp.array([3.0, 5.0])
        >>> print(hvp(f, x, jnp.array([1.0, 0.0])))
        [10.  6.]
        >>> H = hvp(f, x)
        >>> print(jax.vmap(H)(jnp.eye(2)))
        [[10.  6.]
         [ 6.  0.]]

    Source: the slide's `hvp(f, x)` is `vjp(grad(f), x)`; H being symmetric, forward mode gives the same,
    with one reverse pass to store for instead of two.
    """
    point = _Point("hvp", f, x, args)

    def gradient(x):
        return _conjugate(jax.grad(point.f)(x))

    if v is not None:
        return point.tree(jax.jvp(gradient, (point.x,), (point.vector(v),))[1])
    _, product = jax.linearize(gradient, point.x)
    return lambda v: point.tree(product(point.vector(v)))


@overload
def ggnvp(
    f: Callable[..., PyTree], g: Callable | None, x: PyTree, v: None = None, *, args: tuple = ()
) -> LinearMap: ...
@overload
def ggnvp(
    f: Callable[..., PyTree], g: Callable | None, x: PyTree, v: PyTree, *, args: tuple = ()
) -> PyTree: ...
def ggnvp(f, g, x, v=None, *, args=()):
    """Multiply a vector with the generalised Gauss-Newton matrix of g(f(x)):

        G v = J^T H (J v),    J = df/dx at x,    H = the Hessian of g at f(x).

    G is the Hessian of g(f(x)) where f is replaced by its linearisation. It is symmetric, and positive
    semidefinite if g is convex, which the Hessian need not be: Re <v, G v> >= 0, for complex x, too. f runs
    forward once; J v, H and J^T cost about one more run of f each.

    Args:
        f: any function f(x, *args), such as a model: parameters -> predictions.
        g: a real scalar function of what f returns, such as a loss. None stands for half the squared norm,
            whose H is the identity: G = J^T J.
        x: where, a pytree of arrays.
        v: a vector like x; without it you get the linear map v -> G v, as in `hvp`.
        args: what else f takes; not differentiated. g may close over its data.

    Returns:
        G v, like x; or, without v, the function v -> G v.

    Raises:
        TypeError: if g is not a scalar function, if v is not like x.

    Example:
        >>> model = lambda w, inputs: jnp.tanh(inputs @ w)
        >>> inputs = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> print(ggnvp(model, None, jnp.zeros(2), jnp.array([1.0, 0.0]), args=(inputs,)))
        [1. 2.]

    Source: the slide's `ggnvp`, with f run once instead of three times.
    """
    point = _Point("ggnvp", f, x, args)
    y, pushforward = jax.linearize(point.f, point.x)
    pullback = jax.linear_transpose(lambda x: _inexact(pushforward(x)), point.x)
    g_hvp = hvp(_half_squared_norm if g is None else g, y)

    def product(v):
        pulled_back = pullback(_conjugate(_inexact(g_hvp(pushforward(point.vector(v))))))
        return point.tree(_conjugate(*pulled_back))

    return product if v is None else product(v)


def contract(f: Callable[..., PyTree], x: PyTree, vs: Sequence[PyTree], *, args: tuple = ()) -> PyTree:
    """Contract the N-th derivative of f at x with N directions:

        sum_{ijk...} (d_i d_j d_k ... f) u_i v_j w_k ...,    vs = (u, v, w, ...),

    which is d/dt of f along u, of that along v, and so on; the order does not matter. f may return any
    pytree and no derivative tensor is built. With no directions it is f(x).

    Forward mode is nested N deep, and what the levels have in common is computed once. For a repeated
    direction (the same arrays, as in `[v] * 8`) the number of operations, and with it the time to compile,
    then grows like N^3 rather than 3^N, and stays below that of `jax.experimental.jet` up to N = 11 or so
    (docs/operators.md). N different directions have 2^N mixed derivatives, all of which are needed.

    Args:
        f: a function f(x, *args) that jax.jit accepts.
        x: where, a pytree of arrays.
        vs: the directions, each a vector like x.
        args: what else f takes; not differentiated.

    Returns:
        A pytree like f(x).

    Raises:
        TypeError: if a direction is not like x.

    Example:
        >>> cube = lambda x: jnp.sum(x**3)
        >>> u, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])
        >>> print(contract(cube, jnp.array([5.0, 7.0]), [u, v, v]))  # 6 sum u v v
        18.0

    Source: the slide's `contract(f, x, vs)` starts from `grad(f)` and so has one index left over; it is
    `contract(jax.grad(f), x, vs)` here.
    """
    point = _Point("contract", f, x, args)
    if not vs:
        return f(x, *args)
    leaves = [jax.tree.leaves(v) for v in vs]  # held on to, so that an id belongs to one array only
    names = [tuple(map(id, arrays)) for arrays in leaves]
    directions = {name: point.vector(v) for name, v in zip(names, vs, strict=True)}

    def derivative(*x):
        return _inexact(point.f([*x]))

    for name in collections.Counter(names).elements():  # equal ones in a row: then more is shared
        derivative = shared(_along(derivative, directions[name]))
    return _filled(jax.eval_shape(point.f, point.x), derivative(*point.x))


def _along(f: Callable[..., list[Array]], v: list[Array]) -> Callable[..., list[Array]]:
    return lambda *x: jax.jvp(f, x, tuple(v))[1]


def _conjugate(arrays: list[Array]) -> list[Array]:
    """JAX's cotangents, which pair without conjugation, as vectors that pair by Re <x, y>, or back."""
    return [jnp.conj(array) for array in arrays]


def _half_squared_norm(y: PyTree) -> Float[Array, ""]:
    return jnp.sum(jnp.stack([jnp.sum((jnp.conj(leaf) * leaf).real) / 2 for leaf in _inexact(y)]))


# What can be differentiated in a pytree -----------------------------------------------------------


class _Point:
    """The floating leaves of x as a list, and f as a function of that list; the other leaves are fixed."""

    def __init__(self, name, f, x, args):
        if not callable(f):
            raise TypeError(f"{name}: f must be a function f(x, *args), got {f!r}")
        self.name, self.like, self.x = name, x, [jnp.asarray(leaf) for leaf in _inexact(x)]
        if not self.x:
            raise TypeError(f"{name}: x = {x!r} has no floating leaf: there is nothing to differentiate by")

        def f_of_list(arrays):
            arrays = iter(arrays)
            return f(jax.tree.map(lambda leaf: next(arrays) if _is_inexact(leaf) else leaf, x), *args)

        self.f = f_of_list

    def vector(self, v: PyTree) -> list[Array]:
        """v as a list, once it is known to be like x."""
        if jax.tree.structure(v) != jax.tree.structure(self.like):
            raise TypeError(
                f"{self.name}: v has structure {jax.tree.structure(v)}, but x has "
                f"{jax.tree.structure(self.like)}: a direction has a number for each number of x"
            )
        pairs = zip(jax.tree_util.tree_leaves_with_path(self.like), jax.tree.leaves(v), strict=True)
        return [array for (path, x), v in pairs if (array := self._component(path, x, v)) is not None]

    def _component(self, path, x, v) -> Array | None:
        place = jax.tree_util.keystr(path)
        if not _is_inexact(x):
            if _dtype(v) != float0:
                raise TypeError(
                    f"{self.name}: x{place} is {_dtype(x)} and held fixed, so v{place} must be "
                    f"np.zeros({jnp.shape(x)}, jax.dtypes.float0), got {v!r}"
                )
            return None
        if jnp.shape(v) != jnp.shape(x) or jnp.result_type(v, x) != jnp.result_type(x):
            raise TypeError(
                f"{self.name}: v{place} is {_dtype(v)}{[*jnp.shape(v)]}, but x{place} is "
                f"{_dtype(x)}{[*jnp.shape(x)]}: make v like x"
            )
        return jnp.asarray(v, jnp.result_type(x))

    def tree(self, arrays: list[Array]) -> PyTree:
        """A list as a pytree like x."""
        return _filled(self.like, arrays)


def _filled(like: PyTree, arrays: list[Array]) -> PyTree:
    """Arrays in the places of floating leaves, float0 zeros in all others."""
    following = iter(arrays)
    return jax.tree.map(
        lambda leaf: next(following) if _is_inexact(leaf) else np.zeros(jnp.shape(leaf), float0), like
    )


def _inexact(tree: PyTree) -> list:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(_dtype(leaf), jnp.inexact)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
