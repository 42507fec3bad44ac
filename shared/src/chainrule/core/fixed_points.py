"""Fixed points x = f(a, x), roots F(a, x) = 0 and minima of an objective, with their derivatives.

fixed_point(f, a, x0)         solve x = f(a, x), by iterating f from x0       -> Solution(value, aux, stats)
root(F, a, x0)                solve F(a, x) = 0, by Newton's method            -> Solution
argmin(objective, a, x0)      solve grad objective(a, x) = 0, going downhill    -> Solution

The value is differentiable as often as you like, in forward and reverse mode, without storing an
iterate and without building a Jacobian: the derivative of a fixed point is a fixed point too. How to
iterate is a `solver` (solvers.py, newton.py), how to differentiate an `adjoint` (adjoints.py).

Source: the slides "User-defined primitives: fixed point iteration" of the talk The Chain Rule
Unchained (D. Maclaurin).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from chainrule.core.adjoints import Adjoint, Implicit, OnFailure, System, nan_unless_converged
from chainrule.core.iteration import Problem, Solver, increment_problem, map_problem
from chainrule.core.newton import Newton, NewtonCG
from chainrule.core.solvers import Picard
from chainrule.core.status import Stats
from chainrule.core.tolerance import is_inexact, tolerance_for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """A solution and the record of how it was found."""

    value: PyTree  # like x0; NaN in lanes that failed, unless on_failure="ignore"
    aux: PyTree  # what the function returned beside its value, at `value`; None without has_aux
    stats: Stats  # no derivative flows through these


def fixed_point(
    f: Callable[[Any, PyTree], Any],
    a: Any,
    x0: PyTree,
    *,
    solver: Solver = Picard(),  # noqa: B008 (frozen)
    adjoint: Adjoint | Literal["auto"] = "auto",
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    max_steps: ArrayLike = 1000,
    has_aux: bool = False,
    on_failure: OnFailure = "nan",
) -> Solution:
    """Solve x = f(a, x) by iterating f from x0; differentiable with respect to a.

    Where x = x*(a) is the solution and J = df/dx there,

        dx* = (I - J)^-1 df/da da = (sum_n J^n) df/da da,

    so a tangent is itself the fixed point of u -> J u + df/da da, a cotangent that of
    u -> J^T u + g. Both are iterated by the routine that found x*, with the same rtol and max_steps:
    where x* attracts the iteration they converge as fast as it did, and memory stays that of a few
    copies of x. Iteration stops, in each vmap lane on its own, once

        max |f(a, x) - x| <= atol + rtol * max |f(a, x)|,

    x being measured as one vector: scale its leaves alike. The error is about rho / (1 - rho) times
    the last step, if a step shortens the error by rho.

    Args:
        f: the map. It may close over traced arrays: derivatives flow to those as well.
        a: anything f understands; its floating leaves can be differentiated.
        x0: where to start, a pytree of arrays, at least one of them floating or complex. Python numbers
            take the dtype that f returns. Integer leaves and keys go where f sends them, must settle too, and
            have no derivative. The solution does not depend on x0: its derivative with respect to it is zero.
        solver: how to iterate: `Picard(damping)`, `Anderson(history)`, which takes far fewer steps on slow
            maps, or `Newton()`.
        adjoint: how to differentiate: "auto" is `Implicit()`, the formula above, both modes and any order;
            `Neumann()`, the talk's custom vjp; `OneStep()`; `Unrolled()`.
        rtol: relative tolerance; default eps**(3/4) of the coarsest dtype in x (2e-12 in float64,
            6e-6 in float32), which leaves a quarter of the digits to rounding noise.
        atol: absolute tolerance in units of x; default 1e-38, or 1e-154 in float64. Give it when the
            solution may be zero: zero has no relative accuracy.
        max_steps: steps allowed, also for each linear solve of a derivative.
        has_aux: whether f returns (x, aux): anything else worth having, made of arrays. It costs one more
            evaluation of f, at the solution, and is differentiable.
        on_failure: what a lane becomes that does not converge, in value or derivative. "nan": NaN.
            "raise": a RuntimeError with the status and the way out, raised on the host when the
            result is computed; compiled code hands it on as jax.errors.JaxRuntimeError or, on JAX's
            fast path, as ValueError, with the same words. "ignore": whatever number there is.

    Returns:
        Solution: `value` like x0, `aux`, and `stats` with steps, residual and status.

    Raises:
        TypeError, ValueError: at once, for an f that does not map x0 to its like and for settings
            that make no sense.

    `rtol`, `atol`, `max_steps` and the numbers of a solver may be traced arrays, so new values compile
    nothing anew inside `jax.jit`. Outside jit each call is traced and compiled afresh: put jit around your
    own function, and give it large arrays as arguments: those it closes over are compiled in.

    Example:
        >>> newton = lambda a, x: 0.5 * (x + a / x)
        >>> root = lambda a: fixed_point(newton, a, 1.0).value
        >>> print(f"{root(4.0):.4f} {jax.grad(root)(4.0):.4f} {jax.hessian(root)(4.0):.5f}")
        2.0000 0.2500 -0.03125
    """
    _check_callable("fixed_point: f", f)
    traced = _traced("fixed_point: f", f, a, x0, has_aux)
    problem = lambda params: map_problem(lambda x: traced.value(params, x))
    return _solve("fixed_point", problem, traced, solver, adjoint, rtol, atol, max_steps, on_failure)


def root(
    F: Callable[[Any, PyTree], Any],
    a: Any,
    x0: PyTree,
    *,
    solver: Solver = Newton(),  # noqa: B008 (frozen)
    adjoint: Adjoint | Literal["auto"] = "auto",
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    max_steps: ArrayLike = 1000,
    has_aux: bool = False,
    on_failure: OnFailure = "nan",
) -> Solution:
    """Solve F(a, x) = 0 from x0; differentiable with respect to a.

    With A = dF/dx at the solution, dx* = -A^-1 dF/da da. A is known by its products only. Iteration stops
    once a step of the solver is within atol + rtol * max |x|.

    Args:
        F: the function, with values like x: as many, of the same structure, shapes and dtypes.
        a, rtol, atol, max_steps, has_aux, on_failure: as in `fixed_point`.
        x0: where to start, a pytree of floating or complex arrays.
        solver: `Newton(linear_solver)`; or `Picard(damping)` and `Anderson(damping=...)`, which iterate
            x <- x - damping * F(a, x).
        adjoint: as in `fixed_point`. "auto" solves the linear system by the linear solver of Newton, GMRES
            unless told otherwise, or else like the iteration itself.

    Returns:
        Solution, as `fixed_point` does.

    Raises:
        TypeError, ValueError: at once, for an F whose value is unlike x0 and for settings that make no sense.

    Example:
        >>> cube_root = lambda a: root(lambda a, x: x**3 - a, a, 1.0).value
        >>> print(f"{cube_root(8.0):.4f} {jax.grad(cube_root)(8.0):.5f}")
        2.0000 0.08333
    """
    _check_callable("root: F", F)
    traced = _traced("root: F", F, a, x0, has_aux)
    _refuse_integers("root", traced.x0)
    problem = lambda params: increment_problem(lambda x: jax.tree.map(jnp.negative, traced.value(params, x)))
    return _solve("root", problem, traced, solver, adjoint, rtol, atol, max_steps, on_failure)


def argmin(
    objective: Callable[[Any, PyTree], Any],
    a: Any,
    x0: PyTree,
    *,
    solver: Solver = NewtonCG(),  # noqa: B008 (frozen)
    adjoint: Adjoint | Literal["auto"] = "auto",
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    max_steps: ArrayLike = 1000,
    has_aux: bool = False,
    on_failure: OnFailure = "nan",
) -> Solution:
    """Find a local minimum x of objective(a, x) from x0; differentiable with respect to a.

    With the Hessian H at the minimum, dx* = -H^-1 d/da (grad objective) da. H is known by its products only.
    Iteration stops once a step of the solver is within atol + rtol * max |x|.

    Args:
        objective: a smooth real function.
        a, rtol, atol, max_steps, has_aux, on_failure: as in `fixed_point`.
        x0: where to start, a pytree of floating arrays.
        solver: `NewtonCG()`, which goes downhill from any start; or `Picard(damping)`, gradient descent with
            that step size, and `Anderson(damping=...)`, its acceleration: best with a step size near one over
            the largest curvature. They stop wherever the gradient is zero, and none gets away from a start
            where it is exactly zero, such as a maximum, or the origin of a product of factors.
        adjoint: as in `fixed_point`. "auto" solves the linear system by conjugate gradients after NewtonCG,
            or else like the iteration itself.

    Returns:
        Solution, as `fixed_point` does.

    Raises:
        TypeError, ValueError: at once, for an objective that is no real number and for settings that make
            no sense.

    Example:
        >>> ridge = lambda a, x: jnp.sum((x - 3) ** 2) + a * jnp.sum(x**2)
        >>> best = lambda a: argmin(ridge, a, jnp.zeros(())).value  # 3 / (1 + a)
        >>> print(f"{best(0.5):.4f} {jax.grad(best)(0.5):.4f}")
        2.0000 -1.3333
    """
    _check_callable("argmin: objective", objective)
    traced = _traced("argmin: objective", objective, a, x0, has_aux, scalar=True)
    _refuse_integers("argmin", traced.x0, complex_too=True)

    def problem(params):
        value = lambda x: traced.value(params, x)
        downhill = lambda x: jax.tree.map(jnp.negative, jax.grad(value)(x))
        return increment_problem(downhill, value)

    return _solve("argmin", problem, traced, solver, adjoint, rtol, atol, max_steps, on_failure)


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A user's function of x, with every array it depends on beside x made an explicit argument."""

    value: Callable[[list, PyTree], PyTree]  # of params and x
    aux: Callable[[list, PyTree], PyTree]
    params: list  # arrays
    x0: PyTree  # with the dtypes that the function keeps


