"""Messages under jax.vmap, and dynamics of expected parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae.messages import (
    LDS,
    Potentials,
    expected_dynamics,
    lds_log_normaliser,
    lds_smoother,
    observe,
)

B, T = 5, 11


def problem(D, seed=0):
    rng = np.random.default_rng(seed)
    A = jnp.asarray(0.95 * np.linalg.qr(rng.normal(size=(D, D)))[0])
    W = rng.normal(size=(B, D, D))
    R = jnp.asarray(W @ np.swapaxes(W, 1, 2) + np.eye(D))
    return LDS(jnp.zeros(D), jnp.eye(D), A, 0.1 * jnp.eye(D)), R, jnp.asarray(rng.normal(size=(B, T, D)))


@pytest.mark.parametrize("D", [2, 6])
def test_a_row_of_a_batch_is_the_sequence_alone(D):
    lds, R, y = problem(D)
    mask = jnp.arange(T)[None] < jnp.array([11, 3, 7, 1, 10])[:, None]  # ragged lengths
    smooth = lambda R, y, mask: lds_smoother(lds, observe(y, None, R), mask=mask)
    rows = jax.jit(jax.vmap(smooth))(R, y, mask)
    alone = jax.jit(smooth)
    for i in range(B):
        expected = alone(R[i], y[i], mask[i])
        jax.tree.map(
            lambda x, z, i=i: np.testing.assert_allclose(x[i], z, rtol=1e-10, atol=1e-10), rows, expected
        )


def matrices_of_a_batch(jaxpr, D):
    """How many operations give a (D, D) matrix to each sequence of the batch, other than copies."""
    count = 0
    for equation in jaxpr.eqns:
        shapes = [x.aval.shape for x in equation.outvars]
        inner = [
            getattr(x, "jaxpr", x)
            for value in equation.params.values()
            for x in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
        ]
        inner = [x for x in inner if hasattr(x, "eqns")]
        count += sum(matrices_of_a_batch(x, D) for x in inner)
        if not inner and equation.primitive.name != "broadcast_in_dim":
            count += any(B in shape and shape[-2:] == (D, D) for shape in shapes)
    return count


@pytest.mark.parametrize("D", [2, 6, 10])
def test_shared_parameters_share_the_covariances(D):
    """No matrix of a batch is computed unless precisions are the batch's own."""
    lds, R, y = problem(D)
    smooth = lambda R, y: lds_smoother(lds, observe(y, None, R))
    shared = jax.make_jaxpr(jax.vmap(smooth, (None, 0)))(R[0], y)
    assert matrices_of_a_batch(shared.jaxpr, D) == 0
    own = jax.make_jaxpr(jax.vmap(smooth))(R, y)
    assert matrices_of_a_batch(own.jaxpr, D) > 0


def test_expected_dynamics_are_the_same_factor():
    rng = np.random.default_rng(2)
    D, count = 3, 400
    draws = rng.normal(size=(count, D, D)) / 2
    roots = rng.normal(size=(count, D, D)) / 2 + np.eye(D)
    precisions = roots @ np.swapaxes(roots, 1, 2)
    mean = lambda x: jnp.asarray(x.mean(0))
    expected = (
        mean(precisions),
        mean(precisions @ draws),
        mean(np.swapaxes(draws, 1, 2) @ precisions @ draws),
    )
    A, Q, more = expected_dynamics(*expected)
    assert (np.linalg.eigvalsh(more) > 0).all()
    before, after = rng.normal(size=(2, D))
    wanted = (
        -after @ expected[0] @ after / 2 + after @ expected[1] @ before - before @ expected[2] @ before / 2
    )
    off = after - A @ before
    found = -off @ np.linalg.solve(Q, off) / 2 - before @ more @ before / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_what_is_wrong_is_named():
    lds, _, y = problem(2)
    potentials = Potentials(jnp.ones((T, 2)), y[0])
    with pytest.raises(ValueError, match=r"lds.A is \(3, 2, 2\)"):
        lds_log_normaliser(lds._replace(A=jnp.zeros((3, 2, 2))), potentials)
    with pytest.raises(ValueError, match="belong together"):
        lds_smoother(lds, potentials, actions=jnp.zeros((T - 1, 1)))
    with pytest.raises(ValueError, match="'nan'"):
        observe(y[0], None, jnp.eye(2), mask="missing")
    with pytest.raises(ValueError, match="method is 'fast'"):
        lds_smoother(lds, potentials, method="fast")
