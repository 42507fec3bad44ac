"""What trained weights are worth, in the same measures in all experiments that choose on validation rows.

One can
- judge them (`judge`), in the units of `UNITS`,
- say how many meta-steps of some outcomes had no derivative (`skipped`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jaxtyping import Array

from chainrule.core.experiments.outcomes import Outcome
from chainrule.hypergrad.experiments import networks
from chainrule.hypergrad.experiments.images import Split

UNITS: Mapping[str, str] = {"validation NLL": "nats", "test NLL": "nats", "test error": "%"}
SKIPPED = "skipped meta-steps"


def judge(layers: networks.Layers, split: Split) -> dict[str, Array]:
    """Negative log-likelihoods, and the share of test rows that are taken for another class."""
    return {
        "validation NLL": networks.nll(layers, *split.validation),
        "test NLL": networks.nll(layers, *split.test),
        "test error": 100 * networks.error(layers, *split.test),
    }


def skipped(outcomes: Iterable[Outcome]) -> str:
    """A sentence for a report."""
    counts = [outcome.measures[SKIPPED] for outcome in outcomes if SKIPPED in outcome.measures]
    return f"Meta-steps without a trustworthy derivative, which were skipped: {sum(counts)}."