def _solve(
    caller: str,
    problem: Callable[[list], Problem],
    traced: _Traced,
    solver: Any,
    adjoint: Any,
    rtol: Any,
    atol: Any,
    max_steps: Any,
    on_failure: Any,
) -> Solution:
    if on_failure not in get_args(OnFailure):
        raise ValueError(f"{caller}: on_failure must be one of {get_args(OnFailure)}, got {on_failure!r}")
    if isinstance(solver, type) or not isinstance(solver, Solver):
        raise TypeError(f"{caller}: solver must be Picard(), Anderson() or Newton(), got {solver!r}")
    if adjoint == "auto":
        adjoint = Implicit()
    if isinstance(adjoint, type) or not isinstance(adjoint, Adjoint):
        raise TypeError(
            f"{caller}: adjoint must be 'auto', Implicit(), Neumann(), OneStep() or Unrolled(), "
            f"got {adjoint!r}"
        )
    tolerance = lax.stop_gradient(tolerance_for(traced.x0, rtol, atol, max_steps, caller))
    system = System(caller, problem, traced.params, _stopped(solver), tolerance, max_steps, on_failure)
    x, stats = adjoint.solution(system, lax.stop_gradient(traced.x0))
    aux = traced.aux(traced.params, x)
    return Solution(x, aux if on_failure == "ignore" else nan_unless_converged(aux, stats), stats)


