"""Chains on the host: warm-up, chunks that are replayed when they run out of room, results.

    run = sample(key, kernel, position, num_chains=4, num_warmup=1000, num_samples=1000)
    run.draws["theta"]     (chain, draw, *shape)
    print(run.summary())

Capacity is no setting of the chain's law: a chunk in which bright points found no room is thrown away, the
capacity doubled, and the chunk begun again from the same states with the same keys. Keys belong to chain and
iteration, so neither chunks nor capacity change a draw, but for the rounding of a sum with more zeros in it.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Key, PyTree

from chainrule.inference.diagnostics import Summary, summarize
from chainrule.inference.flymc.adaptation import adapt, adaptation, preconditioned
from chainrule.inference.flymc.firefly import LEAST_CAPACITY, Info, capacity_for
from chainrule.inference.flymc.moves import Move, stretch
from chainrule.inference.flymc.preflight import check_fit, check_is

OnViolation = Literal["raise", "flag"]


class BoundViolated(RuntimeError):
    """A lower bound was above the likelihood, so what was sampled is not the posterior."""


class Progress(NamedTuple):
    """Where `sample` has got to, for its callback."""

    done: int  # iterations of each chain, warm-up included
    total: int
    num_bright: float  # mean over chains, in the last chunk
    acceptance: float  # likewise
    capacity: int


@dataclasses.dataclass(frozen=True)
class Run:
    """What `sample` returns; arrays of NumPy."""

    draws: dict[str, np.ndarray]  # by name of the parameter, (chain, draw, *shape); "theta" if it has no name
    info: Info  # of each draw, fields of shape (chain, draw)
    warmup_evaluations: np.ndarray  # (chain,): summed over warm-up; without the N of the first brightness
    step_size: np.ndarray  # (chain,): after warm-up
    capacity: int  # in the end
    replays: int  # chunks that were thrown away for want of room
    kernel: Any  # with the scale that was used
    states: Any  # where the chains ended, the chain as leading axis

    def summary(self) -> Summary:
        """R-hat, ESS and MCSE of every parameter, and the cost: `print(run.summary())`."""
        return summarize(self.draws, self.info.evaluations)


def sample(
    key: Key[Array, ""],
    kernel: Any,
    position: PyTree | Callable[[Key[Array, ""]], PyTree],
    *,
    num_chains: int = 4,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    spread: float = 1.0,
    precondition: bool = True,
    chunk: int = 100,
    capacity: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_violation: OnViolation = "raise",
) -> Run:
    """Run chains of a kernel, adapt their step sizes in warm-up, keep the draws after it.

    Args:
        key: the same key gives the same draws.
        kernel: `Firefly(...)` or `FullData(...)`.
        position: theta, near where chains start; or a function of a key that draws a start.
        num_chains: run side by side by vmap.
        num_warmup: iterations in which the step size of each chain is adapted; none of them is kept. With 0,
            the kernel's step size is used.
        num_samples: draws to keep, of each chain.
        spread: chains start at theta + spread scale xi, xi standard normal. At spread = 0 and bounds tuned to
            theta all points are dark, and the density has a pole: a bad start.
        precondition: take the scale from `preconditioned(kernel, position)`; False to use the kernel's.
        chunk: iterations that are compiled as one loop; results do not depend on it.
        capacity: places for bright points to begin with; None for twice as many as are bright at the start.
        progress: called after each chunk with a `Progress`.
        on_violation: "raise" as soon as a bound is found broken, or "flag" it in the info only.

    An interrupt (Ctrl-C) after warm-up ends sampling with a warning and the draws that there are.

    Raises:
        BoundViolated: see `on_violation`.
        TypeError: if theta, prior and bound do not go together in shapes or dtypes.
        ValueError: for settings that make no sense, or a start with a density that is not finite.

    Example:
        >>> from chainrule.inference.flymc import Firefly, student_t_bound
        >>> x, t = jnp.ones((50, 1)), jnp.linspace(-1.0, 3.0, 50)
        >>> bound = student_t_bound(x, t).tuned(jnp.ones(1))
        >>> run = sample(jax.random.key(0), Firefly(lambda theta: -jnp.sum(theta**2), bound), jnp.ones(1))
        >>> print(run.draws["theta"].shape, f"{run.draws['theta'].mean():.0f}")
        (4, 1000, 1) 1
    """
    _check(num_chains, num_warmup, num_samples, chunk, capacity, on_violation)
    check_is("sample", "move", kernel.move, Move, "MALA() or HMC(8)")
    start_key, bright_key, chain_key = jax.random.split(key, 3)
    each = lambda key: jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(num_chains))
    if callable(position):
        positions = jax.vmap(position)(each(start_key))
        centre = jax.tree.map(lambda x: x[0], positions)
        check_fit("sample", kernel.log_prior, kernel.bound, centre)
        kernel = _centred(kernel, centre)
        kernel = preconditioned(kernel, centre) if precondition else kernel
    else:
        centre = jax.tree.map(jnp.asarray, position)
        check_fit("sample", kernel.log_prior, kernel.bound, centre)
        kernel = _centred(kernel, centre)
        kernel = preconditioned(kernel, centre) if precondition else kernel
        positions = _scattered(each(start_key), kernel, centre, spread)
    flat, _ = ravel_pytree(centre)
    states = _started(kernel, each(bright_key), positions, capacity)
    capacity = states.capacity

    first = kernel.move.first_step_size(len(flat)) if kernel.step_size is None else float(kernel.step_size)
    if not 0 < first < np.inf:
        raise ValueError(f"sample: step_size = {first} must be positive and finite")
    tuning = jax.vmap(lambda _: adaptation(first, flat.dtype))(jnp.arange(num_chains))
    states, keys = states.states, each(chain_key)

    total, replays = num_warmup + num_samples, 0
    chunk = min(chunk, total)
    kept, infos, done = [], [], 0
    while done < total:
        try:
            after, found = _chunk(kernel, states, tuning, keys, done, num_warmup, chunk)
            positions, info = _cut(found, 0, total - done)  # what lies beyond is not wanted
        except KeyboardInterrupt:
            if done <= num_warmup:
                raise
            warnings.warn(
                f"sample: interrupted after {done - num_warmup} of {num_samples} draws", stacklevel=2
            )
            break
        if info.overflow.any():
            kernel, states, capacity = _with_more_room(kernel, states, info, capacity)
            replays += 1
            continue
        if on_violation == "raise":
            _raise_if_violated(info, done)
        states, tuning = after
        kept.append(_cut(positions, max(num_warmup - done, 0), chunk))
        infos.append(info)
        done += chunk
        if progress:
            means = float(info.num_bright.mean()), float(info.acceptance.mean())
            progress(Progress(min(done, total), total, *means, capacity))

    info = jax.tree.map(lambda *parts: np.concatenate(parts, 1), *infos)
    return Run(
        draws=_named(jax.tree.map(lambda *parts: np.concatenate(parts, 1), *kept)),
        info=jax.tree.map(lambda x: x[:, num_warmup:], info),
        warmup_evaluations=info.evaluations[:, :num_warmup].sum(1, dtype=np.int64),
        step_size=np.exp(np.asarray(tuning.log_average)),
        capacity=capacity,
        replays=replays,
        kernel=kernel,
        states=states,
    )


@functools.partial(jax.jit, static_argnames="length")
def _chunk(kernel, states, tuning, keys, start, num_warmup, length):
    """So many iterations of all chains; positions and infos have the axes chain and iteration."""

    def advance(carry, t, key):
        state, tuning = carry
        warm = t < num_warmup
        step_size = jnp.exp(jnp.where(warm, tuning.log_step, tuning.log_average))
        now = dataclasses.replace(kernel, step_size=step_size)
        state, info = now.step(jax.random.fold_in(key, t), state)
        learned = adapt(tuning, info.acceptance, kernel.move.target)
        tuning = jax.tree.map(lambda new, old: jnp.where(warm, new, old), learned, tuning)
        return (state, tuning), (state.position, info)

    def chain(state, tuning, key):
        steps = start + jnp.arange(length)
        return lax.scan(lambda carry, t: advance(carry, t, key), (state, tuning), steps)

    return jax.vmap(chain)(states, tuning, keys)


def _cut(tree, first, end):
    return jax.tree.map(lambda x: np.asarray(x)[:, first:end], tree)


class _Started(NamedTuple):
    states: Any
    capacity: int


def _started(kernel, keys, positions, capacity) -> _Started:
    """First states, with the room asked for, if that will do, or for twice the bright points there are."""
    init = jax.jit(
        lambda kernel, keys, positions, capacity: jax.vmap(lambda k, p: kernel.init(k, p, capacity))(
            keys, positions
        ),
        static_argnums=3,
    )
    guess = capacity or LEAST_CAPACITY
    states = init(kernel, keys, positions, guess)
    most = int(kernel.overdue(states).max())
    wanted = guess if capacity and most <= capacity else max(capacity_for(most), guess)
    if most > guess:
        states = init(kernel, keys, positions, wanted)
    elif wanted > guess:
        states = kernel.grown(states, wanted)
    finite = np.isfinite(np.asarray(jax.vmap(kernel.smooth_log_density)(states.position)))
    if not finite.all():
        raise ValueError(
            f"sample: chain {int(np.argmin(finite))} would start where the log density is not finite: "
            "start elsewhere, or with a smaller spread"
        )
    return _Started(states, wanted)


def _with_more_room(kernel, states, info, capacity):
    """Twice the capacity; or twice the room for candidates, if it was those that did not fit."""
    if (info.num_bright > capacity).any():
        return kernel, kernel.grown(states, 2 * capacity), 2 * capacity
    room = 2 * (kernel.room or kernel.brightness.room(kernel.bound.num_data))
    return dataclasses.replace(kernel, room=room), states, capacity


def _raise_if_violated(info, done):
    count = int(info.violations.sum())
    if count:
        chain, iteration = (int(i) for i in np.argwhere(info.violations)[0])
        raise BoundViolated(
            f"sample: {count} gaps were negative or NaN, the first in chain {chain} at iteration "
            f"{done + iteration}: the log bound is above the log likelihood, and sampling is not exact. "
            "check_bound finds out where; for rounding alone, set a larger floor of Firefly; "
            "on_violation='flag' goes on and reports it in info.violations"
        )


def _centred(kernel, position):
    """With sums of log bounds counted from there, if they can be, and are higher than where they are counted
    from now: far from it, differences of sums over a million data drown in single precision."""
    recentre = getattr(kernel.bound, "centred", None)
    if recentre is None or not kernel.bound.collapsed(position) > 0:
        return kernel
    return dataclasses.replace(kernel, bound=recentre(position))


def _scattered(keys, kernel, centre, spread):
    flat, unravel = ravel_pytree(centre)
    scale = jnp.ones_like(flat) if kernel.scale is None else kernel.scale
    noise = lambda key: stretch(scale, jax.random.normal(key, flat.shape, flat.dtype))
    return jax.vmap(lambda key: unravel(flat + jnp.asarray(spread, flat.dtype) * noise(key)))(keys)


def _named(positions) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(positions)
    plain = lambda path: jax.tree_util.keystr(path, simple=True, separator=".") or "theta"
    return {plain(path): leaf for path, leaf in leaves}


def _check(num_chains, num_warmup, num_samples, chunk, capacity, on_violation):
    least = {"num_chains": 1, "num_warmup": 0, "num_samples": 1, "chunk": 1}
    given = dict(num_chains=num_chains, num_warmup=num_warmup, num_samples=num_samples, chunk=chunk)
    if capacity is not None:
        least["capacity"], given["capacity"] = 1, capacity
    for name, value in given.items():
        if not isinstance(value, int | np.integer) or value < least[name]:
            raise ValueError(f"sample: {name} = {value} must be a whole number, at least {least[name]}")
    if on_violation not in get_args(OnViolation):
        raise ValueError(f"sample: on_violation = {on_violation!r} must be one of {get_args(OnViolation)}")
