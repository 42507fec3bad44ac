"""Linear dynamical systems: what is known of hidden states from the potentials of their frames.

    x_1 ~ N(m, P) ,   x_{t+1} = A x_t + B u_t + b + N(0, Q) ,   p(x) prod_t psi_t(x_t) / Z

    lds_log_normaliser(lds, potentials)      log Z, differentiable in both modes
    lds_filter(lds, potentials)              moments of x_t given the frames up to t, and before t
    lds_smoother(lds, potentials)            moments of x_t and of its neighbours, given all frames
    lds_sample(key, lds, potentials, n)      paths of the posterior
    lds_forecast(lds, potentials, horizon)   moments of the states that follow

All take one sequence, and jax.vmap takes them to batches: over potentials, parameters, actions, masks or
any of them. What does not depend on a batched argument is computed once: with parameters and precisions
shared, so are covariances.

Covariances go forward in square roots, of prior moments and of the precision of a frame: no inverse of Q is
taken, and I + L'JL has no eigenvalue below one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from chainrule.svae.messages import _chain as chain
from chainrule.svae.messages import _dense as dense
from chainrule.svae.messages._normaliser import log_normaliser
from chainrule.svae.messages._prefixes import chosen
from chainrule.svae.messages.potentials import Potentials, masked


class LDS(NamedTuple):
    """Parameters of linear dynamics. Those of a step may have a leading axis of frames - 1 steps.

    m   mean of the first state, (dim,)
    P   its covariance, (dim, dim)
    A   dynamics, (dim, dim) or (steps, dim, dim)
    Q   covariance of the process noise, (dim, dim) or (steps, dim, dim); symmetric, positive definite
    b   offset, (dim,) or (steps, dim); None for zero
    B   effect of actions, (dim, actions) or (steps, dim, actions); None without actions
    """

    m: Float[Array, " dim"]
    P: Float[Array, "dim dim"]
    A: Float[Array, "dim dim"] | Float[Array, "steps dim dim"]
    Q: Float[Array, "dim dim"] | Float[Array, "steps dim dim"]
    b: Float[Array, " dim"] | Float[Array, "steps dim"] | None = None
    B: Float[Array, "dim actions"] | Float[Array, "steps dim actions"] | None = None


class Smoothed(NamedTuple):
    """Moments given all frames.

    mean            (frames, dim)
    covariance      (frames, dim, dim)
    cross           (frames - 1, dim, dim), covariance of x_t, rows, and x_{t+1}, columns
    log_normaliser  log Z, a number
    """

    mean: Float[Array, "frames dim"]
    covariance: Float[Array, "frames dim dim"]
    cross: Float[Array, "steps dim dim"]
    log_normaliser: Float[Array, ""]


class Filtered(NamedTuple):
    """Moments given the frames so far.

    mean, covariance                      of x_t given frames up to t, (frames, dim) and (frames, dim, dim)
    predicted_mean, predicted_covariance  of x_t given frames before t
    log_normalisers                       (frames,), what frame t adds to log Z: their sum is log Z
    """

    mean: Float[Array, "frames dim"]
    covariance: Float[Array, "frames dim dim"]
    predicted_mean: Float[Array, "frames dim"]
    predicted_covariance: Float[Array, "frames dim dim"]
    log_normalisers: Float[Array, " frames"]


class Forecast(NamedTuple):
    """Moments of the states after the last frame: mean (horizon, dim) and covariance (horizon, dim, dim)."""

    mean: Float[Array, "horizon dim"]
    covariance: Float[Array, "horizon dim dim"]


def lds_log_normaliser(
    lds: LDS, potentials: Potentials, *, actions=None, mask=None, method: str = "auto"
) -> Float[Array, ""]:
    """log Z; with potentials from `observe`, the log-density of what was seen.

    Its gradient is smoothed statistics, computed as such and not by going back through the filter: with
    respect to h it is the mean less the centre, to J minus half the second moment. Forward and reverse mode
    both work, to any order. Arguments as for `lds_smoother`.
    """
    return log_normaliser(
        *_prepared("lds_log_normaliser", lds, potentials, actions, mask), chosen("lds_log_normaliser", method)
    )


def lds_smoother(
    lds: LDS, potentials: Potentials, *, actions=None, mask=None, method: str = "auto"
) -> Smoothed:
    """Moments of all states given all frames.

    Args:
        lds: parameters.
        potentials: one for each frame.
        actions: (frames - 1, actions), that of step t leads from frame t to t + 1; needs lds.B.
        mask: (frames,) of bools, false where a frame says nothing. A sequence that ended early is one whose
            last
            frames are masked.
        method: how to go along the chain. "sequential" is frame by frame. "chunked" cuts the chain into
            pieces of
            about the root of its length and goes along all of them at once. "associative" is a prefix sum, in
            log2(frames) rounds. "auto" is sequential on a CPU and associative elsewhere.

    Raises:
        ValueError: if shapes disagree, actions come without B or method is another word.
    """
    method = chosen("lds_smoother", method)
    m, P, steps, frames = _prepared("lds_smoother", lds, potentials, actions, mask)
    filtered = chain.forward(m, P, steps, frames, method)
    (mean, covariance, cross), _ = chain.backward(filtered, steps, method)
    return Smoothed(mean, covariance, cross[:-1], jnp.sum(filtered.log_normaliser))


def lds_filter(
    lds: LDS, potentials: Potentials, *, actions=None, mask=None, method: str = "auto"
) -> Filtered:
    """Moments of each state given the frames so far. Arguments as for `lds_smoother`."""
    method = chosen("lds_filter", method)
    m, P, steps, frames = _prepared("lds_filter", lds, potentials, actions, mask)
    filtered = chain.forward(m, P, steps, frames, method)
    predicted_mean = jnp.concatenate([m[None], filtered.next_mean[:-1]])
    covariance = dense.square(filtered.F)
    A, Q = (jnp.broadcast_to(x, filtered.F.shape) for x in (steps.A, steps.Q))
    moved = dense.square(dense.product(A, filtered.F)) + Q
    predicted = jnp.concatenate([P[None], moved[:-1]])
    return Filtered(filtered.mean, covariance, predicted_mean, predicted, filtered.log_normaliser)


def lds_sample(
    key: Key[Array, ""],
    lds: LDS,
    potentials: Potentials,
    n: int,
    *,
    actions=None,
    mask=None,
    method: str = "auto",
) -> Float[Array, "n frames dim"]:
    """n independent paths of the posterior, differentiable in the parameters and potentials.

    A path runs backward: each state is a draw of the filtered one, with a draw of the process noise,
    corrected for where the next state went. Arguments as for `lds_smoother`.
    """
    method = chosen("lds_sample", method)
    m, P, steps, frames = _prepared("lds_sample", lds, potentials, actions, mask)
    filtered = chain.forward(m, P, steps, frames, method)
    gains = chain.all_gains(filtered, steps.A)
    state_key, noise_key = jax.random.split(key)
    shape = (n, *filtered.mean.shape)
    state = jax.random.normal(state_key, shape, filtered.mean.dtype)
    noise = jax.random.normal(noise_key, shape, filtered.mean.dtype)

    def path(state, noise):
        kicks = chain.kicks(filtered, gains, steps.Q, state, noise)
        return chain.backward_path(filtered, gains.G, kicks, method)

    return jax.vmap(path)(state, noise)


def lds_forecast(
    lds: LDS,
    potentials: Potentials,
    horizon: int,
    *,
    actions=None,
    mask=None,
    method: str = "auto",
) -> Forecast:
    """Moments of the `horizon` states that follow the last frame.

    Arguments as for `lds_smoother`, but actions and parameters of steps are for frames + horizon - 1 steps:
    the one that leads to the first state of the forecast is number `frames`.

    Raises:
        ValueError: also if horizon is not positive.
    """
    if horizon < 1:
        raise ValueError(f"lds_forecast: horizon is {horizon}: it counts states, from 1 on")
    method = chosen("lds_forecast", method)
    m, P, steps, frames = _prepared("lds_forecast", lds, potentials, actions, mask, horizon)
    T = len(frames.h)
    part = lambda chosen: chain.Steps(
        *(x[chosen] if x.ndim > n else x for x, n in zip(steps, (2, 2, 1), strict=True))
    )
    filtered = chain.forward(m, P, part(slice(T)), frames, method)

    def state(carry, step):
        L, mean = carry
        ahead, _, next_mean = chain.predict(L, mean, step)
        return (dense.transposed(ahead), next_mean), (mean, dense.square(L))

    start = dense.transposed(filtered.end), filtered.next_mean[-1]
    return Forecast(*chain.along(state, start, part(slice(T, None)), horizon)[1])


def _prepared(name, lds, potentials, actions, mask, horizon=0):
    """Parameters with one step for each frame, and potentials without None; or an error that says what is
    wrong.
    """
    J, h, centre, log_scale = masked(potentials, mask) if mask is not None else potentials
    T, dim = h.shape
    count = T - 1 + horizon
    if J.shape not in ((T, dim), (T, dim, dim)):
        raise ValueError(f"{name}: J is {J.shape}, h is {h.shape}: J must be {(T, dim)} or {(T, dim, dim)}")
    if (lds.B is None) != (actions is None):
        raise ValueError(f"{name}: lds.B and actions belong together: give both, or neither")
    b = jnp.zeros_like(lds.m) if lds.b is None else lds.b
    for word, x, shape in (("A", lds.A, (dim, dim)), ("Q", lds.Q, (dim, dim)), ("b", b, (dim,))):
        if x.shape not in (shape, (count, *shape)):
            raise ValueError(
                f"{name}: lds.{word} is {x.shape}: it must be {shape}, or {(count, *shape)} for {T} frames"
            )
    if actions is not None:
        if len(actions) != count:
            raise ValueError(f"{name}: {len(actions)} actions: there must be {count}, one for each step")
        B = jnp.broadcast_to(lds.B, (count, *lds.B.shape[-2:]))
        b = dense.apply(B, actions) + (b if b.ndim == 2 else b[None])
    centre = jnp.zeros_like(h) if centre is None else centre
    log_scale = jnp.zeros_like(h[:, 0]) if log_scale is None else log_scale
    J = J if J.ndim == 2 else dense.symmetric(J)
    eye = jnp.eye(dim, dtype=h.dtype)
    longer = lambda x, end: jnp.concatenate([x, end[None].astype(x.dtype)]) if x.ndim > end.ndim else x
    Q = longer(dense.symmetric(lds.Q), eye)
    steps = chain.Steps(longer(lds.A, eye), Q, longer(b, jnp.zeros_like(lds.m)))
    return lds.m, dense.symmetric(lds.P), steps, chain.Frames(J, h, centre, log_scale)
