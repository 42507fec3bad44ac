"""Where a model is conjugate: one cluster, system or regime, and latents that are as good as seen.

There one natural step on all data is the exact posterior, and the bound with it is the evidence.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.core import OneStep
from chainrule.svae import GMM, HMM, LDS, SLDS, LDSMixture
from chainrule.svae.expfam import MNIW, NIW, join_columns, natural_step
from chainrule.svae.messages import Potentials

SEQUENCES, FRAMES, SURE = 4, 3, 1e9
X = jax.random.normal(jax.random.key(0), (SEQUENCES, FRAMES, 1))
ALONE = LDS.prior(1, worth=5.0, noise=0.3)
BATCH_OF_ONE = jax.tree.map(lambda x: x[None], ALONE)
one_round = {"adjoint": OneStep()}  # of the bound, a derivative like any other
MODELS = {
    "GMM": (GMM.prior(1, 1), one_round),
    "HMM": (HMM.prior(1, 1, sticky=2.0), one_round),
    "LDS": (ALONE, {}),
    "LDSMixture": (LDSMixture.of(BATCH_OF_ONE, 2.0), {}),
    "SLDS": (SLDS.of(BATCH_OF_ONE, sticky=2.0), one_round),
}


def exact(prior):
    """The prior, and what latents that were seen add to it."""
    total = lambda family, batch: jax.tree.map(lambda t: jnp.sum(t, tuple(range(batch))), family)
    points = total(NIW.statistics(X), 2)
    first = total(NIW.statistics(X[:, 0]), 1)
    steps = total(MNIW.statistics(join_columns(X[:, :-1], bias=True), X[:, 1:]), 2)
    systems = LDS(first, steps)
    counts = {
        "GMM": lambda: prior._replace(
            weights=prior.weights._replace(alpha=prior.weights.alpha + SEQUENCES * FRAMES),
            components=jax.tree.map(jnp.add, prior.components, jax.tree.map(lambda t: t[None], points)),
        ),
        "LDS": lambda: jax.tree.map(jnp.add, prior, systems),
    }
    if type(prior).__name__ in counts:
        return counts[type(prior).__name__]()
    seen = points if isinstance(prior, HMM) else systems
    more = {"components": jax.tree.map(lambda eta, t: eta + t[None], prior.components, seen)}
    if isinstance(prior, LDSMixture):
        return prior._replace(weights=prior.weights._replace(alpha=prior.weights.alpha + SEQUENCES), **more)
    initial = prior.initial._replace(alpha=prior.initial.alpha + SEQUENCES)
    rows = prior.transitions._replace(alpha=prior.transitions.alpha + SEQUENCES * (FRAMES - 1))
    return prior._replace(initial=initial, transitions=rows, **more)


def log_normalizer(model):
    families = jax.tree.leaves(model, is_leaf=lambda x: hasattr(x, "log_normalizer"))
    return sum(jnp.sum(family.log_normalizer()) for family in families)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_the_posterior_and_the_bound_the_evidence(name):
    prior, settings = MODELS[name]
    y = X.reshape(-1, 1) if name == "GMM" else X
    hints = Potentials(jnp.full_like(y, SURE), SURE * y)

    def bound(statistics):
        q = type(prior).posterior(statistics, hints, **settings)
        of_x = jax.tree.map(lambda x: x[:, 0], q.paths) if name == "LDSMixture" else q
        off = of_x.covariance[..., 0] + (of_x.mean - y) ** 2  # y is x, but for a variance of 1 / SURE
        log_likelihood = -SURE * off / 2 + jnp.log(SURE / (2 * jnp.pi)) / 2
        hinted = jnp.sum(hints.h * of_x.mean - SURE * (of_x.covariance[..., 0] + of_x.mean**2) / 2)
        return hinted - jnp.sum(q.kl), jnp.sum(log_likelihood) - jnp.sum(q.kl)

    value_and_slope = jax.jit(jax.value_and_grad(bound, has_aux=True))
    _, slope = value_and_slope(prior.expected_statistics())
    after, used = natural_step(prior, jax.tree.map(jnp.add, prior, slope), 1.0)
    posterior = exact(prior)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), after, posterior)
    assert jax.tree.all(jax.tree.map(lambda u: (u == 1).all(), used))
    (_, elbo), _ = value_and_slope(posterior.expected_statistics())
    evidence = log_normalizer(posterior) - log_normalizer(prior) - X.size / 2 * jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(elbo - posterior.kl(prior), evidence, atol=1e-5)
