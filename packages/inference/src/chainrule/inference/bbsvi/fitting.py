"""Climb the evidence lower bound.

    fit(key, log_density, mean, optimizer, family=, steps=)    -> Fitted

Source: Kucukelbir et al., Automatic differentiation variational inference, JMLR 2017; Dhaka et al., Robust,
accurate stochastic optimization for variational inference, NeurIPS 2020, for averaging the last iterates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from chainrule.core import Status
from chainrule.inference.bbsvi.families import INIT_SCALE, Family, MeanField
from chainrule.inference.bbsvi.objective import Entropy, LogDensity, bound

# A rise by so many nats, or by this part of the bound, is none: it is within a few roundings of float32.
ROUNDING = 1e-6


class Progress(NamedTuple):
    """One chunk of steps."""

    step: int  # steps so far, skipped ones included
    elbo: float  # mean over the chunk's steps, in nats
    standard_error: float  # of that mean
    skipped: int  # steps so far that were not finite


class Fitted(NamedTuple):
    """A fit and how it came about."""

    q: Any  # parameters of the family: the mean over the last chunk's steps
    last: Any  # those after the last step
    optimizer_state: Any  # after the last step
    elbo: Float[np.ndarray, " steps"]  # an estimate for each step taken or skipped, in nats
    skipped: int  # steps at which the bound or its gradient was not finite: q stayed as it was
    status: Status  # CONVERGED, MAX_STEPS, or NONFINITE: a whole chunk was skipped
    history: list[Progress]  # one for each chunk


def fit(
    key: Key[Array, ""],
    log_density: LogDensity,
    mean: Float[Array, " D"],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    family: Family = MeanField(),  # noqa: B008
    draws: int = 10,
    entropy: Entropy = "path",
    antithetic: bool = False,
    natural_gradient: bool = False,
    start: Any = None,
    init_scale: float = INIT_SCALE,
    chunk: int = 100,
    patience: int = 3,
    callback: Callable[[Progress, Any], None] | None = None,
) -> Fitted:
    """Fit a family to a log density by stochastic gradients of the evidence lower bound.

    The fit has converged if from chunk to chunk the mean bound rises by less than its own noise,

        mean_i - mean_{i-1} <= sqrt(error_i^2 + error_{i-1}^2),

    or by less than a millionth, `patience` times in a row. What rises more slowly is not seen; longer chunks
    see more.

    Args:
        key: for a family's start and for the draws. The same key takes the same steps, in any chunks.
        log_density: log p(z, data) of one vector z, in nats, up to a constant. For a pytree, compose it with
            the second result of `jax.flatten_util.ravel_pytree`.
        mean: where to start.
        optimizer: any of optax, such as optax.adam(0.05); it is handed the gradient of minus the bound.
        steps: at most so many, a multiple of chunk.
        family: MeanField(), FullRank() or Mixture(components).
        draws: for each step.
        entropy: "path", "closed" or "total", see `bbsvi.objective`.
        antithetic: whether draws come in pairs, mirrored at the mean. Where the target is nearly quadratic,
            that takes the noise out of the mean's gradient, and doubles the variance of the scales'.
        natural_gradient: whether the optimizer gets the natural gradient; for Gaussian families. With
            optax.sgd its rate is then a fraction of the way, whatever the scales of the target.
        start: parameters to start from, in place of mean and init_scale.
        init_scale: standard deviation to start from.
        chunk: steps compiled together; after each the host looks.
        patience: chunks in a row without progress that end the fit.
        callback: callback(Progress, parameters) after each chunk.

    Returns:
        Fitted.

    Raises:
        ValueError: at once, for settings out of range.

    Example:
        >>> target = lambda z: -jnp.sum((z - 1.0) ** 2) / 2
        >>> found = fit(jax.random.key(0), target, jnp.zeros(3), optax.adam(0.05), steps=1000)
        >>> print(found.status.name, bool(jnp.all(jnp.abs(found.q.mean - 1) < 0.1)))
        CONVERGED True
    """
    if entropy not in get_args(Entropy):
        raise ValueError(f"fit: entropy = {entropy!r} must be one of {get_args(Entropy)}")
    if chunk < 2 or steps < chunk or steps % chunk:
        raise ValueError(f"fit: chunk = {chunk} must be at least 2 and divide steps = {steps}")
    if patience < 1:
        raise ValueError(f"fit: patience must be at least 1, got {patience}")
    init_key, steps_key = jax.random.split(key)
    q = family.init(init_key, jnp.asarray(mean), init_scale) if start is None else start
    objective = lambda key, q: bound(key, log_density, q, family, draws, entropy, antithetic)
    advance = _advance(objective, optimizer, family if natural_gradient else None, chunk)
    state = (q, optimizer.init(q))
    elbos: list[np.ndarray] = []
    history: list[Progress] = []
    mean_q, skipped, quiet, status = q, 0, 0, Status.MAX_STEPS
    for first in range(0, steps, chunk):
        state, mean_q, elbo, taken = advance(state, steps_key, first)
        elbo, taken = np.asarray(elbo), np.asarray(taken)
        elbos.append(elbo)
        skipped += int(np.sum(~taken))
        history.append(_progress(first + chunk, elbo[taken], skipped))
        if callback is not None:
            callback(history[-1], state[0])
        if not taken.any():
            status = Status.NONFINITE
            break
        quiet = quiet + 1 if _no_progress(history) else 0
        if quiet == patience:
            status = Status.CONVERGED
            break
    return Fitted(mean_q, *state, np.concatenate(elbos), skipped, status, history)


def _advance(objective, optimizer, natural, chunk):
    """A compiled chunk of steps: state -> state, mean parameters, bounds, whether each step was taken."""

    def step(carry, key):
        (q, optimizer_state), total = carry
        value, gradient = jax.value_and_grad(objective, 1)(key, q)
        if natural is not None:
            gradient = natural.natural(q, gradient)
        leaves = jax.tree.leaves((value, gradient))
        taken = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
        updates, moved_state = optimizer.update(jax.tree.map(jnp.negative, gradient), optimizer_state, q)
        moved = optax.apply_updates(q, updates), moved_state
        state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), moved, (q, optimizer_state))
        total = jax.tree.map(lambda total, x: total + x, total, state[0])
        return (state, total), (value, taken)

    @jax.jit
    def advance(state, key, first):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, first + i))(jnp.arange(chunk))
        zero = jax.tree.map(jnp.zeros_like, state[0])
        (state, total), (elbo, taken) = lax.scan(step, (state, zero), keys)
        return state, jax.tree.map(lambda total: total / chunk, total), elbo, taken

    return advance


def _progress(step: int, elbo: np.ndarray, skipped: int) -> Progress:
    mean = float(np.mean(elbo)) if len(elbo) else float("nan")
    error = float(np.std(elbo, ddof=1) / len(elbo) ** 0.5) if len(elbo) > 1 else float("inf")
    return Progress(step, mean, error, skipped)


def _no_progress(history: list[Progress]) -> bool:
    if len(history) < 2:
        return False
    before, now = history[-2:]
    rounding = ROUNDING * max(1.0, abs(now.elbo))
    noise = (before.standard_error**2 + now.standard_error**2) ** 0.5
    return now.elbo - before.elbo <= max(noise, rounding)
