"""Memory and time of a value with its hypergradient: reversal beside checkpointing and plain reverse mode.

    python benchmarks/hypergrad_memory_time.py            with all processors, then pinned to one: two minutes
    python benchmarks/hypergrad_memory_time.py --long     100,000 steps instead of 1000, by reversal alone
    python benchmarks/hypergrad_memory_time.py --quick    to see that it runs

On arrays as small as these, a second thread makes plain reverse mode faster and all else slower.

Training is of a perceptron 64-50-10 on scikit-learn's digits, 1000 steps with momentum 0.9 on batches of
100, in float32; derivatives are of the validation loss by initial weights, log L2 penalty and the learning
rate of each step. Memory is what XLA sets aside for temporaries, by compiled.memory_analysis(). Times are
medians over interleaved rounds after warm-up, so that a busy machine slows all of them alike.
"""

import argparse
import functools
import itertools
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from chainrule.hypergrad import train
from chainrule.hypergrad.methods import checkpointed_scan

MOMENTUM = 0.9


def digits():
    """Training and validation sets, centred, with one-hot labels."""
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = (x / 16 - (x / 16).mean(0))[rows].astype(np.float32), np.eye(10, dtype=np.float32)[y[rows]]
    return (x[:1000], y[:1000]), (x[1000:1400], y[1000:1400])


def initial(sizes):
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    shapes = itertools.pairwise(sizes)
    return [
        (0.1 * jax.random.normal(key, shape), jnp.zeros(shape[1]))
        for key, shape in zip(keys, shapes, strict=True)
    ]


def error(params, batch):
    x, y = batch
    for i, (w, b) in enumerate(params):
        x = x @ w + b
        x = jnp.tanh(x) if i + 1 < len(params) else x
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x) * y, -1))


def loss(params, log_l2, batch, key):
    return error(params, batch) + jnp.exp(log_l2) * sum(jnp.sum(w**2) for w in jax.tree.leaves(params))


def recursive(params, log_l2, rates, data, key, steps, levels):
    """The same training under `checkpointed_scan` with more levels than train offers."""

    def step(carry, at):
        params, velocity = carry
        t, rate = at
        rows = jax.random.randint(jax.random.fold_in(key, t), (100,), 0, len(data[0]))
        gradient = jax.grad(loss)(params, log_l2, tuple(x[rows] for x in data), None)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - (1 - MOMENTUM) * g, velocity, gradient)
        return jax.tree.map(lambda x, v: x + rate * v, params, velocity), velocity

    start = params, jax.tree.map(jnp.zeros_like, params)
    return checkpointed_scan(step, start, (jnp.arange(steps), rates), levels)[0]


def runs(steps, data, valid, only=""):
    """Name -> compiled value and hypergradient, of the methods whose names begin so."""
    key = jax.random.key(1)
    settings = dict(batch_size=100, key=key, steps=steps)
    by_train = lambda **method: (
        lambda params, log_l2, rates, data: (
            train(loss, params, log_l2, rates, MOMENTUM, data=data, **settings, **method).params
        )
    )
    trainings = {
        "reverse mode": by_train(method="naive"),
        "checkpoints, 2 levels": by_train(method="checkpoint"),
        "checkpoints, 3 levels": functools.partial(recursive, key=key, steps=steps, levels=3),
        "reversible, single": by_train(precision="single"),
        "reversible, double": by_train(precision="double"),
    }
    arguments = initial((64, 50, 10)), jnp.float32(-8.0), jnp.full(steps, 1.0), data
    for name, training in trainings.items():
        if not name.startswith(only):
            continue
        value = lambda *arguments, training=training: error(training(*arguments), valid)
        compiled = jax.jit(jax.value_and_grad(value, (0, 1, 2))).lower(*arguments).compile()
        yield name, (functools.partial(compiled, *arguments), compiled.memory_analysis().temp_size_in_bytes)


def long_training(steps=100_000):
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {steps} steps, once")
    for name, (run, size) in runs(steps, *digits(), only="reversible"):
        start = time.perf_counter()
        value, gradient = jax.block_until_ready(run())
        back = all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))  # else they are NaN
        seconds = time.perf_counter() - start
        print(f"{name:24}{size / 1e6:10.3f} MB{seconds:10.1f} s, value {value:.4f}, came back: {back}")


def _fraction(x, y):
    return f"1/{y / x:.1f}" if x < y else f"{x / y:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 steps, 3 rounds")
    parser.add_argument("--long", action="store_true", help="100,000 steps, by reversal, once")
    parser.add_argument("--one", action="store_true", help="pinned to one processor only")
    arguments = parser.parse_args()
    if arguments.long:
        return long_training()
    if arguments.one:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before XLA makes its threads
    side_by_side(
        arguments.quick, "pinned to one processor" if arguments.one else f"{os.cpu_count()} processors"
    )
    if not arguments.one and hasattr(os, "sched_setaffinity"):  # Linux has it
        subprocess.run([sys.executable, __file__, "--one", *["--quick"] * arguments.quick], check=True)


def side_by_side(quick, processors):
    steps, rounds = (100, 3) if quick else (1000, 21)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {processors}; "
        f"{steps} steps, medians of {rounds} rounds",
        flush=True,
    )
    compiled = dict(runs(steps, *digits()))
    times = {name: [] for name in compiled}
    for _ in range(rounds + 1):
        for name, (run, _) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    medians = {name: np.median(record[1:]) for name, record in times.items()}
    plain, two = compiled["reverse mode"][1], compiled["checkpoints, 2 levels"][1]
    fast, slow = medians["reverse mode"], medians["checkpoints, 2 levels"]
    print(f"{'':24}{'MB':>10}{'reverse':>10}{'2 levels':>10}{'s':>10}{'reverse':>10}{'2 levels':>10}")
    for name, (_, size) in compiled.items():
        memory = f"{size / 1e6:10.3f}{_fraction(size, plain):>10}{_fraction(size, two):>10}"
        print(
            f"{name:24}{memory}{medians[name]:10.3f}{medians[name] / fast:10.2f}{medians[name] / slow:10.2f}"
        )


if __name__ == "__main__":
    main()
