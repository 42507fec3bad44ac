"""What the talk and the paper report of the methods that `comparison` runs.

One can
- read the errors, column by column of the talk's table (`PUBLISHED`).

They are mean squared errors, in squared units of the target, whatever the talk calls them: the original
code reports its mean squared loss, and "predict mean" is the variance of the targets.

Source: talk, "Predictive performance"; Duvenaud, Maclaurin et al., NIPS 2015, table 1.
"""

from __future__ import annotations

from typing import NamedTuple

MEAN = "predict mean"
CIRCULAR_LINEAR = "circular + linear"
CIRCULAR_NET = "circular + neural net"
NEURAL_LINEAR = "neural + linear"
NEURAL_NET = "neural + neural net"


class Published(NamedTuple):
    """Mean squared errors of one method on one set."""

    talk: float | None  # it leaves out both linear rows
    paper: float
    paper_error: float  # standard error over five folds

    @property
    def in_talk(self) -> float:
        """The talk's figure, or the paper's where the talk has none."""
        return self.paper if self.talk is None else self.talk


PUBLISHED = {
    "delaney": {
        MEAN: Published(4.29, 4.29, 0.40),
        CIRCULAR_LINEAR: Published(None, 1.71, 0.13),
        CIRCULAR_NET: Published(1.40, 1.40, 0.13),
        NEURAL_LINEAR: Published(None, 0.77, 0.11),
        NEURAL_NET: Published(0.53, 0.52, 0.07),
    },
    "malaria": {
        MEAN: Published(1.47, 1.47, 0.07),
        CIRCULAR_LINEAR: Published(None, 1.13, 0.03),
        CIRCULAR_NET: Published(1.24, 1.36, 0.10),
        NEURAL_LINEAR: Published(None, 1.15, 0.02),
        NEURAL_NET: Published(1.17, 1.16, 0.03),
    },
    "cep": {
        MEAN: Published(6.40, 6.40, 0.09),
        CIRCULAR_LINEAR: Published(None, 2.63, 0.09),
        CIRCULAR_NET: Published(2.04, 2.00, 0.09),
        NEURAL_LINEAR: Published(None, 2.58, 0.18),
        NEURAL_NET: Published(1.44, 1.43, 0.09),
    },
}
