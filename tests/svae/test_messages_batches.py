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


def shapes_of_factored(jaxpr, found):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cholesky":
            found.append(equation.invars[0].aval.shape)
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    shapes_of_factored(inner, found)
    return found


def test_shared_parameters_share_the_covariances():
    """No matrix of a batch is factored unless precisions are the batch's own."""
    lds, R, y = problem(6)
    smooth = jax.vmap(lambda R, y: lds_smoother(lds, observe(y, None, R)), (None, 0))
    shared = shapes_of_factored(jax.make_jaxpr(smooth)(R[0], y).jaxpr, [])
    assert shared and all(B not in shape for shape in shared)
    own = shapes_of_factored(
        jax.make_jaxpr(jax.vmap(lambda R, y: lds_smoother(lds, observe(y, None, R))))(R, y).jaxpr, []
    )
    assert any(B in shape for shape in own)


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
