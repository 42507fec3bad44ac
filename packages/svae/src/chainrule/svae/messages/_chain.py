"""The two passes over a chain of Gaussians: forward to filtered moments, backward to smoothed ones or to
samples.

Step t leads from frame t to frame t + 1. There are as many steps as frames: the last leads to a frame
beyond the end which nobody has seen, so that frames are all alike.

Forward, with L L' the predicted covariance, m its mean, J, h and c of the frame's potential:

    K K' = I + L' J L ,   F = L K^-T ,   filtered covariance F F' ,   filtered mean m + F F' (h - J (m - c))
    next covariance  A F F' A' + Q ,   next mean  A mean + b

Backward, with G = F F' A' (next covariance)^-1 and E = I - G A, all covariances are sums of squares:

    left   = E F (E F)' + G Q G'                 of x_t when x_{t+1} is known
    smoothed covariance  left + G (that of t + 1) G' ,   smoothed mean  filtered + G (that of t + 1 - next
                         mean)

Rounding in G enters their sum by its square only, however small Q is. What a frame adds to log Z is
evaluated at the filtered mean, where potential and prior are both near their largest: elsewhere large terms
cancel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from chainrule.svae.messages import _dense as dense
from chainrule.svae.messages._elements import Affine, combine, combine_affine, element
from chainrule.svae.messages._prefixes import prefixes


class Steps(NamedTuple):
    """Dynamics of step t: one for all, or with a leading axis as long as there are frames."""

    A: Float[Array, "*steps dim dim"]
    Q: Float[Array, "*steps dim dim"]
    b: Float[Array, "*steps dim"]


class Frames(NamedTuple):
    """Potentials, each with a leading axis of frames."""

    J: Float[Array, "frames dim *dim"]
    h: Float[Array, "frames dim"]
    centre: Float[Array, "frames dim"]
    log_scale: Float[Array, " frames"]


class Filtered(NamedTuple):
    """What the forward pass leaves.

    F, mean            square root of the filtered covariance, and the mean
    next_L, next_mean  Cholesky factor and mean of what is predicted from there
    log_normaliser     what the frame adds to log Z
    """

    F: Float[Array, "frames dim dim"]
    mean: Float[Array, "frames dim"]
    next_L: Float[Array, "frames dim dim"]
    next_mean: Float[Array, "frames dim"]
    log_normaliser: Float[Array, " frames"]


class Gains(NamedTuple):
    """G and left of the module's formulas, and E F."""

    G: Float[Array, "frames dim dim"]
    EF: Float[Array, "frames dim dim"]
    left: Float[Array, "frames dim dim"]


def forward(m, P, steps: Steps, frames: Frames, method: str) -> Filtered:
    if method != "sequential":
        return _forward_at_once(m, P, steps, frames, method)

    def frame(carry, potential, step):
        L, m = carry
        F, mean, log_normaliser = update(L, m, Frames(*(dense.numbers(x) for x in potential)))
        L, m = predict(F, mean, Steps(*(dense.numbers(x) for x in step)))
        return (L, m), Filtered(*(dense.array(x) for x in (F, mean, L, m, log_normaliser)))

    start = dense.cholesky(dense.guarded(dense.numbers(P))), dense.numbers(m)
    return along(frame, start, steps, None, frames)[1]


def _forward_at_once(m, P, steps: Steps, frames: Frames, method: str) -> Filtered:
    """Prefixes say what is predicted of each state; then all frames are filtered side by side."""
    every = Steps(
        *(jnp.broadcast_to(x, (len(frames.h), *x.shape[-n:])) for x, n in zip(steps, (2, 2, 1), strict=True))
    )
    h = frames.h + times(frames.J, frames.centre)
    pieces = jax.vmap(element)(frames.J, h, every.A, every.b, every.Q)
    before = prefixes(combine, jax.tree.map(lambda x: x[:-1], pieces), method) if len(h) > 1 else pieces
    root = dense.cholesky(dense.guarded(P))

    def predicted(piece):
        potential = Frames(
            dense.square(piece.U.T), dense.apply(piece.U.T, piece.w), jnp.zeros_like(m), jnp.zeros_like(m[0])
        )
        F, mean, _ = update(root, m, potential)
        return predict(F, mean, Steps(piece.A, piece.C, piece.b))

    L, means = jax.vmap(predicted)(before)
    L, means = (jnp.concatenate([x[None], y])[: len(h)] for x, y in ((root, L), (m, means)))

    def frame(L, m, potential, step):
        F, mean, log_normaliser = update(L, m, potential)
        return Filtered(F, mean, *predict(F, mean, step), log_normaliser)

    return jax.vmap(frame)(L, means, frames, every)


def times(J, x):
    """J x for all frames, J being full or diagonal."""
    return J * x if J.ndim == 2 else dense.many(dense.apply(dense.lanes(J), dense.lanes(x)))


def along(step, carry, steps: Steps, length, *frames):
    """lax.scan of step(carry, *frames', steps'), where parameters of steps have an axis of time or not."""
    moves = steps.A.ndim == 3, steps.Q.ndim == 3, steps.b.ndim == 2
    moving = tuple(x if yes else None for x, yes in zip(steps, moves, strict=True))

    def body(carry, now):
        *here, now = now
        now = Steps(*(x if yes else fixed for x, yes, fixed in zip(now, moves, steps, strict=True)))
        return step(carry, *here, now)

    return lax.scan(body, carry, (*frames, moving), length=length)


