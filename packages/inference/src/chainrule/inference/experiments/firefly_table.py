"""The table of the Firefly Monte Carlo paper, on data at hand: evaluations, effective draws, speed-up.

    rows = firefly_table(seed=0)
    print(as_text(rows))

For each set of data one move of theta, as in the paper: a random walk for logistic regression, Langevin's for
softmax, a slice for robust regression. Each is run on all data; with bounds that touch nowhere in particular
(q = 0.1); with bounds tuned to the most probable theta (q = 0.01); and with those and candidates weighted by
their expected brightness, which the paper has not.

Speed-up is effective draws per evaluation, over those of all data. The paper's own figures stand beside,
quoted from memory: they were not verified against its text, and its data are others.

Source: D. Maclaurin and R. P. Adams, Firefly Monte Carlo: exact MCMC with subsets of data, UAI 2014, table 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chainrule.inference import flymc
from chainrule.inference.diagnostics import ess_bulk
from chainrule.inference.experiments import firefly_data
from chainrule.inference.flymc.weighted import posterior_scale

ALGORITHMS = ("regular", "untuned", "MAP-tuned", "MAP-tuned, weighted")


class Quoted(NamedTuple):
    """What the paper reports, as quoted from memory: not verified."""

    evaluations: float
    ess: float
    speed_up: float


class TableRow(NamedTuple):
    """One algorithm on one set of data."""

    data: str
    num_data: int
    num_parameters: int
    move: str
    algorithm: str  # one of ALGORITHMS
    evaluations: float  # likelihoods, or gaps, for each iteration
    ess: float  # bulk effective draws for 1000 iterations of a chain, the median over parameters
    speed_up: float  # effective draws for each evaluation, over those of the regular one
    num_bright: float  # mean over iterations; all data for the regular one
    rhat: float  # the largest; well above 1.01 the row has not converged, and its ESS says little
    paper: Quoted | None  # None where the paper has no such row


class Case(NamedTuple):
    """A model of some data, and a move."""

    data: str
    log_prior: Callable
    bound: Any  # touching nowhere in particular
    start: Any  # a theta of the right shape
    move: flymc.HMC | flymc.RandomWalk | flymc.Slice
    paper: tuple[Quoted, ...]  # for the first three of ALGORITHMS


LOGISTIC = Quoted(12_214, 3.7, 1), Quoted(6_252, 1.3, 0.7), Quoted(207, 1.4, 22)
SOFTMAX = Quoted(18_000, 8.0, 1), Quoted(8_058, 4.2, 1.2), Quoted(654, 3.3, 11)
ROBUST = Quoted(18_182_764, 1.3, 1), Quoted(2_753_428, 1.1, 5.7), Quoted(575_528, 1.2, 29)


def firefly_table(
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> list[TableRow]:
    """All rows that there are data for.

    Args:
        seed: of the chains, and of the synthetic data.
        quick: short chains, and few data where there are many: to see that it runs, not for its figures.
        progress: called with what is being done and the part of all work that is behind.

    Raises:
        ImportError: without the extra `experiments`.
        FileNotFoundError: without the molecules, see `firefly_data.photovoltaic`.
    """
    cases = _cases(seed, quick)
    chains, draws = (2, 200) if quick else (4, 2000)
    rows: list[TableRow] = []
    for number, case in enumerate(cases):
        best = flymc.find_map(case.log_prior, case.bound, case.start)
        regular = None
        for place, algorithm in enumerate(ALGORITHMS):
            if progress:
                done = (len(ALGORITHMS) * number + place) / (len(ALGORITHMS) * len(cases))
                progress(f"{case.data}: {algorithm}", done)
            run = flymc.sample(
                jax.random.fold_in(jax.random.key(seed), len(rows)),
                _kernel(case, algorithm, best),
                best,
                num_chains=chains,
                num_warmup=draws // 2,
                num_samples=draws,
                precondition=algorithm != "regular",
            )
            row = _row(case, algorithm, run, case.paper[place] if place < len(case.paper) else None)
            regular = regular or row
            speed_up = row.ess / row.evaluations / (regular.ess / regular.evaluations)
            rows.append(row._replace(speed_up=speed_up))
    return rows


def as_text(rows: list[TableRow]) -> str:
    """A table to print; the paper's figures, where it has some, in brackets."""
    lines = [
        f"{'data':30}{'N':>9}{'D':>5}  {'move':12}{'algorithm':21}{'evaluations':>22}{'ESS/1000':>14}"
        f"{'speed-up':>14}{'bright':>9}{'R-hat':>7}"
    ]
    for row in rows:
        quoted = lambda of: f"({getattr(row.paper, of):g})" if row.paper else ""  # noqa: B023
        lines.append(
            f"{row.data:30}{row.num_data:9}{row.num_parameters:5}  {row.move:12}{row.algorithm:21}"
            f"{row.evaluations:10.0f}{quoted('evaluations'):>12}{row.ess:8.1f}{quoted('ess'):>6}"
            f"{row.speed_up:8.1f}{quoted('speed_up'):>6}{row.num_bright:9.0f}{row.rhat:7.2f}"
        )
    return "\n".join([*lines, "in brackets: the paper's, on other data; from memory, not verified"])


