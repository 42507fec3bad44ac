"""The table's data, as far as they need no file and no extra, and how it is printed."""

import numpy as np

from chainrule.inference.experiments.firefly_data import _components, _runs
from chainrule.inference.experiments.firefly_table import ALGORITHMS, LOGISTIC, TableRow, as_text


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


def test_the_table_says_that_the_papers_figures_are_not_verified():
    rows = [
        TableRow("some", 100, 3, "Slice", algorithm, 50.0, 2.0, 1.5, 10.0, 1.01, paper)
        for algorithm, paper in zip(ALGORITHMS, (*LOGISTIC, None), strict=True)
    ]
    text = as_text(rows)
    assert "not verified" in text and "(12214)" in text and text.count("some") == 4
