"""How far to trust the draws of a Markov chain: R-hat, effective sample sizes, Monte Carlo errors.

rhat, ess_bulk, ess_tail, mcse     of draws with the axes (chain, draw, *shape), for each number of the shape
summarize(draws)                   all of them by name, with the cost, as a table to print
to_inference_data(draws)           for arviz, if it is installed

Everything is computed on the host in double precision, on chains split in halves.

Source: A. Vehtari, A. Gelman, D. Simpson, B. Carpenter and P.-C. Buerkner, Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16, 2021.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

FEWEST = 4  # draws; halves of two have a variance


def rhat(draws) -> np.ndarray:
    """Rank-normalised split R-hat, the larger of the draws' and of their distances' from the median.

    Chains agree if it is near 1: below 1.01, say the authors.
    """

    def of(chains):
        halves = _split(chains)
        folded = np.abs(halves - np.median(halves))
        return max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))

    return _each(of, draws)


def ess_bulk(draws) -> np.ndarray:
    """Effective sample size of the ranks: how well the middle of the distribution is known."""
    return _each(lambda chains: _ess(_normal_scores(_split(chains))), draws)


def ess_tail(draws) -> np.ndarray:
    """The smaller of the effective sample sizes for the 5 % and the 95 % quantile.

    A quantile that no draw lies above, as with ties, counts as known: with the number of draws.
    """

    def of(chains):
        below = [_split(chains <= q).astype(float) for q in np.quantile(chains, [0.05, 0.95])]
        return min(x.size if x.all() else _ess(x) for x in below)

    return _each(of, draws)


def ess_mean(draws) -> np.ndarray:
    """Effective sample size for the mean."""
    return _each(lambda chains: _ess(_split(chains)), draws)


def mcse(draws) -> np.ndarray:
    """Standard error of the mean of the draws, as an estimate of the expectation."""
    return _each(lambda chains: chains.std(ddof=1) / _ess(_split(chains)) ** 0.5, draws)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Diagnostics by name of the parameter, and the cost."""

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    mcse: dict[str, np.ndarray]
    rhat: dict[str, np.ndarray]
    ess_bulk: dict[str, np.ndarray]
    ess_tail: dict[str, np.ndarray]
    num_draws: int  # of all chains
    evaluations: float | None  # likelihood evaluations per iteration of one chain, if they were counted

    @property
    def worst_rhat(self) -> float:
        return _over(np.max, self.rhat)

    @property
    def min_ess(self) -> float:
        """Of all parameters, bulk."""
        return _over(np.min, self.ess_bulk)

    @property
    def median_ess(self) -> float:
        """Of all parameters, bulk."""
        return _over(np.median, self.ess_bulk)

    @property
    def min_ess_tail(self) -> float:
        return _over(np.min, self.ess_tail)

    @property
    def ess_per_million_evaluations(self) -> float | None:
        """Median bulk ESS."""
        if self.evaluations is None:
            return None
        return 1e6 * self.median_ess / (self.num_draws * self.evaluations)

    def __str__(self) -> str:
        size = sum(values.size for values in self.rhat.values())
        lines = [
            f"{self.num_draws} draws of {size} numbers: R-hat at most {self.worst_rhat:.3f}, "
            f"ESS bulk {self.min_ess:.0f}, median {self.median_ess:.0f}, tail {self.min_ess_tail:.0f}"
        ]
        if self.evaluations is not None:
            digits = 0 if self.evaluations >= 10 else 2
            lines.append(
                f"{self.evaluations:.{digits}f} likelihood evaluations per iteration, "
                f"{self.ess_per_million_evaluations:.3g} effective draws per million"
            )
        return "\n".join(lines)