def _cases(seed: int, quick: bool) -> list[Case]:
    normal = lambda theta: -jnp.sum(theta**2) / 2
    laplace = lambda theta: -jnp.sum(jnp.abs(theta))
    real = firefly_data.sevens_and_nines()
    many = firefly_data.like_sevens_and_nines(2_000 if quick else 100_000, seed)
    as_in_paper = firefly_data.like_sevens_and_nines(1_000 if quick else 12_214, seed)
    digits = firefly_data.three_digits()
    molecules = firefly_data.photovoltaic(2_000 if quick else None)
    logistic = lambda name, data, paper: Case(
        name,
        normal,
        flymc.logistic_bound(*data),
        jnp.zeros(data.features.shape[1]),
        flymc.RandomWalk(),
        paper,
    )
    return [
        logistic("MNIST 7 against 9", real, LOGISTIC),
        logistic("like MNIST 7 against 9", as_in_paper, LOGISTIC),
        logistic("like MNIST 7 against 9, more", many, ()),
        Case(
            "digits 0, 1, 2",
            normal,
            flymc.softmax_bound(*digits),
            jnp.zeros((3, digits.features.shape[1])),
            flymc.MALA(),
            SOFTMAX,
        ),
        Case(
            "photovoltaic molecules",
            laplace,
            flymc.student_t_bound(*molecules, scale=0.5),
            jnp.zeros(molecules.features.shape[1]),
            flymc.Slice(),
            ROBUST,
        ),
    ]


def _kernel(case: Case, algorithm: str, best):
    tuned = case.bound.tuned(best)
    if algorithm == "regular":
        scale = posterior_scale(case.log_prior, tuned, best)
        return flymc.FullData(case.log_prior, tuned, move=case.move, scale=scale)
    if algorithm == "untuned":
        return flymc.Firefly(case.log_prior, case.bound, move=case.move, brightness=flymc.Implicit(0.1))
    weighted = algorithm.endswith("weighted")
    brightness = flymc.weighted(case.log_prior, tuned, best) if weighted else flymc.Implicit(0.01)
    return flymc.Firefly(case.log_prior, tuned, move=case.move, brightness=brightness)


def _row(case: Case, algorithm: str, run, paper) -> TableRow:
    draws = run.draws["theta"]
    chains, number = draws.shape[:2]
    summary = run.summary()
    return TableRow(
        data=case.data,
        num_data=case.bound.num_data,
        num_parameters=int(np.prod(draws.shape[2:])),
        move=type(case.move).__name__ if not isinstance(case.move, flymc.HMC) else "Langevin",
        algorithm=algorithm,
        evaluations=float(run.info.evaluations.mean()),
        ess=float(np.median(ess_bulk(draws))) / (chains * number) * 1000,
        speed_up=float("nan"),  # known once there is a regular row
        num_bright=float(run.info.num_bright.mean()),
        rhat=float(summary.worst_rhat),
        paper=paper,
    )
