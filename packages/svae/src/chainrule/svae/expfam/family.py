"""What all families share, over whole pytrees of them: inner products, divergences, natural-gradient steps.

inner(eta, statistics)          <eta, t>, entry by entry of the batch
kl(q, p)                        the divergence of a pytree of families, one number
valid(eta)                      whether each entry is inside its family
natural_step(eta, target, rho)  towards the target, and no further than the family goes

A family's parameters form an open convex set. So eta + rho (target - eta) stays inside it for every rho in
[0, 1] where the target is inside; and for rho small enough, where it is not.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

HALVINGS = 40  # of a step that leads outside; 2**-40 of it is below the resolution of float32
Parameters = TypeVar("Parameters")


@runtime_checkable
class Family(Protocol):
    """Natural parameters of one family, with leading axes for a batch."""

    def log_normalizer(self) -> Float[Array, "*batch"]:
        """A(eta), in nats."""
        ...

    def expected_statistics(self) -> Any:
        """E t = grad A(eta), in the same class: each field is what the parameter is paired with."""
        ...

    def kl(self, other: Any) -> Float[Array, "*batch"]:
        """KL(self || other), in nats."""
        ...

    def is_valid(self) -> Bool[Array, "*batch"]:
        """Whether there is such a distribution; False for NaN."""
        ...


def inner(eta: Family, statistics: Any) -> Float[Array, "*batch"]:
    """<eta, t> of each entry of the batch, whose shape is that of the log normaliser."""
    rank = len(jax.eval_shape(lambda eta: eta.log_normalizer(), eta).shape)
    products = jax.tree.map(
        lambda a, t: jnp.sum(a * t, axis=tuple(range(rank, jnp.ndim(a)))), eta, statistics
    )
    return jax.tree.reduce(jnp.add, products)


def kl(q: PyTree, p: PyTree) -> Float[Array, ""]:
    """KL(q || p) of independent families: the sum over a pytree and its batches, in nats.

    Args:
        q, p: pytrees of families, of one structure and of the same shapes.

    Raises:
        TypeError: if a leaf is not a family.

    Example:
        >>> half, three_quarters = (Categorical(jnp.log(jnp.array(p))) for p in ([0.5, 0.5], [0.75, 0.25]))
        >>> print(f"{kl([half], [three_quarters]):.4f} {kl([half], [half]):.4f}")
        0.1438 0.0000
    """
    divergences = jax.tree.map(lambda q, p: jnp.sum(q.kl(p)), *_families("kl", q, p), is_leaf=_is_family)
    return jax.tree.reduce(jnp.add, divergences)


def valid(eta: PyTree) -> PyTree:
    """Whether each family of a pytree, entry by entry of its batch, has such a distribution."""
    return jax.tree.map(lambda family: family.is_valid(), *_families("valid", eta), is_leaf=_is_family)


def natural_step(eta: Parameters, target: Parameters, rho: ArrayLike) -> tuple[Parameters, PyTree]:
    """eta + rho (target - eta) for each family, entry by entry, with rho halved until that is allowed.

    With F(mu) an objective of the expected statistics mu = grad A(eta), and eta0 the prior, the natural
    gradient of F - KL(eta || eta0) is target - eta, where target = eta0 + dF/dmu. If F is linear in mu, as
    in a conjugate model, target is a sum of statistics and inside the family: no step is shortened, and
    rho = 1 is the exact posterior. Otherwise target may lie outside. Then rho is halved until a step of
    *twice* that length stays inside, so that nothing comes to lie close to the border, where a precision
    has no bound.

    Args:
        eta: a pytree of families, inside them.
        target: the same, anywhere.
        rho: step size, in (0, 1].

    Returns:
        the new parameters, and for each family the rho that was used, entry by entry. It is zero, and eta as
        it was, only where no step of 2**-40 or more was allowed. A target that is NaN makes its entry NaN.

    Raises:
        TypeError: if a leaf is not a family.
        ValueError: for a rho outside (0, 1], where it is not traced.
    """
    if not isinstance(rho, jax.core.Tracer) and not np.all((np.asarray(rho) > 0) & (np.asarray(rho) <= 1)):
        raise ValueError(f"natural_step: rho must be in (0, 1], got {rho}: part of the way to the target")
    etas, targets = _families("natural_step", eta, target)
    structure = jax.tree.structure(etas, is_leaf=_is_family)
    leaves = (jax.tree.leaves(tree, is_leaf=_is_family) for tree in (etas, targets))
    steps = [_step(family, goal, rho) for family, goal in zip(*leaves, strict=True)]
    return jax.tree.unflatten(structure, [s[0] for s in steps]), jax.tree.unflatten(
        structure, [s[1] for s in steps]
    )


def _step(eta, target, rho):
    inside = target.is_valid()

    def at(rho):
        def leaf(a, goal):
            part = jnp.reshape(rho, rho.shape + (1,) * (a.ndim - rho.ndim)).astype(a.dtype)
            return a + part * (goal - a)

        return jax.tree.map(leaf, eta, target)

    def allowed(rho):
        return inside | at(2 * rho).is_valid()

    def shorten(state):
        rho, halvings = state
        return jnp.where(allowed(rho), rho, rho / 2), halvings + 1

    dtype = jax.tree.leaves(eta)[0].dtype
    start = jnp.broadcast_to(jnp.asarray(rho, dtype), inside.shape)
    unfinished = lambda state: (state[1] < HALVINGS) & ~jnp.all(allowed(state[0]))
    rho, _ = lax.while_loop(unfinished, shorten, (start, 0))
    rho = jnp.where(allowed(rho), rho, 0)
    return at(rho), rho


def _is_family(node: Any) -> bool:
    return isinstance(node, Family)


def _families(caller, *trees):
    for tree in trees:
        for leaf in jax.tree.leaves(tree, is_leaf=_is_family):
            if not _is_family(leaf):
                raise TypeError(
                    f"{caller}: {type(leaf).__name__} is not a family: every leaf must be NIW, MNIW, "
                    "Dirichlet, Gaussian, Categorical, or a class with the methods of expfam.Family"
                )
    return trees
