"""Parts that move independently are so in the posterior; systems that may not count make a looser bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.svae import LDS, LDSMixture, Potentials
from chainrule.svae.independent import Independent

KEY = jax.random.key(0)
PART = LDSMixture.of(LDS.oscillating(jnp.array([[5.0], [9.0], [17.0]])))
HINTS = Potentials(
    jax.random.uniform(KEY, (2, 6, 4), minval=0.1, maxval=2.0),
    jax.random.normal(jax.random.key(1), (2, 6, 4)),
)
STATISTICS = Independent((PART, PART)).expected_statistics()


@pytest.fixture(scope="module")
def posteriors():
    """Of the first part by itself, for each number of systems that may count."""
    hints = Potentials(HINTS.J[..., :2], HINTS.h[..., :2])
    posterior = lambda kept: LDSMixture.posterior(STATISTICS.parts[0], hints, kept=kept)
    return {kept: jax.jit(lambda kept=kept: posterior(kept))() for kept in (None, 2, 3)}


def test_systems_that_may_not_count_take_their_evidence_along(posteriors):
    exact, best = posteriors[None], posteriors[2]
    order = np.argsort(-exact.weights, axis=1)[:, :2]
    kept = np.take_along_axis(np.asarray(exact.weights), order, 1)
    np.testing.assert_allclose(best.weights, kept / kept.sum(1, keepdims=True), rtol=1e-9)
    of_paths = np.take_along_axis(np.asarray(exact.paths.kl), order, 1)
    prior = np.asarray(STATISTICS.parts[0].weights.alpha)[order]
    weights = np.asarray(best.weights)
    np.testing.assert_allclose(best.kl, (weights * (np.log(weights) - prior + of_paths)).sum(1), rtol=1e-9)
    means = np.take_along_axis(np.asarray(exact.paths.mean), order[:, :, None, None], 1)
    np.testing.assert_allclose(best.paths.mean, means, rtol=1e-9)
    np.testing.assert_allclose(posteriors[3].kl, exact.kl, rtol=1e-12)


def test_parts_are_independent(posteriors):
    both = jax.jit(lambda: Independent.posterior(STATISTICS, HINTS, kept=2))()
    first, second = both.parts
    np.testing.assert_allclose(first.weights, posteriors[2].weights, rtol=1e-12)
    np.testing.assert_allclose(both.kl, first.kl + second.kl, rtol=1e-12)
    pairs = first.weights[:, :, None] * second.weights[:, None, :]
    np.testing.assert_allclose(both.weights, pairs.reshape(2, 4), rtol=1e-12)


def test_a_path_of_a_choice_is_one_of_each_part():
    draw = lambda: (p := Independent.posterior(STATISTICS, HINTS, kept=2), p.sample(KEY, 4000))
    both, paths = jax.jit(draw)()
    assert paths.shape == (4000, 2, 4, 6, 4)
    which = [(i, j) for i in range(2) for j in range(2)]
    means = [
        jnp.concatenate([p.paths.mean[:, k] for p, k in zip(both.parts, ks, strict=True)], -1) for ks in which
    ]
    off = np.asarray(paths.mean(0) - jnp.stack(means, 1)) / np.asarray(paths.std(0)) * np.sqrt(4000)
    assert np.abs(off).max() < 5  # standard errors, of 384 means
    one = both.choose(KEY, paths)
    assert one.shape == (4000, 2, 6, 4)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="kept is 4: it must be from 1 to 3"):
        Independent.posterior(STATISTICS, HINTS, kept=4)
    with pytest.raises(ValueError, match=r"must be \(sequences, frames, 4\), with \[2, 2\] numbers"):
        Independent.posterior(STATISTICS, Potentials(HINTS.J[..., :3], HINTS.h[..., :3]))
