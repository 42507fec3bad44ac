"""Hidden Markov models: what is known of hidden states from the log-likelihoods of their frames.

    p(z) = initial(z_1) prod_t transition_t(z_t, z_{t+1}) ,   p(z) prod_t exp(l_t(z_t)) / Z

    hmm_log_normaliser(hmm, l)        log Z, differentiable in both modes
    hmm_filter(hmm, l)                probabilities of z_t given the frames up to t
    hmm_smoother(hmm, l)              probabilities of z_t, and of its pairs with the next, given all frames
    hmm_sample(key, hmm, l, n)        paths of the posterior
    hmm_forecast(hmm, l, horizon)     probabilities of the states that follow
    hmm_viterbi(hmm, l)               the most probable path

All in logarithms, so that long sequences and transitions of probability zero do no harm; only where no path
at all is possible, everything is NaN. All take one sequence, and jax.vmap takes them to batches. Parameters
need not be normalised: under mean field they are expected logarithms. Then filter and forecast are forward
messages, scaled to sum to one, rather than probabilities.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int, Key

from chainrule.svae.messages._prefixes import chosen, prefixes


class HMM(NamedTuple):
    """Parameters, as logarithms; -inf for what cannot be.

    log_initial     (states,)
    log_transition  (states, states), rows are where it comes from; or one for each step, (frames - 1,
                    states, states)
    """

    log_initial: Float[Array, " states"]
    log_transition: Float[Array, "states states"] | Float[Array, "steps states states"]


class StateProbabilities(NamedTuple):
    """What the smoother finds.

    marginals       (frames, states), they sum to one in each frame
    pairs           (frames - 1, states, states), of z_t, rows, and z_{t+1}, columns
    log_normaliser  log Z, a number
    """

    marginals: Float[Array, "frames states"]
    pairs: Float[Array, "steps states states"]
    log_normaliser: Float[Array, ""]


class FilteredStates(NamedTuple):
    """What the filter finds.

    probabilities    (frames, states), given the frames so far
    log_normalisers  (frames,), what frame t adds to log Z: their sum is log Z
    """

    probabilities: Float[Array, "frames states"]
    log_normalisers: Float[Array, " frames"]


def hmm_log_normaliser(
    hmm: HMM, log_likelihoods: Float[Array, "frames states"], *, mask=None, method: str = "auto"
) -> Float[Array, ""]:
    """log Z, whose gradient is the smoother's probabilities: with respect to log_likelihoods the marginals,
    to log_transition the pairs. Forward and reverse mode both work, to any order. Arguments as for
    `hmm_smoother`.
    """
    l = _prepared("hmm_log_normaliser", hmm, log_likelihoods, mask)
    return _log_normaliser(*hmm, l, chosen("hmm_log_normaliser", method))


def hmm_smoother(
    hmm: HMM, log_likelihoods: Float[Array, "frames states"], *, mask=None, method: str = "auto"
) -> StateProbabilities:
    """Probabilities of all states given all frames.

    Args:
        hmm: parameters.
        log_likelihoods: of each frame under each state.
        mask: (frames,) of bools, false where a frame says nothing; what stands there may be NaN. A sequence
            that
            ended early is one whose last frames are masked.
        method: "sequential", "chunked", "associative" or "auto", as for `lds_smoother`.

    Raises:
        ValueError: if shapes disagree or method is another word.
    """
    l = _prepared("hmm_smoother", hmm, log_likelihoods, mask)
    return _smoothed(*hmm, l, chosen("hmm_smoother", method))


def hmm_filter(
    hmm: HMM, log_likelihoods: Float[Array, "frames states"], *, mask=None, method: str = "auto"
) -> FilteredStates:
    """Probabilities of each state given the frames so far. Arguments as for `hmm_smoother`."""
    l = _prepared("hmm_filter", hmm, log_likelihoods, mask)
    forward = _forward(*hmm, l, chosen("hmm_filter", method))
    return FilteredStates(jnp.exp(forward), _increments(*hmm, l, forward))


def hmm_sample(
    key: Key[Array, ""],
    hmm: HMM,
    log_likelihoods: Float[Array, "frames states"],
    n: int,
    *,
    mask=None,
    method: str = "auto",
) -> Int[Array, "n frames"]:
    """n independent paths of the posterior. Arguments as for `hmm_smoother`.

    Every frame draws, beforehand, a state for each state that may follow; a path then only looks up.
    Looking up is associative, so that paths are drawn in parallel, too.
    """
    l = _prepared("hmm_sample", hmm, log_likelihoods, mask)
    method = chosen("hmm_sample", method)
    forward = _forward(*hmm, l, method)
    steps, states = len(l) - 1, l.shape[1]
    back = forward[:-1, :, None] + _each(hmm.log_transition, steps)  # of z_t, rows, for each z_{t+1}
    back_key, last_key = jax.random.split(key)
    shape = (n, steps, states)
    choices = jax.random.categorical(
        back_key, jnp.broadcast_to(back[None], (n, *back.shape)), axis=2, shape=shape
    )
    last = jax.random.categorical(last_key, forward[-1], shape=(n,))
    return jax.vmap(lambda choices, last: _traced(choices, last, method))(choices, last)


def hmm_viterbi(
    hmm: HMM, log_likelihoods: Float[Array, "frames states"], *, mask=None
) -> Int[Array, " frames"]:
    """The most probable path, frame by frame. Arguments as for `hmm_smoother`."""
    l = _prepared("hmm_viterbi", hmm, log_likelihoods, mask)

    def step(best, now):
        here, transition = now
        scores = best[:, None] + transition
        return jnp.max(scores, 0) + here, jnp.argmax(scores, 0)

    best, choices = lax.scan(step, hmm.log_initial + l[0], (l[1:], _each(hmm.log_transition, len(l) - 1)))
    return _traced(choices, jnp.argmax(best), "sequential")


def hmm_forecast(
    hmm: HMM, log_likelihoods: Float[Array, "frames states"], horizon: int, *, mask=None, method: str = "auto"
) -> Float[Array, "horizon states"]:
    """Probabilities of the `horizon` states that follow the last frame.

    Arguments as for `hmm_smoother`, but transitions of steps are for frames + horizon - 1 steps.

    Raises:
        ValueError: also if horizon is not positive.
    """
    if horizon < 1:
        raise ValueError(f"hmm_forecast: horizon is {horizon}: it counts states, from 1 on")
    l = _prepared("hmm_forecast", hmm, log_likelihoods, mask, horizon)
    seen = len(l)
    l = jnp.concatenate([l, jnp.zeros((horizon, l.shape[1]), l.dtype)])
    return jax.nn.softmax(_forward(*hmm, l, chosen("hmm_forecast", method))[seen:], 1)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _log_normaliser(log_initial, log_transition, l, method):
    forward = _forward(log_initial, log_transition, l, method)
    return jnp.sum(_increments(log_initial, log_transition, l, forward))


def _pushforward(method, primals, tangents):
    log_initial, log_transition, l = primals
    marginals, pairs, log_normaliser = _smoothed(log_initial, log_transition, l, method)
    of_transition = pairs if log_transition.ndim == 3 else jnp.sum(pairs, 0)
    inner = lambda dot, found: 0.0 if isinstance(dot, SymbolicZero) else jnp.sum(dot * found)
    found = marginals[0], of_transition, marginals
    return log_normaliser, sum(inner(dot, x) for dot, x in zip(tangents, found, strict=True))


_log_normaliser.defjvp(_pushforward, symbolic_zeros=True)


def _smoothed(log_initial, log_transition, l, method):
    forward = _forward(log_initial, log_transition, l, method)
    backward = _backward(log_transition, l, method)
    pairs = forward[:-1, :, None] + _each(log_transition, len(l) - 1) + (l + backward)[1:, None, :]
    total = jnp.sum(_increments(log_initial, log_transition, l, forward))
    return StateProbabilities(jax.nn.softmax(forward + backward, 1), jax.nn.softmax(pairs, (1, 2)), total)


def _forward(log_initial, log_transition, l, method):
    """Of each frame, log of the sum over all that came before, to a constant: of the probabilities given
    those.
    """
    start = _normalised(log_initial + l[0])
    steps = _each(log_transition, len(l) - 1)
    if method == "sequential":
        step = lambda here, now: 2 * (_normalised(logsumexp(here[:, None] + now[1], axis=0) + now[0]),)
        rest = lax.scan(step, start, (l[1:], steps))[1]
    elif len(steps):
        reached = prefixes(_log_product, steps + l[1:, None, :], method)
        rest = _normalised(logsumexp(start[None, :, None] + reached, axis=1))
    else:
        rest = start[None][:0]
    return jnp.concatenate([start[None], rest])


def _backward(log_transition, l, method):
    """Of each frame, log of the sum over all that comes after, to a constant."""
    end = jnp.zeros_like(l[-1])
    steps = _each(log_transition, len(l) - 1)
    if method == "sequential":
        step = lambda ahead, now: 2 * (_normalised(logsumexp(now[1] + (ahead + now[0])[None], axis=1)),)
        rest = lax.scan(step, end, (l[1:], steps), reverse=True)[1]
    elif len(steps):
        rest = logsumexp(prefixes(_log_product, steps + l[1:, None, :], method, reverse=True), axis=2)
    else:
        rest = end[None][:0]
    return jnp.concatenate([rest, end[None]])


def _increments(log_initial, log_transition, l, forward):
    """What each frame adds to log Z. The parts are summed last, not along the way, where rounding would
    add up.
    """
    first = logsumexp(log_initial + l[0])
    into = logsumexp(forward[:-1, :, None] + _each(log_transition, len(l) - 1), axis=1)
    return jnp.concatenate([first[None], logsumexp(into + l[1:], axis=1)])


def _log_product(a, b):
    """The product of matrices, in logarithms, to a constant."""
    c = logsumexp(a[:, :, None] + b[None], axis=1)
    return c - jnp.max(c)


def _normalised(log_weights):
    return log_weights - logsumexp(log_weights, axis=-1, keepdims=True)


def _traced(choices: Int[Array, "steps states"], last, method):
    """The path that ends in `last`, choices[t] being the state of frame t for each state of the next."""
    if method == "sequential" or not len(choices):
        step = lambda state, choice: 2 * (choice[state],)
        rest = lax.scan(step, last.astype(choices.dtype), choices, reverse=True)[1]
    else:
        rest = prefixes(lambda a, b: a[b], choices, method, reverse=True)[:, last]
    return jnp.concatenate([rest, last[None].astype(choices.dtype)])


def _each(log_transition, steps):
    return jnp.broadcast_to(log_transition, (steps, *log_transition.shape[-2:]))


def _prepared(name, hmm, l, mask: Bool[Array, " frames"] | None, horizon=0):
    frames, states = l.shape
    steps = frames - 1 + horizon
    shape = hmm.log_transition.shape
    if hmm.log_initial.shape != (states,) or shape not in ((states, states), (steps, states, states)):
        raise ValueError(
            f"{name}: for log_likelihoods {l.shape}, log_initial must be {(states,)} and is "
            f"{hmm.log_initial.shape}, log_transition must be {(states, states)} or "
            f"{(steps, states, states)} and is {shape}"
        )
    return l if mask is None else jnp.where(mask[:, None], l, 0)
