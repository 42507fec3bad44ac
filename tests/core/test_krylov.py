"""Lanczos against dense linear algebra: eigenvalues, their error bounds, invariant subspaces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core.krylov import extremal_eigenvalues, lanczos, largest_eigenvalue
from chainrule.core.operators import hvp
from chainrule.core.status import Status

KEY = jax.random.key(0)


def matrix(eigenvalues, dtype=np.float64, seed=0):
    """A self-adjoint matrix with these eigenvalues, and its eigenvectors."""
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    M = rng.normal(size=(n, n))
    if np.issubdtype(dtype, np.complexfloating):
        M = M + 1j * rng.normal(size=(n, n))
    Q = np.linalg.qr(M)[0]
    return ((Q * eigenvalues) @ Q.conj().T).astype(dtype), Q.astype(dtype)


@functools.partial(jax.jit, static_argnums=2)
def tridiagonal(A, v0, steps):
    return lanczos(lambda v: A @ v, v0, steps)


@functools.partial(jax.jit, static_argnums=1)
def extremes(A, steps, rtol=None):
    return extremal_eigenvalues(KEY, lambda v: A @ v, A[0], steps=steps, rtol=rtol)


def dense(T):
    """T as a matrix, by another hand."""
    d, e = np.asarray(T.diagonal), np.asarray(T.off_diagonal)[:-1]
    return np.diag(d) + np.diag(e, 1) + np.diag(e, -1)


# Tridiagonalisation -------------------------------------------------------------------------------

DTYPES = [np.float32, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_basis_is_orthonormal_and_makes_a_tridiagonal(dtype):
    """Also after an eigenvalue has been found to rounding, where the three-term recurrence alone loses it."""
    A, _ = matrix(np.r_[np.linspace(0, 1, 39), 50.0], dtype)
    T = tridiagonal(A, jnp.ones(40, dtype), 30)
    V = np.asarray(T.vectors).T
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(V.conj().T @ V, np.eye(30), atol=30 * eps)
    np.testing.assert_allclose(V.conj().T @ A @ V, dense(T), atol=50 * 30 * eps)
    last = np.linalg.norm(A @ V[:, -1] - V @ (V.conj().T @ A @ V[:, -1]))
    np.testing.assert_allclose(T.off_diagonal[-1], last, rtol=1e4 * eps)
    assert T.rank == 30 and T.asymmetry < 30 * eps
    assert T.vectors.dtype == dtype and T.diagonal.dtype == np.finfo(dtype).dtype


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_an_invariant_subspace_is_seen(dtype, unit):
    """From three eigenvectors one cannot leave their span: beta is zero, and nothing is NaN."""
    A, Q = matrix(np.arange(1.0, 41.0), dtype)
    T = tridiagonal(A * dtype(unit), Q[:, [0, 9, 29]] @ jnp.ones(3, dtype), 6)
    assert T.rank == 3
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(T)[:3, :3]) / unit, [1, 10, 30], rtol=1e-4)
    assert not np.any(T.off_diagonal[2:]) and not np.any(T.diagonal[3:]) and not np.any(T.vectors[3:])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(T))


def test_all_steps_give_all_eigenvalues():
    eigenvalues = np.linspace(-3, 7, 25)
    T = tridiagonal(matrix(eigenvalues)[0], jnp.ones(25), 25)
    assert T.rank == 25 and T.off_diagonal[-1] == 0
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(T)), eigenvalues, atol=1e-12)


def test_zero_is_no_start_and_the_zero_matrix_is_a_matrix():
    nothing = tridiagonal(jnp.eye(4), jnp.zeros(4), 2)
    assert nothing.rank == 0 and not np.any(nothing.vectors)
    zero = tridiagonal(jnp.zeros((4, 4)), jnp.ones(4), 2)
    assert zero.rank == 1 and not np.any(zero.diagonal)


def test_pytrees_of_several_dtypes():
    """The vectors keep their structure; the work is done in the wider dtype."""
    A, _ = matrix(np.arange(1.0, 6.0))

    def matvec(v):
        w = jnp.asarray(A) @ jnp.concatenate([v["a"].ravel(), v["b"][0].astype(float)])
        return {"a": w[:4].reshape(2, 2), "b": (w[4:].astype(jnp.float32),)}

    v0 = {"a": jnp.ones((2, 2)), "b": (jnp.ones(1, jnp.float32),)}
    T = lanczos(matvec, v0, 3)
    assert T.vectors["a"].shape == (3, 2, 2) and T.vectors["b"][0].dtype == jnp.float32
    np.testing.assert_allclose(T.diagonal, tridiagonal(A, jnp.ones(5), 3).diagonal, rtol=1e-6)


def test_half_precision_vectors_are_worked_with_in_single():
    T = lanczos(lambda v: jnp.arange(1.0, 9.0, dtype=jnp.bfloat16) * v, jnp.ones(8, jnp.bfloat16), 2)
    assert T.vectors.dtype == jnp.bfloat16 and T.diagonal.dtype == jnp.float32
    np.testing.assert_allclose(T.diagonal[0], 4.5, rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_is_no_lack_of_symmetry(dtype):
    """Products rounded to a few digits pass for those of a self-adjoint matrix; lopsided ones do not."""
    M = np.random.default_rng(0).normal(size=(20, 20))
    A = jnp.asarray(M @ M.T / 20 + np.eye(20), dtype)
    largest = extremes(A, 20)[1]
    assert largest.status == Status.CONVERGED and largest.vector.dtype == dtype
    np.testing.assert_allclose(largest.value, np.linalg.eigvalsh(np.float64(A))[-1], rtol=1e-2)
    assert extremes(A + jnp.triu(A), 20)[1].status == Status.NONFINITE


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="steps must be from 1 to 3, the size of v0, got 4"):
        lanczos(lambda v: v, jnp.ones(3), 4)
    with pytest.raises(TypeError, match=r"lanczos: matvec makes float64\[2\] of float64\[3\]"):
        lanczos(lambda v: v[1:], jnp.ones(3), 2)
    with pytest.raises(TypeError, match=r"matvec makes float64\[3\] of float32\[3\]"):
        lanczos(lambda v: np.ones(3) * v, jnp.ones(3, jnp.float32), 2)
    with pytest.raises(TypeError, match="floating or complex arrays, got int"):
        lanczos(lambda v: v, jnp.arange(3), 2)
    with pytest.raises(TypeError, match="floating or complex"):
        lanczos(lambda v: v, {}, 1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        largest_eigenvalue(KEY, lambda v: v, jnp.ones(3), steps=0)


# Eigenvalues --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ends_of_the_spectrum(dtype):
    A, Q = matrix(np.r_[-3.0, np.linspace(-1, 4, 60), 5.0], dtype)
    eps = np.finfo(dtype).eps
    for pair, i in zip(extremes(A, 50), (0, -1), strict=True):
        assert pair.status == Status.CONVERGED
        np.testing.assert_allclose(pair.value, np.linalg.eigvalsh(A)[i], atol=100 * eps)
        np.testing.assert_allclose(abs(np.vdot(Q[:, i], pair.vector)), 1.0, rtol=1e3 * eps)
        np.testing.assert_allclose(A @ pair.vector, pair.value * pair.vector, atol=pair.residual + 50 * eps)
        assert pair.residual <= eps**0.75 * 5 and pair.vector.dtype == dtype


def test_a_residual_is_an_error_bound():
    """After few steps the value is off, by no more than it says, and says so."""
    eigenvalues = np.linspace(-1, 1, 200)
    A, _ = matrix(eigenvalues)
    for steps in (4, 30):
        smallest, largest = extremes(A, steps, 1e-8)
        assert smallest.status == largest.status == Status.MAX_STEPS
        for pair in (smallest, largest):
            distance = np.min(np.abs(eigenvalues - pair.value))
            assert distance <= pair.residual and pair.residual > 1e-6
        assert -1 < smallest.value < largest.value < 1  # Rayleigh quotients
    assert extremes(A, 30, 0.1)[1].status == Status.CONVERGED


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_eigenvalues_know_no_units(unit):
    A, _ = matrix(np.arange(1.0, 21.0), np.float32)
    pair = extremes(A * np.float32(unit), 20)[1]
    assert pair.status == Status.CONVERGED
    np.testing.assert_allclose(pair.value / unit, 20.0, rtol=1e-5)


def test_few_different_eigenvalues():
    """The Krylov space is full after one, two steps; the rest of T is made up, and must not be seen."""
    for eigenvalues in ([2.0] * 5, [-2.0] * 5, [0.0] * 5, [-1.0, -1.0, 3.0, 3.0, 3.0]):
        smallest, largest = extremes(matrix(eigenvalues)[0], 5)
        np.testing.assert_allclose(smallest.value, min(eigenvalues), atol=1e-14)
        np.testing.assert_allclose(largest.value, max(eigenvalues), atol=1e-14)
        assert smallest.status == largest.status == Status.CONVERGED
        np.testing.assert_allclose(np.linalg.norm(largest.vector), 1.0, rtol=1e-14)


def test_what_has_no_answer_is_nan():
    A, _ = matrix(np.arange(1.0, 6.0))
    lopsided = A + np.triu(np.ones((5, 5)), 1)
    for broken in (lopsided, A * np.nan, A * np.inf, 1j * A):
        for pair in extremes(broken, 5):
            assert pair.status == Status.NONFINITE
            assert np.isnan(pair.value) and np.all(np.isnan(pair.vector)) and np.isnan(pair.residual)
    assert tridiagonal(lopsided, jnp.ones(5), 5).asymmetry > 0.01


def test_lanes_are_as_if_alone():
    A = jnp.stack([matrix(np.linspace(1, last, 12), seed=s)[0] for s, last in enumerate((2.0, 5.0))])
    lanes = jax.vmap(lambda A: extremes(A, 12)[1])(A)
    np.testing.assert_allclose(lanes.value, [2.0, 5.0], rtol=1e-12)
    assert list(lanes.status) == [Status.CONVERGED] * 2


def test_sharpest_direction_of_a_pytree_function():
    f = lambda x: jnp.sum(jnp.cos(x["u"]) * x["v"][0]) + 3 * x["v"][1] ** 2
    x = {"u": jnp.array([0.1, 0.2, 0.3]), "v": jnp.array([1.0, 2.0])}
    top = jax.jit(lambda x: largest_eigenvalue(KEY, hvp(f, x), x))(x)
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    H = jax.hessian(lambda flat: f(unravel(flat)))(flat)
    np.testing.assert_allclose(top.value, np.linalg.eigvalsh(H)[-1], rtol=1e-12)
    assert jax.tree.structure(top.vector) == jax.tree.structure(x)


def test_derivatives_of_an_eigenvalue():
    """Of first and second order, against perturbation theory."""
    A, Q = matrix(np.arange(1.0, 6.0))
    B, _ = matrix(np.linspace(-1, 2, 5), seed=1)
    like = jax.ShapeDtypeStruct((5,), float)
    f = lambda t: largest_eigenvalue(KEY, lambda v: (A + t * B) @ v, like).value
    couplings = Q.T @ B @ Q[:, -1]
    second = 2 * np.sum(couplings[:-1] ** 2 / (5 - np.arange(1, 5)))
    first, second_by_us = jax.jit(lambda t: jax.jvp(jax.grad(f), (t,), (1.0,)))(0.0)
    np.testing.assert_allclose([first, second_by_us], [couplings[-1], second], rtol=1e-9)


def test_a_derivative_where_one_step_fills_the_space():
    like = jax.ShapeDtypeStruct((5,), float)
    f = lambda t: largest_eigenvalue(KEY, lambda v: t * v, like).value
    assert jax.jit(jax.grad(f))(2.0) == pytest.approx(1.0)


@pytest.mark.parametrize("summed", [False, True], ids=["a matrix each", "a share each"])
def test_devices_may_have_matrices_of_their_own(summed):
    """A start that is the same on all devices, a matvec that varies, or is a sum over them."""
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec("devices")
    total = lambda v: jax.lax.psum(v, "devices") if summed else v

    def of_device(d):
        top = lambda d: extremal_eigenvalues(KEY, lambda v: total(d[0] * v), jnp.ones(4))[1].value
        T = lanczos(lambda v: total(d[0] * v), jnp.ones(4), 4)
        return jnp.full(1, top(d)), T.diagonal[None], jax.grad(top)(d)

    d = jnp.arange(1.0, 5.0)
    value, diagonal, gradient = jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=P, out_specs=P))(d[None])
    np.testing.assert_allclose(value, 4, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(diagonal), 10, rtol=1e-12)
    np.testing.assert_allclose(gradient, [[0, 0, 0, 1]], atol=1e-7)
