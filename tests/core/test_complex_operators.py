"""Products with Hessians and Gauss-Newton matrices of complex functions, in real and imaginary parts."""

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.core.operators import ggnvp, hvp


def complex_problem():
    """A function of a complex and a real leaf, neither holomorphic nor real, and an x and a v for it."""
    rng = np.random.default_rng(0)
    draw = lambda: {"z": rng.normal(size=2) + 1j * rng.normal(size=2), "x": rng.normal(size=2)}
    return lambda x: jnp.exp(1j * x["z"]) * x["x"] + jnp.conj(x["z"]) ** 2, draw(), draw()


def parts(tree):
    """All real and all imaginary parts, as one real vector."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([p for y in leaves for p in ([y.real, y.imag] if jnp.iscomplexobj(y) else [y])])


def whole(flat):
    """What `parts` takes apart, of a complex problem: its leaves, by name, are x and z."""
    return {"x": flat[:2], "z": flat[2:4] + 1j * flat[4:]}


def quartic(y):
    return jnp.sum(jnp.abs(y) ** 4 + jnp.abs(y[0] - 2j) ** 2)


def test_complex_numbers_are_real_and_imaginary_parts():
    f, x, v = complex_problem()
    g = lambda y: quartic(y) + jnp.sum(y.real**3 * y.imag)

    @jax.jit
    def all_of_them(x, v):
        loss = lambda x: g(f(x))
        ours = [hvp(loss, x, v), hvp(loss, x)(v), ggnvp(f, g, x, v), ggnvp(f, g, x)(v), ggnvp(f, None, x, v)]
        H = jax.hessian(lambda flat: loss(whole(flat)))(parts(x))
        J = jax.jacobian(lambda flat: parts(f(whole(flat))))(parts(x))
        of_g = jax.hessian(lambda y: g(y[:2] + 1j * y[2:]))(parts(f(x)))
        dense = [H, H, J.T @ of_g @ J, J.T @ of_g @ J, J.T @ J]
        return ours, [whole(matrix @ parts(v)) for matrix in dense]

    for product, like in zip(*all_of_them(x, v), strict=True):
        assert product["x"].dtype == float and product["z"].dtype == complex
        np.testing.assert_allclose(parts(product), parts(like), rtol=1e-11)


def test_complex_gauss_newton_matrices_are_positive():
    f, x, _ = complex_problem()
    G = jax.jit(jax.vmap(lambda flat: parts(ggnvp(f, quartic, x, whole(flat)))))(jnp.eye(6))
    np.testing.assert_allclose(G, G.T, rtol=1e-11, atol=1e-11)
    eigenvalues = np.linalg.eigvalsh(G)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1] and eigenvalues[-1] > 0
    assert hvp(lambda z: jnp.abs(z) ** 2, 1.0 + 0j, 1j) == 2j


def test_half_the_squared_norm_of_complex_predictions():
    """G = Re J^H J: a real vector in, a real vector out."""
    rng = np.random.default_rng(0)
    J = rng.normal(size=(6, 4)) + 1j * rng.normal(size=(6, 4))
    v = rng.normal(size=4)
    product = ggnvp(lambda x: jnp.asarray(J) @ x, None, jnp.zeros(4), v)
    assert product.dtype == float
    np.testing.assert_allclose(product, (J.conj().T @ J).real @ v, rtol=1e-12)
