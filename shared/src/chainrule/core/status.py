"""How an iteration ended, in each vmap lane, and the error for those that did not converge.

Status                          CONVERGED, MAX_STEPS, DIVERGED, NONFINITE
Stats(steps, residual, status)  what the iteration did
raise_unless_converged(stats)   an error on the host, also from compiled code
"""

import dataclasses
import enum

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


class Status(enum.IntEnum):
    """How a solve ended: an int32 code in the arrays, a name for the reader, `Status(code).name`."""

    CONVERGED = 0  # the last step was within atol + rtol * |x|
    MAX_STEPS = 1  # the steps ran out
    DIVERGED = 2  # the steps ran out, or overflowed, and had grown longer than the first
    NONFINITE = 3  # f(a, x) gave NaN, or infinity at once

    @classmethod
    def _missing_(cls, value):  # an array of one code; arrays have no hash to be looked up by
        return cls(int(value)) if isinstance(value, jax.Array | np.ndarray) else None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stats:
    """What the iteration did; one entry per vmap lane."""

    steps: Int[Array, "*lanes"]  # evaluations of f
    residual: Float[Array, "*lanes"]  # length of the last step, max |f(a, x) - x|, in units of x
    status: Int[Array, "*lanes"]  # a Status code


def raise_unless_converged(stats: Stats, what: str, ways_out: dict[Status, str]) -> Stats:
    """Hand stats back if all lanes converged; raise on the host if not.

    Whatever is computed from the status that comes back cannot be had without the check.

    Args:
        stats: of one solve, or of the lanes of a vmap.
        what: the name of the solve, to begin the message with.
        ways_out: for each status but CONVERGED, what the user may do.

    Raises:
        RuntimeError: outside jit. Compiled code hands it on as jax.errors.JaxRuntimeError or ValueError.
    """

    def check(steps, residual, status):
        steps, residual, status = np.broadcast_arrays(steps, residual, status)
        failed = status != Status.CONVERGED
        if failed.any():
            lane = np.unravel_index(np.argmax(failed), failed.shape)  # the first
            lanes = f" in {failed.sum()} of {failed.size} lanes" if failed.size > 1 else ""
            why = Status(int(status[lane]))
            raise RuntimeError(
                f"{what} did not converge{lanes}: {why.name} after {steps[lane]} steps, the last of length "
                f"{residual[lane]:.3g}. Way out: {ways_out[why]}; or on_failure='nan' to get NaN in such "
                "lanes, 'ignore' to get the unconverged number."
            )
        return status

    if not isinstance(stats.status, jax.core.Tracer):
        check(stats.steps, stats.residual, stats.status)
        return stats

    def on_host(steps, residual, status):
        like = jax.ShapeDtypeStruct(status.shape, status.dtype)
        return jax.pure_callback(check, like, steps, residual, status, vmap_method="expand_dims")

    # The status passes through the host only if it is bad; under vmap always, all lanes at once.
    status = lax.cond(
        stats.status == Status.CONVERGED,
        lambda steps, residual, status: status,
        on_host,
        stats.steps,
        stats.residual,
        stats.status,
    )
    return dataclasses.replace(stats, status=status)
