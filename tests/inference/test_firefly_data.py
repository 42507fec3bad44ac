"""The data of the firefly table, as far as they need no file and no extra."""

import numpy as np

from chainrule.inference.experiments.firefly_data import _components, _runs


def test_runs_of_letters_are_counted():
    """Kept are those in some texts and not in all: of CCO, CO and CN these, in alphabetical order."""
    kept = ["CC", "CCO", "CN", "CO", "N", "O"]
    texts = ["CCO", "CO", "CN"]
    expected = [[sum(t[i : i + len(k)] == k for i in range(len(t))) for k in kept] for t in texts]
    np.testing.assert_array_equal(_runs(texts), expected)


def test_components_are_uncorrelated_and_the_largest_come_first():
    table = np.random.default_rng(0).normal(size=(200, 5)) @ np.diag([1.0, 3.0, 0.1, 2.0, 0.5])
    covariance = np.cov(_components(table, 3).T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    expected = np.linalg.eigvalsh(np.cov(table.T))[::-1][:3]
    np.testing.assert_allclose(np.diag(covariance), expected, rtol=1e-10)