def _stopped(solver: Solver) -> Solver:
    """No derivative flows through settings; Python numbers stay what they are."""
    return jax.tree.map(lambda s: lax.stop_gradient(s) if isinstance(s, jax.Array) else s, solver)


# Static checks -------------------------------------------------------------------------------------


def _traced(name: str, f: Callable, a: Any, x0: PyTree, has_aux: bool, scalar: bool = False) -> _Traced:
    """f(a, .) as a jaxpr, once its value is known to be like x0, or to be a real number."""
    caller = name.split(":")[0]
    x0 = jax.tree.map(jnp.asarray, x0)
    if not jax.tree.leaves(x0):
        raise ValueError(f"{caller}: x0 = {x0!r} has no arrays in it: nothing to solve for")

    def pair(x):
        result = f(a, x)
        if not has_aux:
            return result, None
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"{name} must return (value, aux) with has_aux=True, got {type(result).__name__}")
        return result

    def trace(x0):
        jaxpr, (value, aux) = jax.make_jaxpr(pair, return_shape=True)(x0)
        if scalar:
            if jax.tree.structure(value) != jax.tree.structure(0) or value.shape != () or not is_real(value):
                raise TypeError(f"{name} must return one real number, got {value}")
        elif jax.tree.structure(value) != jax.tree.structure(x0):
            raise TypeError(
                f"{name}(a, x0) has structure {jax.tree.structure(value)}, but x0 has "
                f"{jax.tree.structure(x0)}: make it return what it is given"
            )
        return jaxpr, value, aux

    def strong(x, like):  # a Python number has no dtype of its own: it takes the one that f returns
        takes = jax.typeof(x).weak_type and not (jnp.iscomplexobj(x) and is_real(like))
        return jnp.asarray(x, dtype=like.dtype if takes else x.dtype)

    is_real = lambda value: jnp.issubdtype(value.dtype, jnp.floating)
    jaxpr, value, aux = trace(x0)
    if any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(x0)):
        like = jax.tree.map(lambda _: value, x0) if scalar else value
        x0 = jax.tree.map(strong, x0, like)
        jaxpr, value, aux = trace(x0)

    if not any(is_inexact(leaf) for leaf in jax.tree.leaves(x0)):
        dtypes = ", ".join(str(leaf.dtype) for leaf in jax.tree.leaves(x0))
        raise TypeError(f"{caller}: x0 is {dtypes}, which has no derivative: pass a floating x0")

    def check(path, x, y):
        where = f"x0{jax.tree_util.keystr(path)}"
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise TypeError(
                f"{caller}: {where} is {x.dtype}{list(x.shape)}, but {name.split()[1]}(a, x0) makes of it "
                f"{y.dtype}{list(y.shape)}: make it return what it is given, or pass such an x0"
            )

    if not scalar:
        jax.tree_util.tree_map_with_path(check, x0, value)
    structure = jax.tree.structure((value, aux))

    def both(params, x):
        closed = jax.extend.core.ClosedJaxpr(jaxpr.jaxpr, params)
        leaves = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves(x))
        return jax.tree.unflatten(structure, leaves)

    aux_of = (lambda params, x: both(params, x)[1]) if has_aux else (lambda params, x: None)
    return _Traced(lambda params, x: both(params, x)[0], aux_of, list(jaxpr.consts), x0)


def _check_callable(name: str, f: Any) -> None:
    if not callable(f):
        caller, f_name = name.split(": ")
        raise TypeError(f"{caller}: {f_name} must be a function {f_name}(a, x), got {f!r}")


def _refuse_integers(caller: str, x0: PyTree, complex_too: bool = False) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(x0):
        where = f"x0{jax.tree_util.keystr(path)}"
        if not is_inexact(leaf):
            raise TypeError(
                f"{caller}: {where} is {leaf.dtype}: pass a floating {where}, and keep integers in a"
            )
        if complex_too and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"{caller}: {where} is {leaf.dtype}: pass its real and imaginary parts as two arrays"
            )
