"""Diagnostics against closed forms: independent draws, autoregressions, chains that disagree."""

import sys
import types

import numpy as np
import pytest

from chainrule.inference import diagnostics
from chainrule.inference.diagnostics import ess_bulk, ess_mean, ess_tail, mcse, rhat, summarize

RNG = np.random.default_rng


def autoregression(coefficient, chains=8, draws=5000, seed=0):
    """x' = c x + noise, stationary with variance 1; autocorrelation c^t."""
    rng = RNG(seed)
    x = np.empty((chains, draws))
    x[:, 0] = rng.normal(size=chains)
    noise = rng.normal(size=(chains, draws)) * np.sqrt(1 - coefficient**2)
    for t in range(1, draws):
        x[:, t] = coefficient * x[:, t - 1] + noise[:, t]
    return x


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.5, 0.9, 0.97])
def test_ess_of_an_autoregression_is_its_closed_form(coefficient):
    x = autoregression(coefficient)
    expected = x.size * (1 - coefficient) / (1 + coefficient)
    assert abs(ess_mean(x) / expected - 1) < 0.15
    assert abs(ess_bulk(x) / expected - 1) < 0.15
    assert abs(mcse(x) / (1 / np.sqrt(expected)) - 1) < 0.15


def test_standard_error_is_that_of_repeated_runs():
    means = [autoregression(0.8, 4, 500, seed).mean() for seed in range(200)]
    errors = [mcse(autoregression(0.8, 4, 500, seed)) for seed in range(20)]
    assert abs(np.mean(errors) / np.std(means) - 1) < 0.2


def test_rhat_is_one_where_chains_agree_and_larger_where_they_do_not():
    x = RNG(1).normal(size=(4, 1000))
    assert abs(rhat(x) - 1) < 0.01
    apart = x + np.array([[0], [0], [0], [1.0]])
    wider = x * np.array([[1], [1], [1], [4.0]])
    drift = x + np.linspace(0, 3, 1000)[None]
    assert min(rhat(apart), rhat(wider), rhat(drift)) > 1.05


def test_rhat_of_normal_scores_is_the_plain_formula():
    """Chains of means m and variance s^2: sqrt(((n - 1) / n W + B) / W), by hand."""
    x = np.array([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]])
    halves = np.array([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [5.0, 6.0]])
    within, between = 0.5, np.var([1.5, 3.5, 3.5, 5.5], ddof=1)
    assert diagnostics._split(x)[[0, 2, 1, 3]].tolist() == halves.tolist()
    np.testing.assert_allclose(diagnostics._rhat(halves), np.sqrt((within / 2 + between) / within))


def test_normal_scores_are_those_of_ranks_with_ties_shared():
    from scipy.stats import norm, rankdata

    x = RNG(2).integers(0, 20, (3, 50)).astype(float)
    expected = norm.ppf((rankdata(x) - 0.375) / (x.size + 0.25)).reshape(x.shape)
    np.testing.assert_allclose(diagnostics._normal_scores(x), expected, rtol=1e-12)


def test_bulk_diagnostics_do_not_see_a_monotone_change_of_the_number():
    x = autoregression(0.5, 4, 500)
    np.testing.assert_allclose(ess_bulk(np.exp(5 * x)), ess_bulk(x))
    assert np.isfinite(rhat(1 / RNG(0).normal(size=(4, 500))))  # no variance, but ranks


def test_tails_that_mix_slowly_are_seen():
    """The sign mixes at once, the size hardly."""
    size = np.repeat(np.abs(autoregression(0.0, 4, 50)), 40, 1)
    x = size * RNG(0).choice([-1, 1], size.shape)
    assert ess_tail(x) < 0.2 * ess_bulk(x)


def test_what_says_nothing_is_nan():
    x = RNG(0).normal(size=(2, 100, 3))
    x[0, 5, 1] = np.nan
    x[..., 2] = 1.0
    for number in (rhat, ess_bulk, ess_tail, mcse):
        assert np.isnan(number(x)).tolist() == [False, True, True]
    stuck = np.repeat([[0.0], [1.0]], 100, 1)
    assert rhat(stuck) > 1e6
    with pytest.raises(ValueError, match=r"shape \(5,\), must be \(chain, draw"):
        rhat(np.zeros(5))


def test_summary_prints_the_worst_and_the_cost():
    draws = {"a": autoregression(0.5), "b": np.stack([autoregression(0.9, seed=1)] * 2, -1)}
    summary = summarize(draws, np.full((8, 5000), 25))
    assert summary.rhat["b"].shape == (2,) and summary.min_ess == summary.ess_bulk["b"].min()
    assert summary.evaluations == 25 and "25 likelihood evaluations per iteration" in str(summary)
    assert summary.ess_per_million_evaluations == pytest.approx(summary.median_ess / (40_000 * 25) * 1e6)
    assert summarize(draws).ess_per_million_evaluations is None


@pytest.mark.parametrize("version", ["0.23.1", "1.0.0"])
def test_arviz_is_handed_what_its_version_wants(monkeypatch, version):
    def old(*, posterior, sample_stats=None):
        return posterior, sample_stats

    new = lambda groups: (groups["posterior"], groups.get("sample_stats"))
    fake = types.SimpleNamespace(__version__=version, from_dict=new if version[0] == "1" else old)
    monkeypatch.setitem(sys.modules, "arviz", fake)
    draws, stats = {"theta": np.zeros((2, 3))}, {"acceptance": np.ones((2, 3))}
    posterior, sample_stats = diagnostics.to_inference_data(draws, stats)
    assert posterior == draws and sample_stats == stats
    assert diagnostics.to_inference_data(draws)[1] is None


@pytest.mark.parametrize("chains", [2, 4])
@pytest.mark.parametrize("draws", [4, 100, 251])
def test_numbers_are_those_of_arviz(chains, draws):
    """Also of an odd number of draws, of ties, and of correlations that do not end before the draws do.

    Not of a single chain: arviz has no R-hat of it; its halves have."""
    reason = "arviz is not installed: pip install 'chainrule-inference[arviz]'"
    arviz = pytest.importorskip("arviz", reason=reason)
    rng = RNG(5)
    x = {f"{c:.2f}": autoregression(c, chains, draws, seed=3) for c in (-0.6, 0.0, 0.5, 0.98)}
    x |= {
        "ties": rng.integers(0, 5, (chains, draws)).astype(float),
        "heavy": rng.standard_cauchy((chains, draws)),
    }
    x |= {"vector": rng.normal(size=(chains, draws, 3)) + np.arange(chains)[:, None, None]}
    data = diagnostics.to_inference_data(x, {"acceptance": np.full((chains, draws), 0.5)})
    assert data["posterior"]["vector"].shape == (chains, draws, 3)
    assert data["sample_stats"]["acceptance"].shape == (chains, draws)
    theirs = {
        rhat: arviz.rhat(data),
        ess_bulk: arviz.ess(data, method="bulk"),
        ess_tail: arviz.ess(data, method="tail", prob=(0.05, 0.95)),
        ess_mean: arviz.ess(data, method="mean"),
        mcse: arviz.mcse(data, method="mean"),
    }
    for of, found in theirs.items():
        found = getattr(found, "posterior", found)  # a tree of groups, since arviz 1
        for name, draws_of in x.items():
            np.testing.assert_allclose(of(draws_of), found[name], rtol=1e-6, err_msg=f"{of.__name__} {name}")


def test_without_arviz_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install 'chainrule-inference"):
        diagnostics.to_inference_data({})
