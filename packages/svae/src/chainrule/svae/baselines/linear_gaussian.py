"""A linear system that draws pixels linearly, fitted by expectation maximisation.

    x_1 ~ N(m, P) ,   x_{t+1} ~ N(A x_t + b, Q) ,   y_t ~ N(C x_t + d, R) ,   R diagonal

LinearGaussian.fit(frames, latents)       the fit, and the evidence after each round
fitted.smooth(frames, mask)               each frame as expected given all that were seen
fitted.forecast(seen, horizon)            frames to come
fitted.log_evidence(frames)               log p(frames), in nats

It begins with principal components of a few frames in a row, so that there may be more latents than a frame
has pixels, and directions that only show in motion. Each round smooths all films and regresses states on
states and pixels on states, by their expected moments. With parameters shared over films of one length, so
are the covariances of the smoother.

Source: Shumway and Stoffer, An approach to time series smoothing and forecasting using the EM algorithm
(Journal of Time Series Analysis 1982); the start is that of subspace identification.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from chainrule.svae import messages
from chainrule.svae.expfam import MNIW, join_columns, split_columns

FLOOR = 1e-5  # variance that no noise falls below: of a pixel, and of a latent whose own is about one


class LinearGaussian(NamedTuple):
    """Parameters; see the module's formula."""

    chain: messages.LDS
    C: Float[Array, "pixels latents"]
    d: Float[Array, " pixels"]
    R: Float[Array, " pixels"]  # variances

    @classmethod
    def fit(
        cls, frames: Float[Array, "films frames pixels"], latents: int, *, window: int = 5, rounds: int = 50
    ) -> tuple["LinearGaussian", Float[Array, " rounds"]]:
        """The fit, and log p(frames) before each round, in nats, which never falls.

        Args:
            frames: films to learn from, all of it seen.
            latents: at most window * pixels.
            window: frames in a row that the start is made from.
            rounds: of expectation maximisation.

        Raises:
            ValueError: for films no longer than the window, and for more latents than it has pixels.
        """
        _, length, pixels = frames.shape
        if not (1 <= window < length and 1 <= latents <= window * pixels):
            raise ValueError(
                f"LinearGaussian: {latents} latents from windows of {window} of {length} frames: the window "
                f"must be shorter than the films, latents at most {window * pixels}, as many as its pixels"
            )
        start = _start(frames, latents, window)
        return lax.scan(lambda fitted, _: _round(fitted, frames), start, length=rounds)

    def log_evidence(self, frames: Float[Array, "films frames pixels"]) -> Float[Array, ""]:
        """log p of all films, in nats."""
        return jnp.sum(self._smoothed(frames, None).log_normaliser)

    def smooth(
        self, frames: Float[Array, "films frames pixels"], mask: Bool[Array, " frames"] | None = None
    ) -> Float[Array, "films frames pixels"]:
        """Each frame as expected given those that were seen, of all films the same."""
        return self._drawn(self._smoothed(frames, mask).mean)

    def forecast(
        self, seen: Float[Array, "films frames pixels"], horizon: int
    ) -> Float[Array, "films horizon pixels"]:
        """What follows the frames seen, as expected."""
        ahead = lambda y: messages.lds_forecast(self.chain, self._potentials(y), horizon).mean
        return self._drawn(jax.vmap(ahead)(seen))

    def _drawn(self, states):
        return states @ self.C.T + jnp.broadcast_to(self.d, (*states.shape[:-1], len(self.d)))

    def _potentials(self, y):
        return messages.observe(y, self.C, self.R, d=self.d)

    def _smoothed(self, frames, mask):
        return jax.vmap(lambda y: messages.lds_smoother(self.chain, self._potentials(y), mask=mask))(frames)


def _round(fitted, frames):
    """Parameters that are best for the moments under the present ones, and the evidence of the present."""
    films, length, _ = frames.shape
    states = fitted._smoothed(frames, None)
    mean = states.mean
    inputs = join_columns(mean, bias=True)
    spread = jnp.sum(states.covariance, 0)  # over films
    xx = jnp.pad(jnp.sum(spread, 0), (0, 1)) + _outer(inputs, inputs)
    xx_but_last = xx - jnp.pad(spread[-1], (0, 1)) - inputs[:, -1].T @ inputs[:, -1]
    xx_but_first = jnp.sum(spread[1:], 0) + _outer(mean[:, 1:], mean[:, 1:])
    crossing = jnp.pad(jnp.sum(states.cross, (0, 1)), ((0, 1), (0, 0)))
    steps = MNIW(
        xx_but_last, crossing + _outer(inputs[:, :-1], mean[:, 1:]), xx_but_first, 1.0 * films * (length - 1)
    )
    pixels = MNIW(xx, _outer(inputs, frames), _outer(frames, frames), 1.0 * films * length)
    A, b, Q = _regression(steps)
    C, d, R = _regression(pixels)
    m = jnp.mean(mean[:, 0], 0)
    away = mean[:, 0] - m[None]
    P = spread[0] / films + away.T @ away / films
    chain = messages.LDS(m, _bounded(P), A, _bounded(Q), b)
    return LinearGaussian(chain, C, d, jnp.maximum(jnp.diagonal(R), FLOOR)), jnp.sum(states.log_normaliser)


def _outer(a, b):
    """Sum over films and frames of a b'."""
    return jnp.einsum("fti,ftj->ij", a, b)


def _regression(moments):
    """Coefficients, offset and noise of highest likelihood."""
    M, _, S, count = moments.standard()
    coefficients, _, offset = split_columns(M, M.shape[-1] - 1, bias=True)
    return coefficients, offset, S / count


def _bounded(covariance):
    return covariance + FLOOR * jnp.eye(len(covariance), dtype=covariance.dtype)


def _start(frames, latents, window):
    """Regressions on principal components of windows that end now, each of variance one."""
    length = frames.shape[1]
    kept = _components(
        frames, min(frames.shape[-1], 2 * latents)
    )  # or windows of many pixels would be too wide
    count = length - window + 1
    stacked = _components(jnp.concatenate([kept[:, i : i + count] for i in range(window)], -1), latents)
    states = stacked / jnp.sqrt(jnp.mean(stacked**2, (0, 1), keepdims=True) + FLOOR)

    def pairs(x, y):  # the sum of MNIW.statistics, of which one by one there are as many as pixels squared
        x = join_columns(x, bias=True)
        count = jnp.asarray(x.shape[0] * x.shape[1], x.dtype)
        return MNIW(_outer(x, x), _outer(x, y), _outer(y, y), count)

    A, b, Q = _regression(pairs(states[:, :-1], states[:, 1:]))
    C, d, R = _regression(pairs(states, frames[:, window - 1 :]))
    eye = jnp.eye(latents, dtype=frames.dtype)
    chain = messages.LDS(jnp.zeros(latents, frames.dtype), eye, A, _bounded(Q), b)
    return LinearGaussian(chain, C, d, jnp.maximum(jnp.diagonal(R), FLOOR))


def _components(x, count):
    """The principal components of most variance."""
    x = x - jnp.mean(x, (0, 1), keepdims=True)
    flat = x.reshape(-1, x.shape[-1])
    _, directions = jnp.linalg.eigh(flat.T @ flat / len(flat))
    return x @ directions[:, -count:]