def summarize(draws: Mapping[str, Any], evaluations=None) -> Summary:
    """All diagnostics.

    Args:
        draws: by name, (chain, draw, *shape).
        evaluations: of the likelihood, (chain, draw), if they are to be reported.
    """
    draws = {name: _checked(values) for name, values in draws.items()}
    each = lambda of: {name: of(values) for name, values in draws.items()}
    first = next(iter(draws.values()))
    return Summary(
        mean=each(lambda x: np.asarray(x.mean((0, 1)))),
        sd=each(lambda x: np.asarray(x.std((0, 1), ddof=1))),
        mcse=each(mcse),
        rhat=each(rhat),
        ess_bulk=each(ess_bulk),
        ess_tail=each(ess_tail),
        num_draws=first.shape[0] * first.shape[1],
        evaluations=None if evaluations is None else float(np.mean(evaluations)),
    )


def to_inference_data(draws: Mapping[str, Any], sample_stats: Mapping[str, Any] | None = None) -> Any:
    """What arviz works with: draws by name, (chain, draw, *shape), and numbers of each draw, (chain, draw).

    Raises:
        ImportError: if arviz is not installed.
    """
    try:
        arviz = importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError(
            "to_inference_data needs arviz: pip install 'chainrule-inference[arviz]'"
        ) from error
    groups = {"posterior": dict(draws)} | ({"sample_stats": dict(sample_stats)} if sample_stats else {})
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)


def _each(of: Callable[[np.ndarray], float], draws) -> np.ndarray:
    """of((chain, draw)) for each number of a draw; NaN where draws are not finite or do not vary."""
    draws = _checked(draws)
    flat = draws.reshape(*draws.shape[:2], -1)
    numbers = [
        of(x) if np.isfinite(x).all() and x.max() > x.min() else np.nan for x in np.moveaxis(flat, 2, 0)
    ]
    return np.array(numbers).reshape(draws.shape[2:])


def _checked(draws) -> np.ndarray:
    draws = np.asarray(draws, np.float64)
    if draws.ndim < 2 or draws.shape[1] < FEWEST:
        raise ValueError(
            f"diagnostics: draws have shape {draws.shape}, must be (chain, draw, *shape) with at least "
            f"{FEWEST} draws of each chain; draws[None] makes one chain of a single sequence"
        )
    return draws


def _split(chains: np.ndarray) -> np.ndarray:
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _normal_scores(chains: np.ndarray) -> np.ndarray:
    """Each number's rank among all, ties sharing the mean one, as a quantile of the normal distribution."""
    _, place, counts = np.unique(chains, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    twice_rank = 2 * last - counts + 1
    return _quantiles(chains.size)[twice_rank][place].reshape(chains.shape)


@functools.lru_cache(maxsize=4)
def _quantiles(size: int) -> np.ndarray:
    """Blom's scores of the ranks 0, 1/2, 1, ..., size."""
    inverse = NormalDist().inv_cdf
    return np.array(
        [np.nan, np.nan, *(inverse((r / 2 - 0.375) / (size + 0.25)) for r in range(2, 2 * size + 1))]
    )


def _rhat(chains: np.ndarray) -> float:
    length = chains.shape[1]
    within = chains.var(1, ddof=1).mean()
    between = chains.mean(1).var(ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(((length - 1) / length * within + between) / within))


def _ess(chains: np.ndarray) -> float:
    """Number of draws over their integrated autocorrelation time, by Geyer's initial monotone sequence."""
    number, length = chains.shape
    if not chains.max() > chains.min():
        return np.nan
    centred = chains - chains.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * length)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * length)[:, :length].mean(0) / length
    within = covariance[0] * length / (length - 1)
    total = covariance[0] + (chains.mean(1).var(ddof=1) if number > 1 else 0)
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1
    pairs = correlation[: max((length - 1) // 2, 1) * 2].reshape(-1, 2).sum(1)
    # The first pair that is not positive, or the last: half of it counts, as in Stan and arviz.
    end = np.argmax(pairs <= 0) if (pairs <= 0).any() else len(pairs) - 1
    monotone = np.minimum.accumulate(pairs[:end])
    rest = max(correlation[2 * end], 0)
    time = max(-1 + 2 * monotone.sum() + rest, 1 / np.log10(number * length))
    return float(number * length / time)


def _over(of, values: dict[str, np.ndarray]) -> float:
    return float(of(np.concatenate([v.ravel() for v in values.values()])))
