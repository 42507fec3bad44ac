"""Products with Hessians, Gauss-Newton matrices and higher derivatives, against the dense ones."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0
from jax.experimental.jet import jet

from chainrule.core.operators import contract, ggnvp, hvp
from chainrule.core.testing import compilations


def net(parameters, inputs):
    for layer in parameters:
        inputs = jnp.tanh(inputs @ layer["W"] + layer["b"][None])
    return inputs


def loss(parameters, inputs, targets):
    return jnp.sum((net(parameters, inputs) - targets) ** 2) + jnp.sum(parameters[0]["W"] ** 3)


def problem(sizes=(3, 4, 2), dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(dtype))
    draw = lambda: [{"W": normal(m, n), "b": normal(n)} for m, n in itertools.pairwise(sizes)]
    return draw(), draw(), (normal(5, sizes[0]), normal(5, sizes[-1]))


def dense(f, x):
    """f as a function of one vector, the vector, and the way back from it."""
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    return lambda flat: f(unravel(flat)), flat


def ravel(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def close(tree, like, rtol):
    """The same structure, and each leaf as good as rtol of the largest number in its counterpart."""
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.max(np.abs(b)))


def sizes_in(jaxpr):
    """The size of every array that a jaxpr computes, with those of its loops and calls."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes_in(inner)


def operations(f, *args):
    """How many operations there are in a trace of f."""
    return sum(1 for _ in sizes_in(jax.make_jaxpr(f)(*args).jaxpr))


# Hessian-vector products --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_hvp_agrees_with_the_dense_hessian(dtype, rtol):
    x, v, data = problem(dtype=dtype)
    f, flat = dense(lambda x: loss(x, *data), x)
    product = hvp(loss, x, v, args=data)
    close(ravel(product), jax.jit(jax.hessian(f))(flat) @ ravel(v), rtol)
    assert jax.tree.structure(product) == jax.tree.structure(x)


def test_hvp_without_v_is_a_linear_map():
    x, v, data = problem()
    f, flat = dense(lambda x: loss(x, *data), x)

    @jax.jit
    def columns(flat):
        return jax.vmap(hvp(f, flat))(jnp.eye(flat.size)), jax.hessian(f)(flat)

    close(*columns(flat), 1e-13)
    close(hvp(loss, x, args=data)(v), hvp(loss, x, v, args=data), 1e-13)


def test_the_linear_map_does_the_nonlinear_work_once():
    x, v, data = problem()
    H = hvp(loss, x, args=data)
    names = {equation.primitive.name for equation in jax.make_jaxpr(H)(v).jaxpr.eqns}
    assert not names & {"tanh", "exp", "logistic"}
    assert "tanh" in str(jax.make_jaxpr(lambda v: hvp(loss, x, v, args=data))(v))


def test_hvp_is_differentiable_and_compiles_once():
    x, v, data = problem()

    @jax.jit
    def curvature(x, v):
        return jnp.vdot(ravel(v), ravel(hvp(loss, x, v, args=data)))

    moved = lambda t: jax.tree.map(lambda x, v: x + t * v, x, v)
    second = jax.jit(jax.grad(jax.grad(lambda t: loss(moved(t), *data))))
    with compilations() as compiled:
        for t in (0.0, 0.1):
            np.testing.assert_allclose(curvature(moved(t), v), second(t), rtol=1e-12)
    assert compiled["curvature"] == 1
    third = jax.grad(lambda t: curvature(moved(t), v))(0.0)
    np.testing.assert_allclose(third, jax.grad(second)(0.0), rtol=1e-12)


# Gauss-Newton products ----------------------------------------------------------------------------


def softmax_loss(y):
    """Convex, with a Hessian that is neither diagonal nor constant."""
    return jnp.sum(jax.nn.logsumexp(y, axis=1))


@pytest.mark.parametrize("g", [None, softmax_loss])
def test_ggnvp_agrees_with_the_dense_matrices(g):
    x, v, (inputs, _) = problem()
    f, flat = dense(lambda x: ravel(net(x, inputs)), x)
    J = jax.jacobian(f)(flat)
    H = np.eye(10) if g is None else jax.hessian(lambda y: g(y.reshape(5, 2)))(f(flat))
    product = ggnvp(net, g, x, v, args=(inputs,))
    close(ravel(product), J.T @ H @ J @ ravel(v), 1e-12)
    close(ggnvp(net, g, x, args=(inputs,))(v), product, 1e-12)


