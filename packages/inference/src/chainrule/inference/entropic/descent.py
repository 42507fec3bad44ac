"""Gradient descent as variational inference: the bound of the evidence that training has already paid for.

    run(key, log_likelihood, prior, step_size=, steps=)            train from one draw        -> State, Trace
    run_ensemble(key, members, log_likelihood, prior, ...)         the same from many draws

Draw theta from q_0 and take t steps of gradient descent: theta has a distribution q_t. Its entropy is that
of q_0 and what each step's Jacobian adds, so that one run tells, without bias,

    L[q_t] = E_q [log p(theta, D)] + S[q_t] <= log p(D),    S[q_t] = S[q_0] + sum_t E log|det(I - a H)|.

Training raises the first term and lowers the second. Where their sum peaks is the place to stop.

Source: the slides "Early stopping and ensembling as variational inference" of the talk The Chain Rule
Unchained (D. Maclaurin); Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational
inference, AISTATS 2016.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from chainrule.core import PyTrees, hvp
from chainrule.inference.entropic.priors import Prior
from chainrule.inference.entropic.volume import PARABOLA_HOLDS_TO, Method, check_settings, log_volume


class State(NamedTuple):
    """What training carries from step to step."""

    params: PyTree  # theta
    velocity: PyTree  # like theta, of unit scale at the start; None without momentum
    step: Int[Array, "*lanes"]  # steps taken
    entropy: Float[Array, "*lanes"]  # estimate of S[q_t], in nats; with momentum, of params and velocity
    variance: Float[Array, "*lanes"]  # of that estimate, by its random probes, in nats^2
    a_lambda_max: Float[Array, "*lanes"]  # largest eigenvalue of a H in the steps since the last record
    one_to_one: Bool[Array, "*lanes"]  # whether a lambda < 1 in all steps so far, as far as it was seen
    bound_holds: Bool[Array, "*lanes"]  # whether the parabola was a bound in all steps so far; else True


class Trace(NamedTuple):
    """Training as it went: record 0 is the draw, and one follows after every `record_every` steps."""

    step: Int[Array, "*lanes records"]  # steps taken
    log_likelihood: Float[Array, "*lanes records"]  # log p(D | theta), of all data, in nats
    energy: Float[Array, "*lanes records"]  # -log p(theta, D), in nats; with momentum, -log N(v; 0, 1) on top
    entropy: Float[Array, "*lanes records"]  # estimate of S[q_t], in nats
    elbo: Float[Array, "*lanes records"]  # entropy - energy: one draw's estimate of a bound of log p(D)
    standard_error: Float[Array, "*lanes records"]  # of entropy, by its random probes, in nats
    a_lambda_max: Float[Array, "*lanes records"]  # largest eigenvalue of a H since the last record
    one_to_one: Bool[Array, "*lanes records"]  # False from the first step with a lambda >= 1 on
    bound_holds: Bool[Array, "*lanes records"]  # False from the first step on where "bound" may be above
    monitored: PyTree  # what `monitor` returned, along a new first axis; None without


def run(
    key: Key[Array, ""],
    log_likelihood: Callable[..., Float[Array, ""]],
    prior: Prior,
    *,
    step_size: ArrayLike,
    steps: int,
    data: PyTree = None,
    batch_size: int | None = None,
    momentum: ArrayLike | None = None,
    gradient_threshold: ArrayLike | None = None,
    start: Prior | None = None,
    method: Method = "slq",
    probes: int = 2,
    lanczos_steps: int = 10,
    watch_steps: int = 10,
    record_every: int = 1,
    monitor: Callable[[PyTree], PyTree] | None = None,
) -> tuple[State, Trace]:
    """Descend the negative log likelihood from a draw, and keep the account of energy and entropy.

    A step is theta <- theta - a g. The objective is the likelihood alone: the prior acts through the draw and
    through the energy, and parameters that the data say nothing about keep their entropy.

    With momentum b, theta and a velocity v ~ N(0, 1) move together,

        v <- b v - sqrt(a) g,    theta <- theta + sqrt(a) v,

    heavy-ball descent at the rate a. Its Jacobian is b^D whatever the likelihood, so that the entropy of the
    pair is exact, and the map one-to-one for every a. The bound is that of the pair, whose target is
    p(theta, D) N(v; 0, 1).

    With a threshold c, g - c tanh(g / c) stands in place of g: what the likelihood hardly depends on is left
    where it is, and keeps its entropy. The Jacobian I - a diag(tanh^2(g / c)) H is not symmetric, but by
    Sylvester's identity has the determinant of I - a |T| H |T| with T = diag(tanh(g / c)), which is.

    Args:
        key: for the draw and for the probes. The same key takes the same path, however many steps.
        log_likelihood: log_likelihood(params, data), a sum over data; log_likelihood(params) without data.
        prior: p(theta).
        step_size: a; a number, or one for each step. The gradient is that of the sum over all data.
        steps: how many; 0 gives the draw.
        data: a pytree of arrays along a common first axis.
        batch_size: rows for each gradient, which is scaled up; step t takes the t-th batch, around and
            around. So every draw sees the same batches, as it must for q_t to be one distribution:
            shuffle data beforehand, not on the way. Energy is of all data.
        momentum: b, positive; a number, or one for each step.
        gradient_threshold: c, positive, in units of the gradient.
        start: q_0; default the prior. Another one is right, too: the bound is one for every q_0.
        method, probes, lanczos_steps, watch_steps: as in `log_volume`. With momentum nothing is estimated.
        record_every: steps from one record to the next, a divisor of steps.
        monitor: of the parameters at each record, such as an error on test data; `lambda params: params`
            keeps the path.

    Returns:
        State after the last step, and Trace. A lax.scan: to be compiled, differentiated, or mapped over keys.
        In memory it is O(D), but for method "exact".

    Raises:
        ValueError: at once, for settings out of range.

    Example:
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> fit = lambda w, y: -0.5 * jnp.sum((y - w * x) ** 2 + jnp.log(2 * jnp.pi))
        >>> state, trace = run(
        ...     jax.random.key(0), fit, Gaussian(jnp.zeros(()), 1.0), data=2 * x, step_size=0.01, steps=30)
        >>> print(f"{trace.entropy[0]:.3f} {trace.entropy[1]:.3f}")  # log(1 - 0.01 * 14) less
        1.419 1.268
    """
    check_settings("run", method, probes, lanczos_steps, watch_steps)
    rows = _rows(data, batch_size)
    schedule = _schedule("step_size", step_size, steps), _schedule("momentum", momentum, steps)
    for name, value in {"momentum": momentum, "gradient_threshold": gradient_threshold}.items():
        concrete = value is not None and not isinstance(value, jax.core.Tracer)
        if concrete and not np.all(np.asarray(value) > 0):
            raise ValueError(f"run: {name} must be positive, got {value}; None is for doing without")
    if steps < 0 or record_every < 1 or steps % record_every:
        raise ValueError(f"run: record_every = {record_every} must divide steps = {steps}")

    def likelihood(params, batch):
        return log_likelihood(params) if data is None else log_likelihood(params, batch)

    def loss(params, batch):
        scale = 1.0 if batch_size is None else rows / batch_size
        return -scale * likelihood(params, batch)

    draw_key, velocity_key, probes_key = jax.random.split(key, 3)
    q_0 = prior if start is None else start
    state = _first(q_0, draw_key, None if momentum is None else velocity_key)
    dtype = state.entropy.dtype

    def advance(state, at):
        rate, decay = at
        batch = _batch(data, state.step, batch_size, rows)
        gradient = jax.grad(loss)(state.params, batch)
        gradient, slope = _thresholded(gradient, gradient_threshold)
        if decay is not None:
            return _with_momentum(state, gradient, rate, decay), None

        H = hvp(loss, state.params, args=(batch,))
        matvec = lambda v: _times(slope, H(_times(slope, v)))
        volume = log_volume(
            jax.random.fold_in(probes_key, state.step),
            matvec,
            state.params,
            rate,
            method=method,
            probes=probes,
            lanczos_steps=lanczos_steps,
            watch_steps=watch_steps,
        )
        top = volume.a_lambda_max.astype(dtype)
        state = state._replace(
            params=jax.tree.map(lambda x, g: x - rate.astype(x.dtype) * g, state.params, gradient),
            step=state.step + 1,
            entropy=state.entropy + volume.log_det.astype(dtype),
            variance=state.variance + volume.standard_error.astype(dtype) ** 2,
            a_lambda_max=jnp.maximum(state.a_lambda_max, top),
            one_to_one=state.one_to_one & (top < 1),
            bound_holds=state.bound_holds & (True if method != "bound" else top <= PARABOLA_HOLDS_TO),
        )
        return state, None

    def record(state):
        fit = likelihood(state.params, data)
        energy = -(fit + prior.log_density(state.params)).astype(dtype)
        if state.velocity is not None:
            energy = energy - _standard_normal(state.velocity).astype(dtype)
        return Trace(
            step=state.step,
            log_likelihood=fit,
            energy=energy,
            entropy=state.entropy,
            elbo=state.entropy - energy,
            standard_error=jnp.sqrt(state.variance),
            a_lambda_max=state.a_lambda_max,
            one_to_one=state.one_to_one,
            bound_holds=state.bound_holds,
            monitored=None if monitor is None else monitor(state.params),
        )

    def advance_and_record(state, at):
        lowest = jnp.full_like(state.a_lambda_max, -jnp.inf)
        state, _ = lax.scan(advance, state._replace(a_lambda_max=lowest), at)
        return state, record(state)

    blocks = jax.tree.map(lambda x: x.reshape(steps // record_every, record_every).astype(dtype), schedule)
    last, following = lax.scan(advance_and_record, state, blocks)
    joined = jax.tree.map(lambda x, xs: jnp.concatenate([jnp.asarray(x)[None], xs]), record(state), following)
    return last, joined


def run_ensemble(
    key: Key[Array, ""], members: int, log_likelihood: Callable[..., Any], prior: Prior, **settings: Any
) -> tuple[State, Trace]:
    """Train from `members` draws at once; everything is as in `run`, with a new first axis.

    The mean of `elbo` over members estimates the bound for one of them. To predict by the mean of their
    predictions is to predict by q_t.
    """
    if members < 2:
        raise ValueError(f"run_ensemble: members must be at least 2, got {members}; `run` is for one")
    keys = jax.random.split(key, members)
    return jax.vmap(lambda key: run(key, log_likelihood, prior, **settings))(keys)


def _first(q_0: Prior, draw_key, velocity_key) -> State:
    params = q_0.sample(draw_key)
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    entropy = jnp.asarray(q_0.entropy(), dtype)
    velocity = None
    if velocity_key is not None:
        velocity = PyTrees(params).random(velocity_key)
        entropy = entropy + _size(params) * (1 + math.log(2 * math.pi)) / 2
    zero = jnp.zeros((), dtype)
    yes = jnp.asarray(True)
    return State(params, velocity, jnp.zeros((), jnp.int32), entropy, zero, zero * jnp.nan, yes, yes)


def _with_momentum(state: State, gradient: PyTree, rate: Array, decay: Array) -> State:
    push = jnp.sqrt(rate)
    cast = lambda number, x: number.astype(x.dtype)
    velocity = jax.tree.map(lambda v, g: cast(decay, v) * v - cast(push, v) * g, state.velocity, gradient)
    return state._replace(
        params=jax.tree.map(lambda x, v: x + cast(push, x) * v, state.params, velocity),
        velocity=velocity,
        step=state.step + 1,
        entropy=state.entropy + _size(state.params) * jnp.log(decay),
        a_lambda_max=jnp.full_like(state.a_lambda_max, jnp.nan),
    )


def _thresholded(gradient: PyTree, threshold: ArrayLike | None) -> tuple[PyTree, PyTree]:
    """What is left of the gradient, and the root of its derivative by the gradient."""
    if threshold is None:
        return gradient, None
    bent = jax.tree.map(lambda g: jnp.tanh(g / jnp.asarray(threshold, g.dtype)), gradient)
    left = jax.tree.map(lambda g, t: g - jnp.asarray(threshold, g.dtype) * t, gradient, bent)
    return left, jax.tree.map(jnp.abs, bent)


def _times(slope: PyTree, v: PyTree) -> PyTree:
    return v if slope is None else jax.tree.map(jnp.multiply, slope, v)


def _standard_normal(velocity: PyTree) -> Float[Array, ""]:
    return -(PyTrees(velocity).inner(velocity, velocity) + _size(velocity) * math.log(2 * math.pi)) / 2


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _schedule(name: str, value: ArrayLike | None, steps: int) -> Float[Array, " steps"] | None:
    if value is None:
        return None
    if jnp.shape(value) not in ((), (steps,)):
        raise ValueError(
            f"run: {name} is one number, or one for each of {steps} steps, got {jnp.shape(value)}"
        )
    return jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), (steps,))


def _rows(data: PyTree, batch_size: int | None) -> int:
    if batch_size is None:
        return 0
    rows = {len(leaf) for leaf in jax.tree.leaves(data)}
    if len(rows) != 1 or not 1 <= batch_size <= min(rows):
        raise ValueError(
            f"run: batch_size = {batch_size} needs data along one first axis, at least as long; got axes of "
            f"length {sorted(rows)}"
        )
    return rows.pop()


def _batch(data: PyTree, step: Array, batch_size: int | None, rows: int) -> PyTree:
    if batch_size is None:
        return data
    # (step * batch_size) % rows, without the overflow of a long run.
    first = (step % (rows // math.gcd(rows, batch_size))) * batch_size
    index = (first + jnp.arange(batch_size)) % rows
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], data)
