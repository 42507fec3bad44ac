"""Linear dynamical systems: chainrule.svae.messages beside dynamax, in one process.

    python benchmarks/svae_messages.py                     about three minutes
    python benchmarks/svae_messages.py --quick             one, with fewer rounds
    python benchmarks/svae_messages.py --cases 8,shared    some of them

The smoother's moments, cross-covariances and log normaliser, and the value and gradient of the log normaliser
with respect to dynamics and observations, in float32. Every state is observed, with full noise covariance.
Times are those of all the process's threads together, the lower quartile of interleaved rounds; seconds to
compile stand beside them.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSM,
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
    lgssm_filter,
    lgssm_smoother,
)

from chainrule.svae.messages import LDS, lds_log_normaliser, lds_smoother, observe

CASES = [(1000, 2, 0), (1000, 8, 0), (1000, 32, 0), (300, 8, 64)]  # frames, dimension, batch


def problem(T, D, batch, rng):
    A = 0.98 * np.linalg.qr(rng.normal(size=(D, D)))[0]
    leading = (batch,) if batch else ()
    W = rng.normal(size=(*leading, D, D))
    R = 0.5 * np.eye(D) + 0.1 * W @ np.swapaxes(W, -1, -2) / D
    y = rng.normal(size=(*leading, T, D))
    return [jnp.asarray(x, jnp.float32) for x in (A, R, y)]


def ours(A, R, y):
    eye = jnp.eye(len(A), dtype=A.dtype)
    return LDS(jnp.zeros_like(y[0]), eye, A, 0.1 * eye), observe(y, None, R)


def theirs(A, R, y):
    D = len(A)
    eye, none, zero = jnp.eye(D, dtype=A.dtype), jnp.zeros((D, 0), A.dtype), jnp.zeros(D, A.dtype)
    return ParamsLGSSM(
        initial=ParamsLGSSMInitial(zero, eye),
        dynamics=ParamsLGSSMDynamics(A, zero, none, 0.1 * eye),
        emissions=ParamsLGSSMEmissions(eye, zero, none, R),
    )


def our_smoother(A, R, y):
    return lds_smoother(*ours(A, R, y))


def our_value(A, R, y):
    return lds_log_normaliser(*ours(A, R, y))


def their_smoother(A, R, y):
    found = lgssm_smoother(theirs(A, R, y), y)
    moments = found.smoothed_means, found.smoothed_covariances, found.smoothed_cross_covariances
    return *moments, found.marginal_loglik


def their_value(A, R, y):
    return lgssm_filter(theirs(A, R, y), y).marginal_loglik


def gradient(value, axes):
    if axes is None:
        return jax.value_and_grad(value, (0, 2))
    total = lambda A, R, y: jnp.sum(jax.vmap(value, axes)(A, R, y))
    return jax.value_and_grad(total, (0, 2))


def compiled(f, args):
    start = time.process_time()
    program = jax.jit(f).lower(*args).compile()
    return program, time.process_time() - start


def race(name, pair, args, rounds):
    programs, seconds = zip(*(compiled(f, args) for f in pair), strict=True)
    times = [[], []]
    for _ in range(rounds):
        for record, program in zip(times, programs, strict=True):
            start = time.process_time()
            jax.block_until_ready(program(*args))
            record.append(1e3 * (time.process_time() - start))
    mine, other = (np.percentile(record[1:], 25) for record in times)
    print(
        f"  {name:48}{mine:10.2f}{other:12.2f}{other / mine:8.1f}{seconds[0]:10.1f}{seconds[1]:8.1f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--cases", default="2,8,32,own,shared", help="dimensions, and kinds of batches")
    settings = parser.parse_args()
    chosen = settings.cases.split(",")
    rng = np.random.default_rng(0)
    heads = "ms ours", "ms dynamax", "ratio", "compile s", "theirs"
    print(f"  {'':48}{heads[0]:>10}{heads[1]:>12}{heads[2]:>8}{heads[3]:>10}{heads[4]:>8}")
    for T, D, batch in CASES:
        A, R, y = problem(T, D, batch, rng)
        rounds = max(6, (40 if settings.quick else 200) // max(1, D // 4))
        if not batch and str(D) in chosen:
            title = f"{T} frames, dimension {D}"
            race(f"{title}: smoother", (our_smoother, their_smoother), (A, R, y), rounds)
            race(
                f"{title}: value and gradient",
                [gradient(f, None) for f in (our_value, their_value)],
                (A, R, y),
                rounds,
            )
        for case, word, args, axes in (
            ("own", "own noise", (A, R, y), (None, 0, 0)),
            ("shared", "shared parameters", (A, R[0], y), (None, None, 0)),
        ):
            if not batch or case not in chosen:
                continue
            title = f"{batch} x {T} frames, dimension {D}, {word}"
            race(title, [jax.vmap(f, axes) for f in (our_smoother, their_smoother)], args, rounds // 2)
            race(
                f"{'':4}value and gradient",
                [gradient(f, axes) for f in (our_value, their_value)],
                args,
                rounds // 2,
            )


if __name__ == "__main__":
    main()
