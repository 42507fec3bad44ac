"""The two passes over a chain of Gaussians: forward to filtered moments, backward to smoothed ones or to
samples.

Step t leads from frame t to frame t + 1. There are as many steps as frames: the last leads to a frame
beyond the end which nobody has seen, so that frames are all alike.

Forward, with L L' the predicted covariance, m its mean, J, h and c of the frame's potential:

    K K' = I + L' J L ,   F = L K^-T ,   filtered covariance F F' ,   filtered mean m + F F' (h - J (m - c))
    next covariance  A F F' A' + Q ,   next mean  A mean + b

Backward, with N N' the next covariance, C = F F' A' N^-T, G = C N^-1 and E = I - G A, covariances are sums of
squares:

    smoothed covariance  E F (E F)' + G (Q + that of t + 1) G'
    smoothed mean        filtered + G (that of t + 1 - next mean)

Rounding in G enters their sum by its square only, however small Q is. What a frame adds to log Z is
evaluated at the filtered mean, where potential and prior are both near their largest: elsewhere large terms
cancel.

Covariances depend on no mean, so that under jax.vmap over h, b or m alone they are computed once.
"""

from typing import Any, NamedTuple

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

    F, mean       square root of the filtered covariance, and the mean
    next_inverse  inverse of the Cholesky factor of the covariance that is predicted from there
    next_mean     the mean that is predicted from there
    log_normaliser  what the frame adds to log Z
    end           transposed Cholesky factor of the covariance that is predicted from the last frame
    """

    F: Float[Array, "frames dim dim"]
    mean: Float[Array, "frames dim"]
    next_inverse: Float[Array, "frames dim dim"]
    next_mean: Float[Array, "frames dim"]
    log_normaliser: Float[Array, " frames"]
    end: Float[Array, "dim dim"]


class Gains(NamedTuple):
    """N^-1, C, G and E F of the module's formulas."""

    inverse: Float[Array, "frames dim dim"]
    C: Float[Array, "frames dim dim"]
    G: Float[Array, "frames dim dim"]
    EF: Float[Array, "frames dim dim"]


class Moments(NamedTuple):
    """Smoothed mean and covariance, and covariance with the next state."""

    mean: Float[Array, "*frames dim"]
    covariance: Float[Array, "*frames dim dim"]
    cross: Float[Array, "*frames dim dim"] | None


class Scores(NamedTuple):
    """z_{t+1}, S_{t+1} and S_{t+1} A_t P_t|t of the formula in _normaliser.py, for step t, S less z z'."""

    z: Float[Array, "*frames dim"]
    S: Float[Array, "*frames dim dim"] | None
    moved: Float[Array, "*frames dim dim"]


def forward(m, P, steps: Steps, frames: Frames, method: str) -> Filtered:
    if method != "sequential":
        return _forward_at_once(m, P, steps, frames, method)
    if dense.is_small(P):
        return _forward_of_vectors(m, P, steps, frames)
    diagonal = frames.J.ndim == 2

    def frame(carry, potential, step):
        U, m = carry
        F, inverse = update(U, potential.J, diagonal)
        mean = filtered_mean(F, m, potential, diagonal)
        mean, log_normaliser = weighed(F, inverse, m, mean, potential, diagonal)
        U, inverse, m = predict(F, mean, step)
        return (U, m), (F, mean, inverse, m, log_normaliser)

    start = dense.transposed(dense.cholesky(dense.guarded(P))), m
    (U, _), (F, mean, inverse, m, log_normaliser) = along(frame, start, steps, None, frames)
    return Filtered(F, mean, inverse, m, log_normaliser, U)


