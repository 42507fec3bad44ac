"""Hyperparameter gradients side by side: a minimum with 1000 penalties, by chainrule.core and by its peers.

    python benchmarks/core_argmin.py            some ten minutes
    python benchmarks/core_argmin.py --quick    a minute, smaller problems, to see that it runs

Inner problem: ridge and logistic regression, N = 1500 rows, d = 1000 weights, one log penalty per weight.
Outer: the gradient of the validation loss with respect to all penalties, float64, relative tolerance 1e-9.
Every method but Newton-CG iterates the same gradient step x - grad / L. Times are medians over interleaved
rounds after warm-up; errors are relative to dense Newton steps and a dense implicit solve. The ratio is
optimistix' default fixed point over the row: above one, the row is faster.

Then Anderson's steps beside Picard's, on maps that contract slowly.
"""

import argparse
import functools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.core import Anderson, NewtonCG, Picard, argmin, fixed_point

RTOL = 1e-9


def problem(rows, d, logistic):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * rows, d)) / np.sqrt(d)
    signal = X @ rng.normal(size=d)
    y = (
        (signal + rng.normal(size=2 * rows) > 0) * 1.0
        if logistic
        else signal + 0.5 * rng.normal(size=2 * rows)
    )
    data = X[:rows], y[:rows], X[rows:], y[rows:]
    largest = np.linalg.norm(X[:rows], 2) ** 2 * (0.25 if logistic else 1) + np.exp(0.3)
    return data, rng.uniform(-1.0, 0.3, size=d), 1 / largest


def losses(logistic):
    """The loss of weights on data, and the penalised one."""

    def fit(X, y, w):
        z = X @ w
        return jnp.sum(jnp.logaddexp(0, z) - y * z) if logistic else jnp.sum((z - y) ** 2) / 2

    def penalised(a, w):
        X, y, log_penalty = a
        return fit(X, y, w) + jnp.sum(jnp.exp(log_penalty) * w**2) / 2

    return fit, penalised


def exact_hypergradient(data, log_penalty, logistic):
    """By dense Newton steps and a dense implicit solve."""
    X, y, X_valid, y_valid = data
    w, penalty = np.zeros(X.shape[1]), np.exp(log_penalty)
    link = (lambda z: 1 / (1 + np.exp(-z))) if logistic else (lambda z: z)
    for _ in range(30):
        p = link(X @ w)
        H = X.T @ ((p * (1 - p) if logistic else np.ones_like(p))[:, None] * X) + np.diag(penalty)
        w = w - np.linalg.solve(H, X.T @ (p - y) + penalty * w)
    bar = X_valid.T @ (link(X_valid @ w) - y_valid)
    return -penalty * w * np.linalg.solve(H, bar)


