"""Exponential families agree with scipy's densities, their own derivatives, and double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from chainrule.svae import expfam
from chainrule.svae.expfam import MNIW, NIW, Categorical, Dirichlet, Gaussian

RNG = np.random.default_rng(0)


def spd(*shape, size=1.0):
    A = RNG.normal(size=(*shape, shape[-1]))
    return jnp.asarray(size * (A @ np.swapaxes(A, -1, -2) / shape[-1] + 0.3 * np.eye(shape[-1])))


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def positive(*shape):
    return jnp.asarray(RNG.uniform(0.2, 3, size=shape))


def gaussians():
    return Gaussian.of(draw(3), spd(3))


def niws():
    return NIW.of(draw(3), positive(), spd(3), 2 + positive())


def mniws():
    return MNIW.of(draw(2, 3), spd(3), spd(2), 1 + positive())


def dirichlets():
    return Dirichlet.of(positive(4))


def categoricals():
    return Categorical(draw(4))


FAMILIES = [gaussians, niws, mniws, dirichlets, categoricals]
CONJUGATE = [niws, mniws, dirichlets]


def cast(tree, dtype=jnp.float32):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


# Densities ------------------------------------------------------------------------------------------


def log_density(eta, statistics, log_base=0.0):
    return expfam.inner(eta, statistics) - eta.log_normalizer() + log_base


def test_gaussian_has_scipys_density():
    mean, covariance, x = draw(3), spd(3), draw(3)
    ours = log_density(Gaussian.of(mean, covariance), Gaussian(-jnp.outer(x, x) / 2, x))
    np.testing.assert_allclose(ours, scipy.stats.multivariate_normal.logpdf(x, mean, covariance), rtol=1e-12)


def test_niw_has_scipys_density():
    m, kappa, S, nu = draw(3), 0.7, spd(3), 4.3
    precision, mu = spd(3), draw(3)
    log_det = np.linalg.slogdet(precision)[1]
    statistics = NIW(-precision / 2, precision @ mu, -mu @ precision @ mu / 2, log_det / 2)
    ours = log_density(NIW.of(m, kappa, S, nu), statistics, -3 / 2 * log_det)
    theirs = scipy.stats.wishart.logpdf(precision, nu, np.linalg.inv(S))
    theirs += scipy.stats.multivariate_normal.logpdf(mu, m, np.linalg.inv(kappa * precision))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_mniw_has_scipys_density():
    M, K, S, nu = draw(2, 3), spd(3), spd(2), 3.1
    precision, A = spd(2), draw(2, 3)
    log_det = np.linalg.slogdet(precision)[1]
    statistics = MNIW(-A.T @ precision @ A / 2, (precision @ A).T, -precision / 2, log_det / 2)
    ours = log_density(MNIW.of(M, K, S, nu), statistics, (3 - 2 - 1) / 2 * log_det)
    theirs = scipy.stats.wishart.logpdf(precision, nu, np.linalg.inv(S))
    theirs += scipy.stats.matrix_normal.logpdf(A, M, np.linalg.inv(precision), K)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_dirichlet_has_scipys_density():
    alpha, pi = positive(4), jnp.array([0.1, 0.2, 0.3, 0.4])
    ours = log_density(Dirichlet.of(alpha), Dirichlet(jnp.log(pi)), -jnp.sum(jnp.log(pi)))
    np.testing.assert_allclose(ours, scipy.stats.dirichlet.logpdf(pi, alpha), rtol=1e-12)


def test_categorical_has_its_probabilities():
    p = jnp.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(log_density(Categorical.of(p), Categorical(jnp.eye(3)[1])), np.log(0.5))


# Derivatives and divergences ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_expected_statistics_are_the_gradient_of_the_log_normalizer(family):
    eta = family()
    assert_close(jax.grad(lambda eta: eta.log_normalizer())(eta), eta.expected_statistics(), rtol=1e-9)


@pytest.mark.parametrize("family", [gaussians, *CONJUGATE])
def test_standard_parameters_come_back(family):
    eta = family()
    assert_close(type(eta).of(*eta.standard()), eta, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_is_the_bregman_divergence_of_the_log_normalizer(family):
    """KL(q || p) = <eta_q - eta_p, E_q t> - A(q) + A(p), near and far; zero if and only if equal."""
    q, far = family(), family()
    for p in (far, jax.tree.map(lambda a, b: a + 0.01 * (b - a), q, far)):
        difference = jax.tree.map(jnp.subtract, q, p)
        expected = sum(
            jax.tree.leaves(jax.tree.map(lambda d, t: jnp.sum(d * t), difference, q.expected_statistics()))
        )
        expected += p.log_normalizer() - q.log_normalizer()
        np.testing.assert_allclose(q.kl(p), expected, rtol=1e-8, atol=1e-12)
        assert q.kl(p) > 1e-8
    assert abs(q.kl(q)) < 1e-14


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_entries(family):
    entries = [family() for _ in range(3)]
    others = [family() for _ in range(3)]
    batch, other = stack(*entries), stack(*others)
    assert batch.log_normalizer().shape == batch.is_valid().shape == (3,)
    for i, (eta, p) in enumerate(zip(entries, others, strict=True)):
        at = lambda tree, i=i: jax.tree.map(lambda x: x[i], tree)
        np.testing.assert_allclose(batch.log_normalizer()[i], eta.log_normalizer(), rtol=1e-12)
        np.testing.assert_allclose(batch.kl(other)[i], eta.kl(p), rtol=1e-10)
        assert_close(at(batch.expected_statistics()), eta.expected_statistics(), rtol=1e-10)
    np.testing.assert_allclose(expfam.kl([batch, batch], [other, other]), 2 * jnp.sum(batch.kl(other)))


@pytest.mark.parametrize("count", [1.0, 1e3, 1e6])
def test_single_precision_keeps_kl_to_a_hundredth_of_a_nat(count):
    """Log normalisers of a million data are some 1e7 nats, which float32 rounds to one."""
    eta = [family() for family in CONJUGATE]
    q = [jax.tree.map(lambda a: (1 + count) * a, e) for e in eta]
    near = [jax.tree.map(lambda a: (2 + 0.999 * count) * a, e) for e in eta]
    for p in (near, eta):
        for single_q, single_p in zip(cast(q), cast(p), strict=True):
            exact = cast(single_q, jnp.float64).kl(cast(single_p, jnp.float64))  # of the rounded parameters
            single = single_q.kl(single_p)
            assert single.dtype == jnp.float32
            np.testing.assert_allclose(single, exact, rtol=1e-4, atol=1e-2)
        assert all(abs(e.kl(e)) <= 1e-3 for e in cast(q))


# Steps ----------------------------------------------------------------------------------------------


def test_a_step_of_one_is_the_exact_posterior():
    x, y, z = draw(50, 3), draw(50, 2), jax.nn.one_hot(jnp.arange(50) % 4, 4)
    prior = niws(), mniws(), dirichlets()
    data = NIW.statistics(x), MNIW.statistics(x, y), Dirichlet(z)
    target = jax.tree.map(lambda eta, t: eta + jnp.sum(t, 0), prior, data)
    posterior, rho = expfam.natural_step(prior, target, 1.0)
    assert_close(posterior, target, rtol=1e-14)
    assert_close(rho, (1.0, 1.0, 1.0))
    m, kappa, S, nu = prior[0].standard()
    centre, n = jnp.mean(x, 0), 50
    scatter = jnp.cov(x.T, ddof=0) * n + kappa * n / (kappa + n) * jnp.outer(centre - m, centre - m)
    textbook = (kappa * m + n * centre) / (kappa + n), kappa + n, S + scatter, nu + n
    assert_close(tuple(posterior[0].standard()), textbook, rtol=1e-10)


@pytest.mark.parametrize("family", CONJUGATE)
def test_the_natural_gradient_is_the_fishers_inverse_times_the_gradient(family):
    """For F linear in the expected statistics: eta0 + dF/dmu - eta, as `natural_step` has it."""
    eta, prior, weight = family(), family(), family()
    objective = lambda eta: expfam.inner(weight, eta.expected_statistics()) - eta.kl(prior)
    natural = jax.tree.map(lambda p, w, e: p + w - e, prior, weight, eta)
    fisher_times = jax.jvp(lambda eta: eta.expected_statistics(), (eta,), (natural,))[1]
    assert_close(fisher_times, jax.grad(objective)(eta), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", CONJUGATE)
def test_a_step_towards_a_target_outside_stays_inside_and_says_so(family):
    eta = stack(family(), family())
    outside = jax.tree.map(lambda a: a.at[0].multiply(-1.0), eta)
    assert not outside.is_valid()[0] and outside.is_valid()[1]
    stepped, rho = expfam.natural_step(eta, outside, 0.9)
    assert stepped.is_valid().all() and 0 < rho[0] <= 0.45 and rho[1] == 0.9
    twice = jax.tree.map(lambda a, b: a + 2 * (b - a), eta, stepped)
    assert twice.is_valid()[0]
    lost, rho = expfam.natural_step(eta, jax.tree.map(lambda a: a.at[0].set(jnp.nan), eta), 0.5)
    assert np.isnan(jax.tree.leaves(lost)[0][0]).all() and lost.is_valid()[1]


# Mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: NIW.of(jnp.zeros(2), 1.0, -jnp.eye(2), 3.0), "NIW: S must be positive definite"),
        (lambda: NIW.of(jnp.zeros(2), 0.0, jnp.eye(2), 3.0), "NIW: kappa must be above 0, got 0.0"),
        (
            lambda: NIW.of(jnp.zeros(2), 1.0, jnp.eye(2), 1.0),
            "NIW: nu must be above 1 for 2 numbers",
        ),
        (lambda: NIW.of(jnp.zeros(2), 1.0, jnp.eye(2) + jnp.eye(2, k=1), 3.0), "NIW: S must be symmetric"),
        (lambda: MNIW.of(jnp.zeros((2, 1)), -jnp.eye(1), jnp.eye(2), 3.0), "MNIW: K must be positive"),
        (lambda: MNIW.of(jnp.zeros((2, 1)), jnp.eye(1), jnp.eye(2), jnp.nan), "MNIW: nu must be above 1"),
        (
            lambda: Dirichlet.of(jnp.array([[1.0, 2.0], [0.0, 1.0]])),
            r"\[0.0, 1.0\] \(entry \[1\] of",
        ),
        (lambda: Gaussian.of(jnp.zeros(2), jnp.zeros((2, 2))), "Gaussian: covariance must be positive"),
        (lambda: Categorical.of(jnp.array([0.5, 0.6])), "Categorical: probabilities must be of sum one"),
        (lambda: expfam.natural_step(dirichlets(), dirichlets(), 0.0), r"rho must be in \(0, 1\], got 0.0"),
        (
            lambda: expfam.split_columns(jnp.zeros((2, 4)), 2, 1),
            "coefficients have 4 columns, but 2 of the state",
        ),
    ],
)
def test_what_is_no_parameter_is_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        wrong()


def test_what_is_no_family_is_refused():
    with pytest.raises(TypeError, match="ArrayImpl is not a family"):
        expfam.kl([jnp.ones(2)], [jnp.ones(2)])


def test_columns_come_apart_as_they_were_joined():
    M, state, action = draw(2, 6), draw(5, 3), draw(5, 2)
    inputs = expfam.join_columns(state, action, bias=True)
    A, B, b = expfam.split_columns(M, 3, 2, bias=True)
    np.testing.assert_allclose(inputs @ M.T, state @ A.T + action @ B.T + b[None, :], rtol=1e-12)