def _forward_of_vectors(m, P, steps: Steps, frames: Frames) -> Filtered:
    """What is predicted of each frame goes from one to the next; all else as vectors over the frames."""
    diagonal = frames.J.ndim == 2

    def frame(carry, potential, step):
        U, m = carry
        potential, step = jax.tree.map(dense.numbers, (potential, step))
        F, _ = update(U, potential.J, diagonal, checked=False)
        mean = filtered_mean(F, m, potential, diagonal)
        U, _, m = predict(F, mean, step)
        return (U, m), tuple(dense.array(x) for x in (U, mean, m))

    start = dense.transposed(dense.cholesky(dense.guarded(dense.numbers(P)))), dense.numbers(m)
    next_U, mean, next_mean = along(frame, start, steps, None, frames)[1]
    U = jnp.concatenate([dense.array(start[0])[None], next_U[:-1]])
    before = jnp.concatenate([m[None], next_mean[:-1]])
    U, ahead, before, mean, potentials = jax.tree.map(dense.lanes, (U, next_U, before, mean, frames))
    F, inverse = update(U, potentials.J, diagonal)
    mean, log_normaliser = weighed(F, inverse, before, mean, potentials, diagonal)
    next_inverse = dense.inverse_lower(dense.transposed(ahead))
    F, mean, next_inverse = (dense.many(x) for x in (F, mean, next_inverse))
    found = F, mean, next_inverse, next_mean, log_normaliser, next_U[-1]
    spoilt = 0 * jnp.sum(inverse[0][0])  # NaN if any is: the loop did not check, and went on
    return Filtered(*(x + spoilt for x in found))


def _forward_at_once(m, P, steps: Steps, frames: Frames, method: str) -> Filtered:
    """Prefixes say what is predicted of each state; then all frames are filtered side by side."""
    every = Steps(
        *(jnp.broadcast_to(x, (len(frames.h), *x.shape[-n:])) for x, n in zip(steps, (2, 2, 1), strict=True))
    )
    h = frames.h + times(frames.J, frames.centre)
    pieces = jax.vmap(element)(frames.J, h, every.A, every.b, every.Q)
    before = prefixes(combine, jax.tree.map(lambda x: x[:-1], pieces), method) if len(h) > 1 else pieces
    root = dense.transposed(dense.cholesky(dense.guarded(P)))

    def predicted(piece):
        potential = Frames(
            dense.square(piece.U.T), dense.apply(piece.U.T, piece.w), jnp.zeros_like(m), jnp.zeros_like(m[0])
        )
        F, _ = update(root, potential.J, False)
        U, _, mean = predict(F, filtered_mean(F, m, potential, False), Steps(piece.A, piece.C, piece.b))
        return U, mean

    U, means = jax.vmap(predicted)(before)
    U, means = (jnp.concatenate([x[None], y])[: len(h)] for x, y in ((root, U), (m, means)))

    def frame(U, m, potential, step):
        F, inverse = update(U, potential.J, diagonal)
        mean = filtered_mean(F, m, potential, diagonal)
        mean, log_normaliser = weighed(F, inverse, m, mean, potential, diagonal)
        U, inverse, m = predict(F, mean, step)
        return (F, mean, inverse, m, log_normaliser), U

    diagonal = frames.J.ndim == 2
    found, U = jax.vmap(frame)(U, means, frames, every)
    return Filtered(*found, U[-1])


def times(J, x):
    """J x for all frames, J being full or diagonal."""
    return J * x if J.ndim == 2 else dense.many(dense.apply(dense.lanes(J), dense.lanes(x)))


def along(step, carry, steps: Steps, length, *frames, reverse=False):
    """lax.scan of step(carry, *frames', steps'), where parameters of steps have an axis of time or not."""
    moves = steps.A.ndim == 3, steps.Q.ndim == 3, steps.b.ndim == 2
    moving = tuple(x if yes else None for x, yes in zip(steps, moves, strict=True))

    def body(carry, now):
        *here, now = now
        now = Steps(*(x if yes else fixed for x, yes, fixed in zip(now, moves, steps, strict=True)))
        return step(carry, *here, now)

    return lax.scan(body, carry, (*frames, moving), length=length, reverse=reverse)


def update(U, J, diagonal: bool, checked: bool = True):
    """F, and K^-1 with K as in the module's formula; NaN if rounding in K K' has eaten a direction.

    U is L', for in a product of many matrices it is the transposed left one that is slow.
    """
    bend = dense.transposed(dense.scaled(J, dense.transposed(U))) if diagonal else dense.product(U, J)
    square = dense.one_plus(dense.product(bend, dense.transposed(U)))
    inverse = dense.factored(square)[1]
    inverse = dense.nan_unless_sound(inverse, square) if checked else inverse
    return dense.transposed(dense.product(inverse, U)), inverse


