"""Fixed points side by side: value and gradient by chainrule.core and by its peers, in one process.

    python benchmarks/core_fixed_point.py            about four minutes
    python benchmarks/core_fixed_point.py --quick    half a minute, to see that it runs

The problem is x = tanh(W x + b), ||W||_2 = 0.95, the loss |x|^2 / 2, its gradient with respect to W
and b: 64 right-hand sides b under vmap with n = 100, in float64 and float32, then one of n = 2000
in float32. Every method gets the same tolerance, which jaxopt takes for an absolute one. Times are
medians over interleaved rounds after warm-up, so that a busy machine slows all of them alike;
errors are relative to a dense implicit solve in float64. A peer that is not installed, or cannot do
it, is left out with a line that says so.

Then the linear solve of a derivative, u = J u + b with n = 100, by fixed_point's Neumann series and
by JAX's Krylov methods, on Jacobians of several kinds: errors only.
"""

import argparse
import contextlib
import functools
import logging
import time
import warnings

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg
import numpy as np

from chainrule.core import fixed_point


def tanh_map(a, x):
    W, b = a
    return jnp.tanh(W @ x + b)


def ours(a, x0, rtol):
    return fixed_point(tanh_map, a, x0, rtol=rtol).value


# The fixed point that the JAX documentation writes by hand for its page on custom derivatives, in our
# words: iterate while far, and let the backward pass iterate the pullback.
def iterate(f, x, rtol):
    def far(pair):
        previous, x = pair
        return jnp.max(jnp.abs(x - previous)) > rtol * jnp.max(jnp.abs(x))

    return jax.lax.while_loop(far, lambda pair: (pair[1], f(pair[1])), (x, f(x)))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_hand(a, x0, rtol):
    return iterate(lambda x: tanh_map(a, x), x0, rtol)


def by_hand_forward(a, x0, rtol):
    x = by_hand(a, x0, rtol)
    return x, (a, x)


def by_hand_backward(rtol, saved, g):
    a, x = saved
    _, pull_x = jax.vjp(lambda x: tanh_map(a, x), x)
    u = iterate(lambda u: g + pull_x(u)[0], g, rtol)
    _, pull_a = jax.vjp(lambda a: tanh_map(a, x), a)
    return pull_a(u)[0], jnp.zeros_like(x)


by_hand.defvjp(by_hand_forward, by_hand_backward)


def peers():
    """Name -> solve(a, x0, rtol), for those that are here."""
    methods = {"by hand (custom_vjp)": by_hand, "chainrule.core": ours}
    try:
        import lineax
        import optimistix

        def optx(linear_solver, a, x0, rtol):
            return optimistix.fixed_point(
                lambda x, a: tanh_map(a, x),
                optimistix.FixedPointIteration(rtol=rtol, atol=rtol),
                x0,
                args=a,
                adjoint=optimistix.ImplicitAdjoint(linear_solver(rtol)),
                max_steps=1000,
            ).value

        dense, krylov = lambda _: lineax.AutoLinearSolver(None), lambda rtol: lineax.BiCGStab(rtol, rtol)
        methods["optimistix, default"] = functools.partial(optx, dense)
        methods["optimistix, BiCGStab"] = functools.partial(optx, krylov)
    except ImportError as missing:
        print(f"optimistix left out: {missing}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import jaxopt

        def jaxopt_picard(a, x0, rtol):
            solver = jaxopt.FixedPointIteration(lambda x, a: tanh_map(a, x), maxiter=5000, tol=rtol)
            return solver.run(x0, a).params

        methods["jaxopt, default"] = jaxopt_picard
    except ImportError as missing:
        print(f"jaxopt left out: {missing}")
    return methods


def problem(n, lanes, dtype):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(n, n))
    W *= 0.95 / np.linalg.norm(W, 2)
    return W.astype(dtype), rng.normal(size=(lanes, n)).astype(dtype)


def exact_gradient(W, bs):
    """By a dense implicit solve in float64, one right-hand side at a time."""
    W_bar, b_bars = np.zeros(W.shape), []
    for b in bs.astype(np.float64):
        x = np.zeros_like(b)
        for _ in range(1000):
            x = np.tanh(W @ x + b)
        slope = 1 - x**2
        u = np.linalg.solve(np.eye(x.size) - (slope[:, None] * W).T, x)
        W_bar += np.outer(slope * u, x)
        b_bars.append(slope * u)
    return W_bar, np.stack(b_bars)


def distance(gradient, exact):
    pairs = list(zip(gradient, exact, strict=True))
    return np.sqrt(sum(np.sum((g - e) ** 2) for g, e in pairs) / sum(np.sum(e**2) for _, e in pairs))


