"""Local mean field: block coordinate ascent as a fixed point, and its derivative.

settle(update, a, start, adjoint)   the q with q = update(a, q), and the record of how it was found

A bound L(a, q) of independent factors q is raised by setting each factor in turn to its best, given the
others. One round over all of them is the map `update`. It never lowers L, and where it moves nothing any
more, dL/dq = 0: there dL/da is the partial derivative, and none flows through q. What else is made of q, such
as a sample that is decoded, does depend on a through q; that derivative is what `adjoint` is about.

Implicit()   exact where the iteration has converged, in memory that does not grow with the number of rounds
OneStep()    as if the other factors did not depend on a: what the original of these models takes
Unrolled()   through all rounds, which are all kept

Source: Johnson et al., Composing graphical models with neural networks (NIPS 2016), which takes the second;
the slides "User-defined primitives: fixed point iteration" for the first.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from chainrule.core import Implicit, OneStep, Stats, Status, Unrolled, fixed_point
from chainrule.core.adjoints import Adjoint

IMPLICIT = Implicit()
OnFailure = Literal["one-step", "nan", "raise"]


def settle(
    update: Callable[[Any, PyTree], PyTree],
    a: Any,
    start: PyTree,
    *,
    adjoint: Adjoint = IMPLICIT,
    rtol: ArrayLike | None = None,
    max_steps: ArrayLike = 200,
    on_failure: OnFailure = "one-step",
) -> tuple[PyTree, Stats]:
    """Repeat a round of block ascent until it moves nothing; of one datum, under `vmap` of many.

    Args:
        update: one round, from (a, q) to q.
        a: what the factors depend on: expected statistics, potentials.
        start: q to begin with; no derivative flows into it.
        adjoint: how q is differentiated with respect to a.
        rtol: of `chainrule.core.fixed_point`.
        max_steps: rounds allowed.
        on_failure: what becomes of a datum that has not settled. Any q gives a bound, if a loose one, so by
            default ("one-step") its q stands, with the derivative of a last round in place of an implicit
            one that does not exist; stats says which data those are. Or "nan", or "raise".

    Returns:
        q, and stats with the status of each datum.

    Raises:
        RuntimeError: with on_failure="raise", for a datum that has not settled.
    """
    settings = dict(rtol=rtol, max_steps=max_steps)
    if on_failure != "one-step" or isinstance(adjoint, OneStep | Unrolled):
        strict = on_failure if on_failure != "one-step" else "ignore"
        solution = fixed_point(update, a, start, adjoint=adjoint, on_failure=strict, **settings)
        return solution.value, solution.stats
    found = fixed_point(update, lax.stop_gradient(a), start, on_failure="ignore", **settings)
    at, settled = lax.stop_gradient(found.value), found.stats.status == Status.CONVERGED
    keep = lambda q: jax.tree.map(lambda q, at: jnp.where(settled, q, at), q, at)
    # Where it has not settled, a round from the end onwards: that does not depend on q, so that its implicit
    # derivative is that of one round.
    onwards = fixed_point(
        lambda a, q: update(a, keep(q)), a, at, adjoint=adjoint, on_failure="ignore", **settings
    ).value
    stay = lambda q, at: jnp.where(settled, q, at + (q - lax.stop_gradient(q)))
    return jax.tree.map(stay, onwards, at), found.stats