def update(L, m, potential: Frames):
    """Square root of the filtered covariance, filtered mean, and what the frame adds to log Z."""
    J, h, centre, log_scale = potential
    is_diagonal = not isinstance(J[0], list) if isinstance(J, list) else J.ndim == 1
    times_J = dense.scaled if is_diagonal else dense.product
    apply_J = dense.scaled if is_diagonal else dense.apply
    across = dense.transposed(L)
    K = dense.cholesky(dense.one_plus(dense.product(across, times_J(J, L))))
    Ft = dense.solve_lower(K, across)
    F = dense.transposed(Ft)
    pull = dense.apply(Ft, dense.minus(h, apply_J(J, dense.minus(m, centre))))
    mean = dense.plus(m, dense.apply(F, pull))
    off = dense.minus(mean, centre)
    whitened = dense.solve_upper_vector(K, pull)  # L^-1 (mean - m)
    exponent = dense.inner(h, off) - (dense.inner(apply_J(J, off), off) + dense.inner(whitened, whitened)) / 2
    return F, mean, log_scale + exponent - dense.log_determinant(K)


def predict(F, mean, step: Steps):
    """Cholesky factor of the covariance of the next state, and its mean."""
    P = dense.plus(dense.square(dense.product(step.A, F)), step.Q)
    return dense.cholesky(dense.guarded(P)), dense.plus(dense.apply(step.A, mean), step.b)


def gains(filtered: Filtered, steps: Steps) -> Gains:
    F = filtered.F
    A, Q = (dense.lanes(jnp.broadcast_to(x, F.shape)) for x in (steps.A, steps.Q))
    F, L = dense.lanes(F), dense.lanes(filtered.next_L)
    W = dense.product(A, F)
    Gt = dense.solve_upper(L, dense.solve_lower(L, dense.product(W, dense.transposed(F))))
    G = dense.transposed(Gt)
    EF = dense.minus(F, dense.product(G, W))
    left = dense.plus(dense.square(EF), dense.product(dense.product(G, Q), Gt))
    return Gains(*(dense.many(x) for x in (G, EF, left)))


def backward_covariances(filtered: Filtered, gains: Gains, method: str):
    """Smoothed covariances, and those of each frame with the next."""
    end = dense.square(filtered.next_L[-1])
    if method != "sequential":
        nothing = jnp.zeros_like(filtered.mean)
        G, _, C = _backward_at_once(gains.G, nothing, gains.left, method)
        P = dense.symmetric(
            C + dense.product(dense.product(G, jnp.broadcast_to(end, G.shape)), dense.transposed(G))
        )
        return P, dense.product(gains.G, jnp.concatenate([P[1:], end[None]]))

    def frame(P, now):
        G, left = (dense.numbers(x) for x in now)
        cross = dense.product(G, P)
        P = dense.symmetric(dense.plus(left, dense.product(cross, dense.transposed(G))))
        return P, (dense.array(P), dense.array(cross))

    return lax.scan(frame, dense.numbers(end), (gains.G, gains.left), reverse=True)[1]


def backward_means(filtered: Filtered, G, method: str) -> Float[Array, "frames dim"]:
    now = G, filtered.mean, filtered.next_mean
    if method != "sequential":
        # what smoothing adds to the mean of t is G times what it adds to t + 1, and a jump
        jumps = jnp.concatenate([filtered.mean[1:], filtered.next_mean[-1:]]) - filtered.next_mean
        return filtered.mean + _backward_at_once(G, dense.apply(G, jumps), jnp.zeros_like(G), method).mean

    def frame(mean, now):
        G, here, ahead = (dense.numbers(x) for x in now)
        mean = dense.plus(here, dense.apply(G, dense.minus(mean, ahead)))
        return mean, dense.array(mean)

    return lax.scan(frame, dense.numbers(filtered.next_mean[-1]), now, reverse=True)[1]


def backward_deviations(filtered: Filtered, gains: Gains, steps: Steps, state, noise, method: str):
    """A path less its mean, of standard normal numbers (frames, dim) for states and process noise."""
    Q_root = jnp.broadcast_to(dense.cholesky(steps.Q), gains.G.shape)
    kicks = dense.apply(gains.EF, state) - dense.apply(gains.G, dense.apply(Q_root, noise))
    kicks = kicks.at[-1].set(dense.apply(filtered.F[-1], state[-1]))
    if method != "sequential":
        return _backward_at_once(gains.G, kicks, jnp.zeros_like(gains.G), method).mean

    def frame(ahead, now):
        G, kick = (dense.numbers(x) for x in now)
        here = dense.plus(dense.apply(G, ahead), kick)
        return here, dense.array(here)

    start = dense.numbers(jnp.zeros_like(kicks[-1]))
    return lax.scan(frame, start, (gains.G, kicks), reverse=True)[1]


def _backward_at_once(G, mean, C, method) -> Affine:
    return prefixes(combine_affine, Affine(G, mean, C), method, reverse=True)
