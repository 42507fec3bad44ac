"""log Z of a chain of Gaussians, whose derivative is a sum of smoothed statistics.

With z_t = (P_t)^-1 (smoothed mean - predicted mean) and S_t = z_t z_t' + P_t^-1 (smoothed - predicted
covariance) P_t^-1 for the predicted covariance P_t of frame t,

    d log Z = sum_t  log_scale_t' - <J_t', E (x - c)(x - c)'> / 2 + <h_t', E (x - c)> + <c_t', J E (x - c) -
    h>
            + sum_t  <b_t', z_{t+1}> + <Q_t', S_{t+1}> / 2 + <A_t', z_{t+1} mean_t' + S_{t+1} A_t P_t|t>
            + <m', z_1> + <P', S_1> / 2 ,

a prime at a parameter being its tangent. Since P_t|t A_t' z_{t+1} leads from the filtered mean to the
smoothed one, the factor of A_t' is z_{t+1} E x_t' + (S_{t+1} - z_{t+1} z_{t+1}') A_t P_t|t as well. No
inverse of Q occurs. The rule is linear in the tangents and made of operations that JAX can differentiate, so
that both modes work, to any order.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from chainrule.svae.messages import _chain as chain
from chainrule.svae.messages import _dense as dense


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def log_normaliser(m, P, steps: chain.Steps, frames: chain.Frames, method: str) -> Float[Array, ""]:
    return jnp.sum(chain.forward(m, P, steps, frames, method).log_normaliser)


def _pushforward(method, primals, tangents):
    m, P, steps, frames = primals
    filtered = chain.forward(m, P, steps, frames, method)
    m_dot, P_dot, steps_dot, frames_dot = tangents
    of_noise = not isinstance(steps_dot.Q, SymbolicZero)
    (mean, covariance, _), scores = chain.backward(filtered, steps, method, scored=True, of_noise=of_noise)
    z, S = _start_scores(m, P, mean[0], covariance[0])

    last = len(mean) - 1
    terms = [_inner(m_dot, lambda: z), _inner(P_dot, lambda: _with_mean(z, S) / 2)]
    of_A = lambda: scores.z[:, :, None] * mean[:, None, :] + scores.moved
    terms += [
        _inner_steps(steps_dot.A, lambda: of_A()[:-1], last),
        _inner_steps(steps_dot.Q, lambda: _with_mean(scores.z, scores.S)[:-1] / 2, last),
        _inner_steps(steps_dot.b, lambda: scores.z[:-1], last),
    ]
    off = mean - frames.centre
    if frames.J.ndim == 2:
        of_J = lambda: -(jnp.diagonal(covariance, axis1=1, axis2=2) + off**2) / 2
    else:
        of_J = lambda: -(covariance + off[:, :, None] * off[:, None, :]) / 2
    pull = lambda: chain.times(frames.J, off) - frames.h
    terms += [
        _inner(frames_dot.J, of_J),
        _inner(frames_dot.h, lambda: off),
        _inner(frames_dot.centre, pull),
        _inner(frames_dot.log_scale, lambda: jnp.ones_like(off[:, 0])),
    ]
    return jnp.sum(filtered.log_normaliser), sum(terms)


log_normaliser.defjvp(_pushforward, symbolic_zeros=True)


def _start_scores(m, P, mean, covariance):
    """z_1 and S_1 of the module's formula, less z_1 z_1'."""
    inverse = dense.inverse_lower(dense.cholesky(dense.guarded(dense.numbers(P))))
    ahead = chain.Moments(dense.numbers(mean), dense.numbers(covariance), None)
    told = chain.score(chain.Gains(inverse, inverse, inverse, inverse), dense.numbers(m), ahead)
    return dense.array(told.z), dense.array(told.S)


def _with_mean(z, S):
    return S + z[..., :, None] * z[..., None, :]


def _inner(dot, statistic):
    return 0.0 if isinstance(dot, SymbolicZero) else jnp.sum(dot * statistic())


def _inner_steps(dot, statistic, last):
    """The same for a parameter of the steps up to `last`, which has an axis of them or not."""
    if isinstance(dot, SymbolicZero):
        return 0.0
    found = statistic()
    return jnp.sum(dot[:last] * found) if dot.ndim == found.ndim else jnp.sum(dot * jnp.sum(found, 0))