def filtered_mean(F, m, potential: Frames, diagonal: bool):
    J, h, centre, _ = potential
    times_J = dense.scaled if diagonal else dense.apply
    pull = dense.apply(dense.transposed(F), dense.minus(h, times_J(J, dense.minus(m, centre))))
    return dense.plus(m, dense.apply(F, pull))


def weighed(F, inverse, m, mean, potential: Frames, diagonal: bool):
    """Filtered mean, found once more, and what the frame adds to log Z.

    With w = L^-1 (mean - m), the latter is the largest value of h'(x - c) - (x - c)'J (x - c)/2 - w'w/2.
    Where the frame is much more precise than the prior, the mean given is off by rounding in a prior mean far
    away, which is nothing beside the prior and much beside the frame.
    """
    J, h, centre, log_scale = potential
    times_J = dense.scaled if diagonal else dense.apply
    Ft, across = dense.transposed(F), dense.transposed(inverse)
    pull = dense.apply(Ft, dense.minus(h, times_J(J, dense.minus(m, centre))))
    w = dense.apply(across, pull)
    off = dense.minus(mean, centre)
    bent = times_J(J, off)
    more = dense.minus(dense.apply(Ft, dense.minus(h, bent)), dense.apply(inverse, w))
    squares = dense.inner(more, more) - dense.inner(bent, off) - dense.inner(w, w)
    top = dense.inner(h, off) + squares / 2 + dense.log_determinant(inverse)
    return dense.plus(mean, dense.apply(F, more)), log_scale + top


def predict(F, mean, step: Steps):
    """Transposed Cholesky factor of the covariance of the next state, the factor's inverse, and the mean."""
    P = dense.plus(dense.square(dense.product(step.A, F)), step.Q)
    L, inverse = dense.factored(dense.guarded(P))
    return dense.transposed(L), inverse, dense.plus(dense.apply(step.A, mean), step.b)


def gains(F, inverse, A) -> Gains:
    """Of the step from a state with square root F of its covariance to one with the inverse N^-1."""
    V = dense.product(inverse, dense.product(A, F))
    C = dense.product(F, dense.transposed(V))
    G, CV = dense.products(C, inverse, V)
    return Gains(inverse, C, G, dense.minus(F, CV))


def all_gains(filtered: Filtered, A) -> Gains:
    F, inverse = filtered.F, filtered.next_inverse
    F, inverse, A = (dense.lanes(x) for x in (F, inverse, jnp.broadcast_to(A, F.shape)))
    return Gains(*(dense.many(x) for x in gains(F, inverse, A)))


def backward(
    filtered: Filtered, steps: Steps, method: str, *, scored: bool = False, of_noise: bool = True
) -> Any:
    """Smoothed moments of all frames, and the scores of all steps, or None; with scores, cross may be None,
    and so may S if they are not wanted of the noise.

    Gains of large matrices are made on the way, while what they are made of is at hand; those of small ones
    before, as vectors over all frames.
    """
    F, mean, next_inverse, next_mean = filtered[:4]
    end = Moments(next_mean[-1], dense.square(dense.transposed(filtered.end)), None)
    if method == "sequential" and not dense.is_small(F):

        def frame(ahead, F, mean, inverse, next_mean, step):
            step_gains = gains(F, inverse, step.A)
            state = smooth(step_gains, mean, next_mean, ahead, step.Q, crossed=not (scored and of_noise))
            told = score(step_gains, next_mean, ahead, state.cross) if scored else None
            return state._replace(cross=None), (state, told)

        return along(frame, end, steps, None, F, mean, next_inverse, next_mean, reverse=True)[1]

    known = all_gains(filtered, steps.A)
    if method == "sequential":

        def frame(ahead, mean, next_mean, step_gains, step):
            G, here, predicted, Q = jax.tree.map(dense.numbers, (step_gains, mean, next_mean, step.Q))
            state = smooth(G, here, predicted, ahead, Q)
            return state._replace(cross=None), Moments(*(dense.array(x) for x in state))

        start = jax.tree.map(dense.numbers, end)
        found = along(frame, start, steps, None, mean, next_mean, known, reverse=True)[1]
    else:
        found = _backward_at_once(filtered, known, steps, method, end)
    if not scored:
        return found, None
    mean, P = (jnp.concatenate([x[1:], y[None]]) for x, y in zip(found[:2], end[:2], strict=True))
    now = jax.tree.map(dense.lanes, (known, next_mean, Moments(mean, P, None)))
    return found, Scores(*(dense.many(x) for x in score(*now)))


