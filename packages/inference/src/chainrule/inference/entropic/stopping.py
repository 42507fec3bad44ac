"""When to stop training, by the evidence lower bound alone: no data are held out.

choose_stopping(trace)    the step at which the bound peaks, among those at which it is one -> Stopping
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from chainrule.inference.entropic.descent import Trace


class Stopping(NamedTuple):
    """Where to stop."""

    step: int  # steps of training to take
    record: int  # its place in the trace
    elbo: float  # the bound there, in nats
    standard_error: float  # of elbo: over the members of an ensemble; of one run, that of its probes only
    trusted_to: int  # the last step whose flags are all clear; none beyond it was considered
    at_the_end: bool  # the bound was still rising where it was cut off, by a flag or by the end of the run


def choose_stopping(trace: "Trace", *, flagged: bool = False) -> Stopping:
    """Find the step at which the evidence lower bound is highest.

    Considered are the steps up to the first flag: where the map is one-to-one, and, by method "bound", the
    parabola a bound. Beyond, the number may lie above the evidence.

    Args:
        trace: of `run`, or of `run_ensemble`: then the mean over its members, cut at the first flag of any.
        flagged: whether to consider flagged steps all the same.

    Returns:
        Stopping. To have the parameters at that step, repeat the run with `steps=stopping.step`: the same
        key takes the same path.

    Raises:
        ValueError: if the bound is not finite at any step considered.
    """
    elbo = np.atleast_2d(np.asarray(trace.elbo, float))
    clear = np.atleast_2d(np.asarray(trace.one_to_one) & np.asarray(trace.bound_holds)).all(0)
    steps = np.atleast_2d(np.asarray(trace.step))[0]
    considered = np.ones_like(clear) if flagged else np.logical_and.accumulate(clear)
    mean = elbo.mean(0)
    found = np.where(considered & np.isfinite(mean), mean, -np.inf)
    record = int(np.argmax(found))
    if not np.isfinite(found[record]):
        raise ValueError(
            "choose_stopping: the evidence lower bound is not finite at any step without a flag: take a "
            "smaller step_size, check that the log likelihood is finite for a draw from the prior, or pass "
            "flagged=True"
        )
    if len(elbo) > 1:
        error = elbo[:, record].std(ddof=1) / len(elbo) ** 0.5
    else:
        error = np.atleast_2d(np.asarray(trace.standard_error, float))[0, record]
    last = int(np.flatnonzero(considered)[-1])
    return Stopping(
        int(steps[record]), record, float(mean[record]), float(error), int(steps[last]), record == last
    )