def test_ggnvp_is_linear_symmetric_and_positive():
    x, v, (inputs, _) = problem()
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    G = jax.jit(lambda v: ravel(ggnvp(net, softmax_loss, x, unravel(v), args=(inputs,))))
    matrix = jax.vmap(G)(jnp.eye(flat.size)).T
    close(matrix @ ravel(v), G(ravel(v)), 1e-12)
    close(matrix, matrix.T, 1e-12)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1] and eigenvalues[-1] > 0


def test_ggnvp_is_the_hessian_of_a_linear_model_only():
    rng = np.random.default_rng(0)
    A, x, v = jnp.asarray(rng.normal(size=(10, 4))), jnp.ones(4), jnp.asarray(rng.normal(size=4))
    g = lambda y: softmax_loss(y.reshape(5, 2))
    close(ggnvp(lambda x: A @ x, g, x, v), hvp(lambda x: g(A @ x), x, v), 1e-12)
    bent = lambda x: A @ jnp.sin(x)
    assert not np.allclose(ggnvp(bent, g, x, v), hvp(lambda x: g(bent(x)), x, v), rtol=1e-2)


def test_nothing_dense_is_built():
    """1000 unknowns: no array larger than the data, let alone a matrix of a million."""
    x, v, data = problem(sizes=(20, 40, 4))
    n = ravel(x).size
    for product in (
        lambda v: hvp(loss, x, v, args=data),
        lambda v: ggnvp(net, softmax_loss, x, v, args=data[:1]),
        lambda v: contract(loss, x, [v, v, v], args=data),
    ):
        assert max(sizes_in(jax.make_jaxpr(product)(v).jaxpr)) <= n


# Contractions -------------------------------------------------------------------------------------


def layered(x):
    """A scalar function with jitted calls and a custom_jvp in it."""
    y = jnp.tanh(x[0] * x[1])
    return jax.nn.softplus(y * x[2]) + jnp.exp(-(y**2)) / (2 + jax.jit(jnp.sin)(x[0]))


def smooth(x):
    """One for jet, which takes custom_jvp functions apart."""
    return jnp.exp(jnp.sin(x[0]) * jnp.tanh(x[1])) / (2 + x[2] ** 2)


def nested(f, x, vs):
    """The rival: forward mode in forward mode."""
    for v in vs:
        f = lambda x, f=f, v=v: jax.jvp(f, (x,), (v,))[1]
    return f(x)


def by_jet(f, x, v, n):
    """The other rival: Taylor mode."""
    series = [v] + [jnp.zeros_like(v)] * (n - 1)
    return jet(f, (x,), (series,), factorial_scaled=False)[1][-1] * math.factorial(n)


X = np.array([0.3, -0.7, 0.5])
V = [np.array(v) for v in ([1.0, 0.5, -0.2], [0.1, -1.0, 0.4], [0.7, 0.2, 0.9])]


@pytest.mark.parametrize("n", range(1, 7))
def test_contract_agrees_with_jet_and_nested_jvp(n):
    @jax.jit
    def all_of_them(x, v):
        ours = [contract(f, x, [v] * n) for f in (layered, smooth)]
        return ours, [nested(layered, x, [v] * n), by_jet(smooth, x, v, n)]

    np.testing.assert_allclose(*all_of_them(X, V[0]), rtol=1e-12)


def test_contract_of_an_exponential():
    a, n = jnp.array([0.3, 0.2, -0.4]), 9
    value = jax.jit(lambda x, v: contract(lambda x: jnp.exp(a @ x), x, [v] * n))(X, V[0])
    np.testing.assert_allclose(value, (a @ V[0]) ** n * jnp.exp(a @ X), rtol=1e-13)