def compare(title, n, lanes, dtype, rtol, rounds):
    print(f"\n{title}, rtol {rtol:g}")
    W, bs = problem(n, lanes, dtype)
    exact = exact_gradient(W.astype(np.float64), bs)
    runs = {}
    for name, solve in peers().items():

        def loss(W, bs, solve=solve):
            xs = jax.vmap(lambda b: solve((W, b), jnp.zeros_like(b), rtol))(bs)
            return jnp.sum(xs**2) / 2

        run = jax.jit(loss), jax.jit(jax.grad(loss, argnums=(0, 1)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                jax.block_until_ready(run[0](W, bs))
                runs[name] = (*run, distance(jax.device_get(run[1](W, bs)), exact))
        except Exception as failure:  # a peer's failure is a result here, whatever its type
            with contextlib.suppress(Exception):
                jax.effects_barrier()  # or the same failure is told once more at exit
            error = [line for line in str(failure).splitlines() if "Error: " in line] or [str(failure)]
            print(f"  {name} left out: {error[-1][:200]}")

    times = {name: ([], []) for name in runs}
    for _ in range(rounds):
        for name, (value, gradient, _) in runs.items():
            for run, record in zip((value, gradient), times[name], strict=True):
                start = time.perf_counter()
                jax.block_until_ready(run(W, bs))
                record.append(1e3 * (time.perf_counter() - start))
    reference = np.median(times["by hand (custom_vjp)"][1])
    print(f"  {'':24}{'value ms':>10}{'+ gradient ms':>15}{'ratio':>8}{'gradient error':>16}")
    for name, (_, _, error) in runs.items():
        value, gradient = map(np.median, times[name])
        print(f"  {name:24}{value:10.3f}{gradient:15.3f}{gradient / reference:8.2f}{error:16.1e}")


def jacobians(n):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = rng.normal(size=(n, n))
    symmetric = matrix + matrix.T
    angles = rng.normal(size=n // 2)
    cos, sin = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    return {
        "random, norm 0.95": 0.95 * matrix / np.linalg.norm(matrix, 2),
        "rotations times 0.95": 0.95 * basis @ np.block([[cos, -sin], [sin, cos]]) @ basis.T,
        "far from normal": 0.5 * np.eye(n) + np.diag(np.full(n - 1, 3.0), 1),
        "zero": np.zeros((n, n)),
        "symmetric, norm 0.98": 0.98 * symmetric / np.linalg.norm(symmetric, 2),
        "symmetric, norm 1.5": 1.5 * symmetric / np.linalg.norm(symmetric, 2),
        "I - J singular": basis @ np.diag(np.r_[1.0, np.linspace(0, 0.9, n - 1)]) @ basis.T,
    }


def compare_linear_solves(n=100, rtol=1e-10):
    print(f"\nu = J u + b, n = {n}, float64, rtol {rtol:g}, at most 1000 steps; relative error, or lost")
    b = np.random.default_rng(1).normal(size=n)

    def krylov(method, **settings):
        def solve(J, b):
            A = lambda u: u - J @ u
            u, _ = method(A, b, tol=rtol, atol=0.0, **settings)
            missed = jnp.linalg.norm(A(u) - b) > 10 * rtol * jnp.linalg.norm(b)
            return jnp.where(missed, jnp.nan, u)

        return solve

    def neumann(J, b):  # the tangent along b, at the solution 0 of x = J x + 0
        solve = lambda a: fixed_point(lambda a, x: J @ x + a, a, jnp.zeros(n), rtol=rtol).value
        return jax.jvp(solve, (jnp.zeros(n),), (b,))[1]

    linalg = jax.scipy.sparse.linalg
    methods = {
        "fixed_point": neumann,
        "BiCGStab": krylov(linalg.bicgstab, maxiter=1000),
        "GMRES(20)": krylov(linalg.gmres, restart=20, maxiter=50),
    }
    print(f"  {'J':24}" + "".join(f"{name:>14}" for name in methods))
    for name, J in jacobians(n).items():
        exact = np.linalg.solve(np.eye(n) - J, b)
        solutions = [jax.jit(method)(J, b) for method in methods.values()]
        errors = [np.linalg.norm(u - exact) / np.linalg.norm(exact) for u in solutions]
        print(f"  {name:24}" + "".join(f"{e:14.1e}" if np.isfinite(e) else f"{'lost':>14}" for e in errors))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, no n = 2000")
    quick = parser.parse_args().quick
    rounds = 5 if quick else 200
    logging.getLogger("jax").setLevel(logging.CRITICAL)  # a peer's failure is told in one line
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}; ratio = value + gradient over by hand")
    with jax.enable_x64(True):
        compare_linear_solves()
        compare("n = 100, 64 lanes, float64", 100, 64, np.float64, 1e-10, rounds)
    compare("n = 100, 64 lanes, float32", 100, 64, np.float32, 1e-6, rounds)
    if not quick:
        compare("n = 2000, one lane, float32", 2000, 1, np.float32, 1e-6, rounds // 10)


if __name__ == "__main__":
    main()
