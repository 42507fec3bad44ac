"""The two passes over a chain of Gaussians: forward to filtered moments, backward to smoothed ones or to samples.

Step t leads from frame t to frame t + 1. There are as many steps as frames: the last leads to a frame beyond the
end which nobody has seen, so that frames are all alike.

Forward, with L L' the predicted covariance, m its mean, J, h and c of the frame's potential:

    K K' = I + L' J L ,   F = L K^-T ,   filtered covariance F F' ,   filtered mean m + F F' (h - J (m - c))
    next covariance  A F F' A' + Q ,   next mean  A mean + b

Backward, with G = F F' A' (next covariance)^-1 and E = I - G A, all covariances are sums of squares:

    left   = E F (E F)' + G Q G'                 of x_t when x_{t+1} is known
    smoothed covariance  left + G (that of t + 1) G' ,   smoothed mean  filtered + G (that of t + 1 - next mean)

Rounding in G enters their sum by its square only, however small Q is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from chainrule.svae.messages import _dense as dense


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
    """F and mean: square root of the filtered covariance, and the mean; next_L, next_mean: as predicted from there."""

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


def predicted_root(P: Float[Array, "*frames dim dim"]) -> Float[Array, "*frames dim dim"]:
    """A Cholesky factor of P, or of P + rounding where rounding has made P indefinite."""
    n = P.shape[-1]
    guard = n * jnp.finfo(P.dtype).eps * jnp.diagonal(P, axis1=-2, axis2=-1)
    return dense.cholesky(P + guard[..., None] * jnp.eye(n, dtype=P.dtype))


def forward(m, P, steps: Steps, frames: Frames, method: str) -> Filtered:
    def frame(carry, potential, step):
        L, m = carry
        F, mean, log_normaliser = update(L, m, potential)
        L, m = predict(F, mean, step)
        return (L, m), Filtered(F, mean, L, m, log_normaliser)

    return along(frame, (predicted_root(P), m), steps, None, frames)[1]


def along(step, carry, steps: Steps, length, *frames):
    """lax.scan of step(carry, *frames', steps'), where parameters of steps have an axis of time or not."""
    moves = Steps(steps.A.ndim == 3, steps.Q.ndim == 3, steps.b.ndim == 2)
    moving = Steps(*(x if yes else None for x, yes in zip(steps, moves, strict=True)))

    def body(carry, now):
        *here, now = now
        now = Steps(*(x if yes else fixed for x, yes, fixed in zip(now, moves, steps, strict=True)))
        return step(carry, *here, now)

    return lax.scan(body, carry, (*frames, moving), length=length)


def update(L, m, potential: Frames):
    J, h, centre, log_scale = potential
    JL = J[:, None] * L if J.ndim == 1 else dense.product(J, L)
    K = dense.cholesky(jnp.eye(L.shape[-1], dtype=L.dtype) + dense.product(L.T, JL))
    F = dense.solve_lower(K, L.T).T
    off = m - centre
    J_off = J * off if J.ndim == 1 else dense.apply(J, off)
    pull = dense.apply(F.T, h - J_off)
    log_normaliser = log_scale + jnp.sum((h - J_off / 2) * off) + jnp.sum(pull**2) / 2 - dense.log_diagonal(K)
    return F, m + dense.apply(F, pull), log_normaliser


def predict(F, mean, step: Steps):
    P = dense.square(dense.product(step.A, F)) + step.Q
    return predicted_root(P), dense.apply(step.A, mean) + step.b


def gains(filtered: Filtered, steps: Steps) -> Gains:
    F, L = filtered.F, filtered.next_L
    A = jnp.broadcast_to(steps.A, F.shape)
    Q = jnp.broadcast_to(steps.Q, F.shape)
    AP = dense.product(dense.product(A, F), dense.transposed(F))
    G = dense.transposed(dense.solve_upper(L, dense.solve_lower(L, AP)))
    EF = F - dense.product(G, dense.product(A, F))
    left = dense.square(EF) + dense.product(dense.product(G, Q), dense.transposed(G))
    return Gains(G, EF, left)


def backward_covariances(filtered: Filtered, gains: Gains, method: str):
    """Smoothed covariances, and those of each frame with the next."""

    def frame(P, gain):
        cross = dense.product(gain.G, P)
        P = dense.symmetric(gain.left + dense.product(cross, gain.G.T))
        return P, (P, cross)

    return lax.scan(frame, dense.square(filtered.next_L[-1]), gains, reverse=True)[1]


def backward_means(filtered: Filtered, G, method: str) -> Float[Array, "frames dim"]:
    def frame(mean, now):
        G, here, ahead = now
        mean = here + dense.apply(G, mean - ahead)
        return mean, mean

    now = G, filtered.mean, filtered.next_mean
    return lax.scan(frame, filtered.next_mean[-1], now, reverse=True)[1]


def backward_deviations(filtered: Filtered, gains: Gains, steps: Steps, state, noise, method: str):
    """A path less its mean, of standard normal numbers (frames, dim) for the states and for the process noise."""
    Q_root = jnp.broadcast_to(dense.cholesky(steps.Q), gains.G.shape)
    kicks = dense.apply(gains.EF, state) - dense.apply(gains.G, dense.apply(Q_root, noise))
    last = dense.apply(filtered.F[-1], state[-1])
    kicks = kicks.at[-1].set(last)

    def frame(ahead, now):
        G, kick = now
        here = dense.apply(G, ahead) + kick
        return here, here

    return lax.scan(frame, jnp.zeros_like(last), (gains.G, kicks), reverse=True)[1]