@pytest.mark.parametrize("which", [[0, 1], [0, 1, 2], [1, 0, 1, 0], [0, 0, 1, 2, 1]])
def test_mixed_directions_in_any_order(which):
    vs = [V[i] for i in which]
    copies = [v.copy() for v in vs]

    @jax.jit
    def all_of_them(x):
        return nested(layered, x, vs), [contract(layered, x, vs) for vs in (vs, vs[::-1], copies)]

    oracle, ours = all_of_them(X)
    np.testing.assert_allclose(ours, oracle, rtol=1e-12)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_contract_is_the_dense_tensor_contracted(dtype, rtol):
    u, v, w = (jnp.asarray(v, dtype) for v in V)
    x = jnp.asarray(X, dtype)
    tensor = jax.jit(jax.hessian(jax.grad(layered)))(x)
    value = contract(layered, x, [u, v, w])
    assert value.dtype == dtype
    np.testing.assert_allclose(value, jnp.einsum("ijk,i,j,k", tensor, u, v, w), rtol=rtol)
    # The talk's contract(f, x, vs) has one index left over.
    close(contract(jax.grad(layered), x, [u, v]), jnp.einsum("ijk,i,j->k", tensor, u, v), 10 * rtol)


def test_no_directions_is_the_function():
    assert contract(layered, X, []) == layered(X)
    assert contract(lambda x: (x, 3), 2.0, []) == (2.0, 3)


def test_a_repeated_direction_costs_no_more_than_jet():
    ours = [operations(lambda x, v, n=n: contract(smooth, x, [v] * n), X, V[0]) for n in range(1, 9)]
    jets = [operations(functools.partial(by_jet, smooth, n=n), X, V[0]) for n in range(1, 9)]
    assert all(us <= them for us, them in zip(ours, jets, strict=True)), (ours, jets)
    assert ours[7] < 8 * ours[3]  # cubic at most; nested forward mode grows by 3**4 = 81
    rival = operations(lambda x, v: nested(smooth, x, [v] * 6), X, V[0])
    assert rival > 5 * ours[5]


def test_equal_directions_are_shared_in_any_order_and_in_pytrees():
    f = lambda x: layered(x["x"])
    u, v = map(jnp.asarray, V[:2])
    count = lambda vs: operations(lambda x: contract(f, x, vs), {"x": X})
    grouped = count([{"x": d} for d in (u, u, u, v, v)])
    assert count([{"x": d} for d in (u, v, u, v, u)]) == grouped
    assert count([{"x": +d} for d in (u, v, u, v, u)]) > 2 * grouped


@jax.tree_util.register_pytree_node_class
class Halved:
    """A pytree that makes its leaf anew whenever it is taken apart."""

    def __init__(self, twice):
        self.twice = twice

    def tree_flatten(self):
        return [self.twice / 2], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(2 * leaves[0])


def test_directions_are_told_apart_whose_arrays_do_not_live_long():
    f = lambda x: x.twice[0] * x.twice[1] * x.twice[2] / 8
    vs = [Halved(2 * np.eye(3)[i]) for i in range(3)]
    for _ in range(10):
        assert contract(f, Halved(jnp.ones(3)), vs) == 1.0


def test_contract_goes_through_jit_vmap_grad_and_loops():
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jax.jit(jnp.sin)(y) * x, x**2).sum()

    x, v = jnp.asarray(X), jnp.asarray(V[0])
    third = lambda x: contract(f, x, [v, v, v])
    line = lambda t: f(x + t * v)
    derivatives = [line]
    for _ in range(4):
        derivatives.append(jax.jacfwd(derivatives[-1]))
    four, *three = jax.jit(lambda t: (derivatives[4](t), derivatives[3](t), derivatives[3](t + 0.1)))(0.0)
    xs = jnp.stack([x, x + 0.1 * v])
    np.testing.assert_allclose(jax.jit(jax.vmap(third))(xs), three, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda x: jax.jvp(third, (x,), (v,))[1])(x), four, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(third))(x) @ v, four, rtol=1e-12)


def test_contract_honours_custom_rules():
    """jet differentiates through them; what a user says about a derivative is to be believed."""

    @jax.custom_jvp
    def clipped(x):
        return jnp.minimum(x, 1.0)

    clipped.defjvp(lambda x, t: (clipped(*x), t[0]))  # a straight-through estimator
    assert contract(lambda x: clipped(x) ** 3, 1.0, [1.0, 1.0, 1.0]) == 6.0
    assert contract(lambda x: clipped(x), 2.0, [1.0]) == 1.0