def smooth(gains: Gains, mean, next_mean, ahead: Moments, Q, crossed: bool = True) -> Moments:
    """Smoothed moments of a frame from its filtered mean and those of the next frame."""
    more = dense.plus(ahead.covariance, Q)
    if crossed:
        cross, spread = dense.products(gains.G, ahead.covariance, more)
    else:
        cross, spread = None, dense.product(gains.G, more)
    P = dense.sum_of_products(gains.EF, gains.EF, spread, gains.G)
    mean = dense.plus(mean, dense.apply(gains.G, dense.minus(ahead.mean, next_mean)))
    return Moments(mean, dense.symmetric(P), cross)


def score(gains: Gains, next_mean, ahead: Moments, cross=None) -> Scores:
    """How log Z changes with what the step predicts; given cross, with its coefficients and mean only."""
    across = dense.laid_out(dense.transposed(gains.inverse))
    z = dense.apply(across, dense.apply(gains.inverse, dense.minus(ahead.mean, next_mean)))
    if cross is not None:
        bent = dense.minus(dense.product(gains.inverse, dense.transposed(cross)), dense.transposed(gains.C))
        return Scores(z, None, dense.product(across, bent))
    whitened = dense.product(dense.product(gains.inverse, ahead.covariance), across)
    half = dense.product(across, dense.minus_one(whitened))
    return Scores(z, dense.product(half, gains.inverse), dense.product(half, dense.transposed(gains.C)))


def backward_path(filtered: Filtered, G, kicks, method: str) -> Float[Array, "frames dim"]:
    """Each frame's filtered mean, a kick, and G times that by which the next frame is not where predicted."""
    start = filtered.next_mean[-1]
    if method != "sequential":
        # where the path leaves the filtered means, and by what the frame after was predicted wrongly
        jumps = jnp.concatenate([filtered.mean[1:], start[None]]) - filtered.next_mean
        pieces = Affine(G, dense.apply(G, jumps) + kicks, jnp.zeros_like(G))
        return filtered.mean + prefixes(combine_affine, pieces, method, reverse=True).mean

    def frame(ahead, now):
        G, here, next_mean, kick = (dense.numbers(x) for x in now)
        here = dense.plus(dense.plus(here, kick), dense.apply(G, dense.minus(ahead, next_mean)))
        return here, dense.array(here)

    now = G, filtered.mean, filtered.next_mean, kicks
    return lax.scan(frame, dense.numbers(start), now, reverse=True)[1]


def kicks(filtered: Filtered, gains: Gains, Q, state, noise) -> Float[Array, "frames dim"]:
    """What makes a path of the posterior out of standard normal numbers (frames, dim), for states and for
    process noise.
    """
    root = jnp.broadcast_to(dense.cholesky(Q), gains.G.shape)
    found = dense.apply(gains.EF, state) - dense.apply(gains.G, dense.apply(root, noise))
    return found.at[-1].set(dense.apply(filtered.F[-1], state[-1]))


def _backward_at_once(filtered: Filtered, gains: Gains, steps: Steps, method: str, end: Moments) -> Moments:
    G = gains.G
    Q = jnp.broadcast_to(steps.Q, G.shape)
    left = dense.sum_of_products(gains.EF, gains.EF, dense.product(G, Q), G)
    G_all, _, C = prefixes(
        combine_affine, Affine(G, jnp.zeros_like(filtered.mean), left), method, reverse=True
    )
    last = jnp.broadcast_to(end.covariance, G.shape)
    P = dense.symmetric(C + dense.product(dense.product(G_all, last), dense.transposed(G_all)))
    mean = backward_path(filtered, G, jnp.zeros_like(filtered.mean), method)
    return Moments(mean, P, dense.product(G, jnp.concatenate([P[1:], end.covariance[None]])))
