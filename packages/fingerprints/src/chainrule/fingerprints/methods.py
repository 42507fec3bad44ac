"""The methods that are compared: how each makes its choices on validation rows, and what it then answers.

One can
- have any method answer for a split (`Methods`); their names are constants here and in `published`.

`compare` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from flax import nnx
from jaxtyping import Float

from chainrule.fingerprints.circular import circular_fingerprints
from chainrule.fingerprints.configs import ModelConfig, TrainConfig
from chainrule.fingerprints.datasets import Dataset
from chainrule.fingerprints.model import Head, PropertyModel
from chainrule.fingerprints.molecules import morgan_fingerprints
from chainrule.fingerprints.prediction import Inputs, predict
from chainrule.fingerprints.published import (
    CIRCULAR_LINEAR,
    CIRCULAR_NET,
    MEAN,
    NEURAL_LINEAR,
    NEURAL_NET,
)
from chainrule.fingerprints.ridge import ridge
from chainrule.fingerprints.settings import CircularNet, Linear, Neural, OfFolds, Settings, of_fold
from chainrule.fingerprints.splits import Split
from chainrule.fingerprints.training import TrainResult, train
from chainrule.fingerprints.tuning import FEATURES, RADII, circular_candidates, halving, tune

MORGAN_LINEAR = "Morgan (RDKit) + linear"
MORGAN_NET = "Morgan (RDKit) + neural net"
MESSAGES_NET = "messages + neural net"  # ours: bonds carry the messages

TALK_METHODS = (MEAN, CIRCULAR_LINEAR, CIRCULAR_NET, NEURAL_LINEAR, NEURAL_NET)
DEMO_METHODS = (MEAN, CIRCULAR_LINEAR, CIRCULAR_NET, MORGAN_LINEAR, MORGAN_NET, NEURAL_LINEAR, NEURAL_NET)

NET_HIDDEN = 100  # the original searched 50 to 100
CIRCULAR_LENGTH = 2048
LINEAR_CHOICES = tuple(product(RADII, FEATURES))
PENALTIES = np.logspace(-1, 4, 16)  # of the ridge regression
CIRCULAR_TRAINING = TrainConfig(
    steps=600, learning_rate=1e-3, evaluate_every=25, patience=8, checkpoint_every=10_000
)
NEURAL_TRAINING = TrainConfig(steps=1000, learning_rate=3e-3, evaluate_every=50, patience=8)
NEURAL = {  # settings of the neural methods, where none are given
    NEURAL_LINEAR: Neural(ModelConfig(hidden=0), NEURAL_TRAINING),
    NEURAL_NET: Neural(ModelConfig(hidden=NET_HIDDEN), NEURAL_TRAINING),
    MESSAGES_NET: Neural(ModelConfig(width=48, variant="messages", hidden=NET_HIDDEN), NEURAL_TRAINING),
}

OfMethod = TypeVar("OfMethod", Linear, CircularNet, Neural)


class Answer(NamedTuple):
    """What a method says of the test rows of one split."""

    predictions: np.ndarray  # of the test rows
    settings: Settings | None = None
    model: PropertyModel | None = None


class Methods:
    """The methods as functions of their name, a split, its number and a seed, and what they share."""

    def __init__(
        self,
        dataset: Dataset,
        refit: bool,
        steps: int | None,
        settings: Mapping[str, OfFolds],
        trials: int,
        run_dir: str | Path | None,
        resume: bool,
    ):
        self.dataset = dataset
        self.refit = refit
        self.steps = steps
        self.settings = settings
        self.trials = trials
        self.run_dir = Path(run_dir).expanduser() if run_dir else None
        self.resume = resume
        self.counted: dict[tuple[str, int], np.ndarray] = {}
        self.best: dict[tuple[str, int], Linear] = {}
        self.by_name: dict[str, Callable[[str, Split, int, int], Answer]] = {
            MEAN: self.mean,
            CIRCULAR_LINEAR: partial(self.linear, "circular"),
            CIRCULAR_NET: partial(self.circular_net, "circular"),
            MORGAN_LINEAR: partial(self.linear, "morgan"),
            MORGAN_NET: partial(self.circular_net, "morgan"),
            **dict.fromkeys(NEURAL, self.neural),
        }

    def mean(self, method: str, split: Split, number: int, seed: int) -> Answer:
        return Answer(np.full(len(split.test), self.dataset.targets[self.rows(split)].mean()))

    def linear(self, kind: str, method: str, split: Split, number: int, seed: int) -> Answer:
        given = None if self.trials else self.given(method, number, Linear)
        chosen = given or self.best_linear(kind, split, number)
        x, rows = self.features(kind, chosen), self.rows(split)
        predictions = next(ridge(x[rows], self.dataset.targets[rows], x[split.test], [chosen.penalty]))
        return Answer(predictions, chosen)

    def circular_net(self, kind: str, method: str, split: Split, number: int, seed: int) -> Answer:
        """If nothing is given, bits or counts as for the linear head, the radius and the steps anew."""
        given = self.given(method, number, CircularNet)
        if self.trials:
            training = self.limited(given.training if given else CIRCULAR_TRAINING, seed)
            drawn = circular_candidates(self.trials, seed, training)
            best, *_ = halving(drawn, lambda c: self.fit(c, kind, split, seed).validation_error)
            candidates = [best.settings]
        elif given:
            candidates = [given]
        else:
            features = self.best_linear(kind, split, number).features
            candidates = [CircularNet(radius, features, NET_HIDDEN, CIRCULAR_TRAINING) for radius in RADII]
        return self.best_fit(candidates, kind, split, seed)

    def neural(self, method: str, split: Split, number: int, seed: int) -> Answer:
        settings = self.given(method, number, Neural) or NEURAL[method]
        if self.trials:
            best, *_ = tune(
                self.dataset.molecules,
                self.dataset.targets,
                split,
                trials=self.trials,
                seed=seed,
                model=settings.model,
                training=self.limited(settings.training, seed),
                variants=(settings.model.variant,),
            )
            settings = best.settings
        return self.best_fit([settings], method.partition(" ")[0], split, seed)

    def given(self, method: str, number: int, kind: type[OfMethod]) -> OfMethod | None:
        if method not in self.settings:
            return None
        found = of_fold(self.settings[method], number)
        if not isinstance(found, kind):
            raise ValueError(f"{method} needs settings of the kind {kind.__name__}, not {found}")
        return found

    def rows(self, split: Split) -> np.ndarray:
        """What the tested model is fitted to."""
        return np.concatenate([split.train, split.validation]) if self.refit else split.train

    def features(self, kind: str, settings: Linear | CircularNet) -> Float[np.ndarray, "rows length"]:
        """A circular fingerprint of all molecules. What is kept of it are the counts, in two bytes each."""
        if (kind, settings.radius) not in self.counted:
            compute = circular_fingerprints if kind == "circular" else morgan_fingerprints
            options = {"radius": settings.radius, "length": CIRCULAR_LENGTH, "counts": True}
            self.counted[kind, settings.radius] = compute(self.dataset.molecules, **options).astype(np.uint16)
        counts = self.counted[kind, settings.radius]
        if settings.features == "log counts":
            return np.log1p(counts, dtype=np.float32)
        return (counts > 0 if settings.features == "bits" else counts).astype(np.float32)

    def best_linear(self, kind: str, split: Split, number: int) -> Linear:
        """The one whose ridge regression has the lowest validation error."""
        if (kind, number) not in self.best:
            errors: dict[float, Linear] = {}
            targets = self.dataset.targets
            for radius, features in LINEAR_CHOICES:
                x = self.features(kind, Linear(radius, features, 0.0))
                fits = ridge(x[split.train], targets[split.train], x[split.validation], PENALTIES)
                for penalty, predictions in zip(PENALTIES, fits, strict=True):
                    error = float(np.mean((predictions - targets[split.validation]) ** 2))
                    errors[error] = Linear(radius, features, float(penalty))
            self.best[kind, number] = errors[min(errors)]
        return self.best[kind, number]

    def best_fit(
        self, candidates: Sequence[CircularNet | Neural], kind: str, split: Split, seed: int
    ) -> Answer:
        """The candidate with the lowest validation error, after the number of steps that was best."""
        candidates = [replace(c, training=self.limited(c.training, seed)) for c in candidates]
        if self.refit and len(candidates) == 1 and not candidates[0].training.patience:
            return self.fit_again(candidates[0], kind, split, seed)
        fits = [(self.fit(c, kind, split, seed, f"{number}"), c) for number, c in enumerate(candidates)]
        result, chosen = min(fits, key=lambda fit: fit[0].validation_error)
        training = replace(chosen.training, steps=result.best_step, patience=0)
        chosen = replace(chosen, training=training)
        if self.refit:
            return self.fit_again(chosen, kind, split, seed)
        return self.answer(result.model, chosen, kind, split)

    def fit_again(self, chosen: CircularNet | Neural, kind: str, split: Split, seed: int) -> Answer:
        """On training and validation rows, for all steps of the settings."""
        everything = split._replace(train=self.rows(split), validation=split.validation[:0])
        return self.answer(self.fit(chosen, kind, everything, seed, "refit").model, chosen, kind, split)

    def answer(self, model: nnx.Module, chosen: CircularNet | Neural, kind: str, split: Split) -> Answer:
        predictions = predict(model, _taken(self.inputs(chosen, kind), split.test))
        return Answer(predictions, chosen, model if isinstance(model, PropertyModel) else None)

    def fit(
        self, settings: CircularNet | Neural, kind: str, split: Split, seed: int, name: str = ""
    ) -> TrainResult:
        rngs = nnx.Rngs(seed)
        if isinstance(settings, Neural):
            model, head = PropertyModel(**asdict(settings.model), rngs=rngs), settings.model.hidden
        else:
            model, head = Head(CIRCULAR_LENGTH, hidden=settings.hidden, rngs=rngs), settings.hidden
        folder = f"{kind}-{'net' if head else 'linear'}-{seed}-{name}"
        return train(
            model,
            self.inputs(settings, kind),
            self.dataset.targets,
            split.train,
            split.validation,
            settings.training,
            run_dir=self.run_dir / folder if self.run_dir and name else None,
            resume=self.resume,
        )

    def inputs(self, settings: CircularNet | Neural, kind: str) -> Inputs:
        return self.dataset.molecules if isinstance(settings, Neural) else self.features(kind, settings)

    def limited(self, training: TrainConfig, seed: int) -> TrainConfig:
        return replace(training, steps=min(training.steps, self.steps or training.steps), seed=seed)


def _taken(inputs: Inputs, rows: np.ndarray) -> Inputs:
    return inputs[rows] if isinstance(inputs, np.ndarray) else inputs.take(rows)