def test_effects_survive_sharing():
    seen = []

    def f(x):
        for _ in range(2):
            jax.debug.callback(lambda x: seen.append(float(x)), x)
        return x**3

    assert contract(f, 2.0, [1.0, 1.0]) == 12.0
    jax.effects_barrier()
    assert seen == [2.0, 2.0]


def test_signed_zeros_are_different_numbers():
    f = lambda x: jnp.arctan2(x, 0.0) - jnp.arctan2(x, -0.0)
    np.testing.assert_allclose(contract(lambda x: x * f(jax.lax.stop_gradient(x)), 0.0, [1.0]), -np.pi)


# What x may hold ----------------------------------------------------------------------------------


def test_integer_leaves_are_held_fixed():
    x = {"w": jnp.array([1.0, 2.0, 3.0]), "i": 1, "key": jax.random.key(0)}
    fixed = np.zeros((), float0)
    v = {"w": jnp.array([1.0, 1.0, 1.0]), "i": fixed, "key": fixed}
    f = lambda x: {"y": x["w"] ** 3, "n": x["i"] + jnp.arange(2)}
    g = lambda y: y["y"][1] * y["n"][1]
    H = hvp(lambda x: x["w"][x["i"]] ** 3, x)
    for product in (H(v), H(H(v)), ggnvp(f, lambda y: g(y) ** 2, x, v), contract(lambda x: x, x, [v])):
        assert jax.tree.structure(product) == jax.tree.structure(x)
        assert product["i"].dtype == product["key"].dtype == float0
    close(H(v)["w"], jnp.array([0.0, 12.0, 0.0]), 1e-14)
    close(ggnvp(f, lambda y: g(y) ** 2, x, v)["w"], jnp.array([0.0, 2 * 4 * 12.0**2, 0.0]), 1e-14)
    close(contract(f, x, [v, v])["y"], 6 * x["w"], 1e-14)
    assert contract(f, x, [v])["n"].dtype == float0


@pytest.mark.parametrize("product", [hvp, functools.partial(ggnvp, lambda x: x["w"])])
def test_a_number_where_nothing_varies_is_refused(product):
    x = {"w": jnp.ones(2), "i": 1}
    f = lambda x: jnp.sum(x["w"] if isinstance(x, dict) else x)
    with pytest.raises(TypeError, match=r"x\['i'\] is int.* held fixed, so v\['i'\] must be np.zeros"):
        product(f, x, {"w": jnp.ones(2), "i": 1})


def test_directions_unlike_x_are_refused():
    f = lambda x: jnp.sum(x["w"])
    x = {"w": jnp.ones(2, np.float32)}
    with pytest.raises(TypeError, match=r"v\['w'\] is float64\[2\], but x\['w'\] is float32\[2\]"):
        hvp(f, x, {"w": np.ones(2)})
    with pytest.raises(TypeError, match=r"v\['w'\] is float32\[3\]"):
        contract(f, x, [{"w": jnp.ones(3, np.float32)}])
    with pytest.raises(TypeError, match="v has structure"):
        ggnvp(f, None, x, jnp.ones(2))
    with pytest.raises(TypeError, match="x = 3 has no floating leaf"):
        hvp(f, 3, 1.0)
    with pytest.raises(TypeError, match=r"f must be a function f\(x, \*args\), got 3"):
        hvp(3, x, x)


def test_python_numbers_are_vectors():
    assert hvp(lambda x: x**3, 2.0, 1.0) == 12.0
    assert hvp(lambda x: x**3, 2.0, 1) == 12.0
    assert contract(lambda x: x**3, 2.0, [1, 1.0, True]) == 6.0


def test_a_vector_function_has_no_hessian():
    with pytest.raises(TypeError, match="scalar"):
        hvp(lambda x: x, jnp.ones(2), jnp.ones(2))
    with pytest.raises(TypeError, match="scalar"):
        ggnvp(lambda x: x, lambda y: y, jnp.ones(2), jnp.ones(2))
