"""What a model is made of and how it is trained: plain data, for a file, a command line or a call.

One can
- describe a `PropertyModel` (`ModelConfig`) and its training (`TrainConfig`; as typed, `TrainOptions`),
- take what does best for a start (`CHOSEN_MODEL`, `CHOSEN_TRAINING`), as commands and estimators do.

Nothing here needs JAX, so a command can list its options at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Variant = Literal["talk", "original", "messages"]
Kind = Literal["morgan", "circular"]  # of circular fingerprints, the latter being Algorithm 1 of the talk
Task = Literal["regression", "mean_variance", "classification"]


@dataclass(frozen=True)
class ModelConfig:
    """What a `PropertyModel` is made of, whatever the number of its targets."""

    depth: int = 4  # layers of the fingerprint: the radius of what an atom sees, in bonds
    width: int = 20  # features of an atom in the hidden layers
    length: int = 64  # entries of the fingerprint
    variant: Variant = "talk"  # how atoms take in their neighbours
    hidden: int = 100  # units in the hidden layer of the head; 0 makes it linear
    task: Task = "regression"  # what is predicted


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained. The defaults suit a thousand molecules and take seconds."""

    steps: int = 1000  # updates of the weights, at most
    batch_size: int = 100  # molecules per update
    learning_rate: float = 3e-3  # Adam's, at the start; it falls to zero along a cosine
    weight_decay: float = 0.0  # decoupled, as in AdamW, per unit of learning rate
    evaluate_every: int = 50  # updates between two looks at the validation error
    patience: int = 0  # evaluations without a better one before stopping; 0: run all steps
    checkpoint_every: int = 500  # updates between two checkpoints, if there is a run folder
    seed: int = 0  # order of the batches


@dataclass(frozen=True)
class TrainConfig(TrainOptions):
    """`TrainOptions` that make sense.

    Raises:
        ValueError: a number is out of range.
    """

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")
        for name in ("weight_decay", "patience", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


# What does best on sets of a thousand molecules (docs/fingerprints.md); the library starts from the talk's.
CHOSEN_MODEL = ModelConfig(variant="messages", width=48, length=64)
CHOSEN_TRAINING = TrainConfig(steps=700, batch_size=64, learning_rate=2e-3)
