"""What derivatives of second and higher order cost: chainrule.core beside what JAX offers.

    python benchmarks/core_operators.py            about five minutes
    python benchmarks/core_operators.py --quick    one minute, to see that it runs

First, products with the Hessian and the Gauss-Newton matrix of a perceptron with 1e6 parameters, as
multiples of the time of its gradient; medians over interleaved rounds, in float32.

Second, the N-th derivative of a scalar function along one direction: contract beside
jax.experimental.jet and nested jax.jvp. Operations are equations of the traced program, seconds those
to trace, lower and compile it once, and the value is that of nested jvp, or of jet beyond its reach.

Third, the largest eigenvalue of that Hessian and the log-determinant of a kernel matrix: seconds, and
the error beside the one that is reported.
"""

import argparse
import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet

from chainrule.core.krylov import largest_eigenvalue
from chainrule.core.logdet import logdet_slq
from chainrule.core.operators import contract, ggnvp, hvp
from chainrule.core.status import Status

TOO_SLOW = 30.0  # seconds to compile, at which a rival drops out of the race to higher orders


def perceptron(sizes, rng):
    shapes = itertools.pairwise(sizes)
    return [jnp.asarray(rng.normal(size=shape) / math.sqrt(shape[0]), "float32") for shape in shapes]


def model(weights, inputs):
    for W in weights[:-1]:
        inputs = jnp.tanh(inputs @ W)
    return inputs @ weights[-1]


def cross_entropy(logits):
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def loss(weights, inputs):
    return cross_entropy(model(weights, inputs))


def time_products(rounds, batch=256):
    rng = np.random.default_rng(0)
    weights, v = (perceptron((256, 640, 640, 640, 16), rng) for _ in range(2))
    inputs = jnp.asarray(rng.normal(size=(batch, 256)), "float32")
    size = sum(W.size for W in weights)
    four = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), v)
    runs = {
        "gradient": jax.grad(loss),
        "hvp(f, x, v)": lambda w, inputs: hvp(loss, w, v, args=(inputs,)),
        "four of hvp(f, x)": lambda w, inputs: jax.lax.map(hvp(loss, w, args=(inputs,)), four),
        "four of hvp(f, x, v)": lambda w, inputs: jax.lax.map(
            lambda v: hvp(loss, w, v, args=(inputs,)), four
        ),
        "ggnvp(f, g, x, v)": lambda w, inputs: ggnvp(model, cross_entropy, w, v, args=(inputs,)),
        "reverse over reverse": lambda w, inputs: jax.vjp(lambda w: jax.grad(loss)(w, inputs), w)[1](v)[0],
    }
    compiled = {name: jax.jit(run).lower(weights, inputs).compile() for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(weights, inputs))
            times[name].append(1e3 * (time.perf_counter() - start))
    print(f"\nperceptron, {size / 1e6:.2f}e6 parameters, batch {batch}, float32, {rounds} rounds")
    print(f"  {'':24}{'ms':>10}{'gradients':>12}{'temporary MB':>15}")
    for name, record in times.items():
        gradients = np.median(np.array(record) / np.array(times["gradient"]))
        memory = compiled[name].memory_analysis().temp_size_in_bytes / 1e6
        print(f"  {name:24}{np.median(record):10.1f}{gradients:12.2f}{memory:15.1f}")


def nested(f, x, v, n):
    for _ in range(n):
        f = lambda x, f=f: jax.jvp(f, (x,), (v,))[1]
    return f(x)


def by_jet(f, x, v, n):
    series = [v] + [jnp.zeros_like(v)] * (n - 1)
    return jet(f, (x,), (series,), factorial_scaled=False)[1][-1] * math.factorial(n)


def operations(jaxpr):
    inner = jax.extend.core.jaxprs_in_params
    return sum(1 + sum(map(operations, inner(equation.params))) for equation in jaxpr.eqns)


def compile_contractions(orders):
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=(64, 64)) / 8) for _ in range(3)]
    f = lambda x: jnp.sum(model(weights, x[None]))
    x, v = jnp.asarray(rng.normal(size=(2, 64)))
    methods = {
        "contract": lambda x, v, n: contract(f, x, [v] * n),
        "jet": lambda x, v, n: by_jet(f, x, v, n),
        "nested jvp": lambda x, v, n: nested(f, x, v, n),
    }
    print("\nN-th derivative along one direction, two layers of 64 tanh and a linear one, float64")
    print(
        f"  {'':4}"
        + "".join(f"{name + ': operations':>24}{'seconds':>9}" for name in methods)
        + f"{'differ by':>12}"
    )
    for n in orders:
        row, values = f"  {n:<4}", {}
        for name, method in list(methods.items()):
            start = time.perf_counter()
            traced = jax.jit(lambda x, v, n=n, method=method: method(x, v, n)).trace(x, v)
            values[name] = traced.lower().compile()(x, v)
            seconds = time.perf_counter() - start
            row += f"{operations(traced.jaxpr.jaxpr):24}{seconds:9.2f}"
            if seconds > TOO_SLOW:
                del methods[name]
        row += " " * 33 * (3 - len(values))
        rival = values.get("nested jvp", values.get("jet"))
        print(f"{row}{abs(values['contract'] / rival - 1):12.0e}", flush=True)


def time_krylov(n):
    rng = np.random.default_rng(0)
    weights, inputs = perceptron((10, 12, 12, 3), rng), jnp.asarray(rng.normal(size=(64, 10)), "float32")
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    exact = np.linalg.eigvalsh(jax.hessian(lambda flat: loss(unravel(flat), inputs))(flat))[-1]
    top = jax.jit(lambda key: largest_eigenvalue(key, hvp(loss, weights, args=(inputs,)), weights, steps=60))
    x = np.sort(rng.uniform(size=n))
    A = jnp.asarray(np.exp(-((x[:, None] - x) ** 2) / 0.02) + 0.1 * np.eye(n))
    logdet = jax.jit(lambda key, A: logdet_slq(key, lambda v: A @ v, A[0], steps=60))
    dense = jax.jit(lambda A: jnp.linalg.slogdet(A)[1])
    key = jax.random.key(0)

    def timed(f, *args):
        jax.block_until_ready(f(*args))
        start = time.perf_counter()
        return jax.block_until_ready(f(*args)), time.perf_counter() - start

    print(f"\n{'':40}{'seconds':>10}{'value':>12}{'error':>10}{'reported':>10}")
    pair, seconds = timed(top, key)
    row = f"{seconds:10.3f}{pair.value:12.4f}{abs(pair.value - exact):10.1e}{pair.residual:10.1e}"
    print(f"  {f'largest eigenvalue, {flat.size} rows':38}{row}  {Status(pair.status).name}")
    (value, seconds), (result, faster) = timed(dense, A), timed(logdet, key, A)
    print(f"  {f'log-determinant, {n} rows, dense':38}{seconds:10.3f}{value:12.2f}")
    row = f"{faster:10.3f}{result.value:12.2f}{abs(result.value - value):10.1e}{result.standard_error:10.1e}"
    print(f"  {'by 30 probes of 60 steps':38}{row}  {Status(result.status).name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, low orders, small matrices")
    quick = parser.parse_args().quick
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    time_products(3 if quick else 30)
    with jax.enable_x64(True):
        compile_contractions(range(1, 5) if quick else range(1, 13))
        time_krylov(500 if quick else 3000)


if __name__ == "__main__":
    main()