def methods(penalised, eta):
    """Name -> solve(a, w0)."""
    step = lambda a, w: w - eta * jax.grad(penalised, argnums=1)(a, w)
    ours = lambda solver: lambda a, w0: argmin(penalised, a, w0, solver=solver, rtol=RTOL).value
    found = {
        "chainrule, Anderson": ours(Anderson(5, damping=eta)),
        "chainrule, Newton-CG (default)": ours(NewtonCG()),
        "chainrule, Picard": ours(Picard(eta)),
    }
    try:
        import lineax
        import optimistix

        def optx(linear_solver, a, w0):
            return optimistix.fixed_point(
                lambda w, a: step(a, w),
                optimistix.FixedPointIteration(rtol=RTOL, atol=RTOL),
                w0,
                args=a,
                adjoint=optimistix.ImplicitAdjoint(linear_solver),
                max_steps=5000,
            ).value

        found["optimistix, default"] = functools.partial(optx, lineax.AutoLinearSolver(None))
        found["optimistix, GMRES"] = functools.partial(optx, lineax.GMRES(RTOL, RTOL))
    except ImportError as missing:
        print(f"optimistix left out: {missing}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import jaxopt

        def picard(a, w0):
            return (
                jaxopt.FixedPointIteration(lambda w, a: step(a, w), maxiter=5000, tol=RTOL).run(w0, a).params
            )

        def anderson(a, w0):
            solver = jaxopt.AndersonAcceleration(lambda w, a: step(a, w), maxiter=5000, tol=RTOL)
            return solver.run(w0, a).params

        found["jaxopt, fixed point"] = picard
        found["jaxopt, Anderson"] = anderson
    except ImportError as missing:
        print(f"jaxopt left out: {missing}")
    return found


def compare(name, rows, d, rounds):
    logistic = name == "logistic"
    data, log_penalty, eta = problem(rows, d, logistic)
    exact = exact_hypergradient(data, log_penalty, logistic)
    fit, penalised = losses(logistic)
    runs = {}
    for method, solve in methods(penalised, eta).items():

        def validation(log_penalty, data, solve=solve):
            X, y, X_valid, y_valid = data
            return fit(X_valid, y_valid, solve((X, y, log_penalty), jnp.zeros(X.shape[1])))

        run = jax.jit(validation), jax.jit(jax.grad(validation))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jax.block_until_ready(run[0](log_penalty, data))
            gradient = np.asarray(run[1](log_penalty, data))
        runs[method] = (*run, np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    times = {method: ([], []) for method in runs}
    for _ in range(rounds):
        for method, (value, gradient, _) in runs.items():
            for run, record in zip((value, gradient), times[method], strict=True):
                start = time.perf_counter()
                jax.block_until_ready(run(log_penalty, data))
                record.append(1e3 * (time.perf_counter() - start))
    print(f"\n{name} regression, {rows} rows, {d} penalties, float64, rtol {RTOL:g}")
    print(f"  {'':32}{'value ms':>10}{'+ gradient ms':>15}{'faster by':>11}{'gradient error':>16}")
    reference = np.median(times.get("optimistix, default", times["chainrule, Picard"])[1])
    for method, (_, _, error) in runs.items():
        value, gradient = map(np.median, times[method])
        print(f"  {method:32}{value:10.1f}{gradient:15.1f}{reference / gradient:11.2f}{error:16.1e}")


def compare_steps(d=300):
    rng = np.random.default_rng(0)
    symmetric = rng.normal(size=(100, 100))
    symmetric = symmetric + symmetric.T
    tanh_map = lambda a, x: jnp.tanh(a[0] @ x + a[1])
    (X, y, _, _), log_penalty, eta = problem(2 * d, d, False)
    _, penalised = losses(False)
    maps = {
        "tanh, symmetric, rho 0.98": (
            tanh_map,
            (0.98 * symmetric / np.linalg.norm(symmetric, 2), 0.01 * rng.normal(size=100)),
            np.zeros(100),
            1e-10,
        ),
        "the talk's square root": (lambda a, x: x - 0.05 * (x**2 - a), 2.0, 3.0, 1e-12),
        f"ridge, d = {d}": (
            lambda a, w: w - eta * jax.grad(penalised, argnums=1)(a, w),
            (X, y, log_penalty),
            np.zeros(d),
            1e-9,
        ),
    }
    print(f"\nsteps{'':28}{'Picard':>8}{'Anderson(5)':>13}{'part':>7}")
    for name, (f, a, x0, rtol) in maps.items():

        def steps(solver, f=f, a=a, x0=x0, rtol=rtol):
            solve = lambda a: fixed_point(f, a, x0, solver=solver, rtol=rtol, max_steps=5000)
            return int(jax.jit(solve)(a).stats.steps)

        plain, fast = steps(Picard()), steps(Anderson(5))
        print(f"  {name:31}{plain:8}{fast:13}{fast / plain:7.0%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small problems, few rounds")
    quick = parser.parse_args().quick
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    with jax.enable_x64(True):
        compare_steps()
        for name in ("ridge", "logistic"):
            compare(name, *((150, 100, 3) if quick else (1500, 1000, 7)))


if __name__ == "__main__":
    main()
