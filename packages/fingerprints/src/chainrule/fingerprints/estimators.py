"""scikit-learn estimators whose X is a column of SMILES; they need the extra [sklearn].

One can
- predict numbers (`NeuralFingerprintRegressor`) and yes or no (`NeuralFingerprintClassifier`), of one
  target or of several,
- turn molecules into features for any other estimator (`CircularFingerprintTransformer`,
  `NeuralFingerprintTransformer`, of random weights or trained).

All can be cloned, pickled, and put into a Pipeline, a ColumnTransformer or a GridSearchCV. X is a list, an
array, a Series, or a table of one column; its rows are counted from 0 in messages. A pickle is for the
versions that made it; `fitted_.save(folder)` keeps a model for good, as `train` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from chainrule.fingerprints.circular import Rule, circular_fingerprints
from chainrule.fingerprints.configs import CHOSEN_MODEL, CHOSEN_TRAINING, Kind, ModelConfig, TrainConfig
from chainrule.fingerprints.environments import Batch
from chainrule.fingerprints.fitting import Fitted, fit
from chainrule.fingerprints.model import PropertyModel
from chainrule.fingerprints.molecules import Molecules, featurize
from chainrule.fingerprints.neural import NeuralFingerprint, neural_fingerprint
from chainrule.fingerprints.objective import Prediction
from chainrule.fingerprints.prediction import knows_spread, predict, predict_distribution
from chainrule.fingerprints.splits import Split, random_splits

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
    from sklearn.utils import check_consistent_length, check_random_state
    from sklearn.utils.validation import (
        check_is_fitted,
        validate_data,  # pyrefly: ignore[missing-module-attribute]  # its stubs are of an older scikit-learn
    )
except ImportError as error:
    raise ImportError(
        "chainrule.fingerprints.estimators needs scikit-learn 1.6 or newer: "
        "pip install 'chainrule-fingerprints[sklearn]'"
    ) from error

SEEDS = 2**20  # as many can be drawn from a random_state that is no number
RULES: dict[str, Rule] = {"morgan": "morgan", "circular": "algorithm 1"}

Column = Any  # of SMILES, as the module's docstring says

# scikit-learn reads an estimator's parameters from its __init__: a dataclass writes that, and nothing more.
estimator = dataclass(kw_only=True, eq=False, repr=False)


@estimator
class _OfSmiles(BaseEstimator):
    """What all have in common: how X is read."""

    on_invalid: Literal["fail", "nan"] = "fail"  # nan: such rows get NaN, and are left out when fitting

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()  # pyrefly: ignore[missing-attribute]  # as above
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # numbers are no molecules
        tags.input_tags.allow_nan = self.on_invalid == "nan"
        return tags

    def _column(self, X: Column, *, fitting: bool = False) -> list:
        """The cells of X, whatever they are."""
        if self.on_invalid not in ("fail", "nan"):
            raise ValueError(f"on_invalid={self.on_invalid!r} must be 'fail' or 'nan'")
        cells = np.asarray(X, object)
        if cells.ndim not in (1, 2) or cells.shape[1:] not in ((), (1,)):
            raise ValueError(
                f"X has shape {cells.shape}; give one column of SMILES: a list, a Series, or X[['smiles']]"
            )
        # The name of the column is kept, and compared; a list has none, and is the same to a model.
        if fitting or (cells.ndim == 2 and hasattr(self, "feature_names_in_")):
            table = X if cells.ndim == 2 else cells[:, None]
            validate_data(self, table, reset=fitting, skip_check_array=True)
        return cells.ravel().tolist()

    def _refuse(self, molecules: Molecules, invalid: Bool[np.ndarray, " rows"]) -> None:
        if self.on_invalid == "fail" and invalid.any():
            row = int(np.argmax(invalid))
            raise ValueError(
                f"row {row} of X has the SMILES {molecules.smiles[row]!r}: {molecules.reasons[row]}; leave "
                "it out, or set on_invalid='nan'"
            )


@estimator
class _Neural(_OfSmiles):
    """What is made of a neural fingerprint; see `ModelConfig` and `TrainConfig` for most of this."""

    depth: int = CHOSEN_MODEL.depth
    width: int = CHOSEN_MODEL.width
    length: int = CHOSEN_MODEL.length
    variant: Literal["talk", "original", "messages"] = CHOSEN_MODEL.variant
    hidden: int = CHOSEN_MODEL.hidden
    steps: int = CHOSEN_TRAINING.steps
    batch_size: int = CHOSEN_TRAINING.batch_size
    learning_rate: float = CHOSEN_TRAINING.learning_rate
    weight_decay: float = CHOSEN_TRAINING.weight_decay
    evaluate_every: int = CHOSEN_TRAINING.evaluate_every
    patience: int = CHOSEN_TRAINING.patience
    validation_fraction: float = 0.1  # of the rows, by which the best moment is chosen; 0: the last one
    random_state: int | np.random.RandomState | None = 0  # of first weights, batches and validation rows

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _molecules(self, X: Column, *, fitting: bool = False) -> Molecules:
        molecules = featurize(self._column(X, fitting=fitting))
        self._refuse(molecules, ~molecules.valid)
        return molecules

    def _fit(
        self, X: Column, targets: Float[np.ndarray, "rows ..."], *, task: Any, members: int = 1
    ) -> Fitted:
        molecules = self._molecules(X, fitting=True)
        check_consistent_length(molecules.smiles, targets)
        rows = np.flatnonzero(molecules.valid)
        if not len(rows):
            raise ValueError(f"X has {len(molecules)} rows and no molecule to learn from; a minimum is 1")
        for column in np.flatnonzero(np.isnan(targets[rows]).reshape(len(rows), -1).all(axis=0)):
            raise ValueError(f"column {column} of y has no value for any molecule; leave it out")
        seed = self._seed()
        model = ModelConfig(self.depth, self.width, self.length, self.variant, self.hidden, task)
        training = TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            evaluate_every=self.evaluate_every,
            patience=self.patience,
            seed=seed,
        )
        return fit(molecules, targets, self._split(rows, seed), model, training, members=members)

    def _split(self, rows: np.ndarray, seed: int) -> Split:
        n, fraction = len(rows), self.validation_fraction
        if fraction and not 0 < round(fraction * n) < n:
            raise ValueError(
                f"validation_fraction={fraction} of n_samples={n} leaves no molecule to choose by, or none "
                "to train on; 0 keeps the last weights instead of the best"
            )
        split = random_splits(n, 1, seed=seed, validation=fraction, test=0.0)[0]
        return Split(*(rows[part] for part in split))

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(SEEDS))


@estimator
class NeuralFingerprintRegressor(RegressorMixin, _Neural):
    """Numbers predicted from neural fingerprints that are trained end to end.

    y is one number per row, or a column per target, NaN where that was not measured. The parameters are
    those of `ModelConfig` and `TrainConfig`, and four more: `members` of an ensemble,
    `validation_fraction`, `random_state` and `on_invalid`.

    Attributes:
        fitted_: the `Fitted` model and how it does on the validation rows.

    Example:
        >>> regressor = NeuralFingerprintRegressor(steps=50, validation_fraction=0.0)
        >>> regressor.fit(["C", "CC", "CCC", "CCO"], [0.2, 0.1, 0.0, 1.1]).predict(["CCCO"]).shape
        (1,)
    """

    task: Literal["regression", "mean_variance"] = "regression"  # the latter also learns how far it is off
    members: int = 1  # of an ensemble; 1: none

    def fit(self, X: Column, y: Any) -> NeuralFingerprintRegressor:
        if self.task not in ("regression", "mean_variance"):
            raise ValueError(
                f"task={self.task!r} must be 'regression' or 'mean_variance'; yes or no is for "
                "NeuralFingerprintClassifier"
            )
        self.fitted_ = self._fit(X, _array(y, float), task=self.task, members=self.members)
        return self

    def predict(self, X: Column, return_std: bool = False) -> Float[np.ndarray, "rows ..."] | Prediction:
        """Predictions, or with `return_std` the pair of them and their standard deviations.

        These are calibrated if there were 20 validation rows of each target (`fitted_.calibrated`); else they
        are only how far the members disagree, or what the model itself expects.

        Raises:
            ValueError: the model knows no spread.
        """
        check_is_fitted(self)
        model = self.fitted_.model
        if return_std and not knows_spread(model):
            raise ValueError(
                "return_std=True needs members=5, or so, or task='mean_variance'; then fit again"
            )
        molecules = self._molecules(X)
        return predict_distribution(model, molecules) if return_std else predict(model, molecules)


@estimator
class NeuralFingerprintClassifier(ClassifierMixin, _Neural):
    """One of two classes, its probability predicted from neural fingerprints that are trained end to end.

    y is one label per row, of any kind, or a column per question, None or NaN where there is no answer.
    With columns, `classes_` and the probabilities are lists with an item for each, as elsewhere in
    scikit-learn. Parameters and attributes are as of `NeuralFingerprintRegressor`, without `task`.

    Attributes:
        classes_: the two labels, sorted; the second one is what the model says yes to.
    """

    members: int = 1  # of an ensemble; 1: none

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Column, y: Any) -> NeuralFingerprintClassifier:
        labels = _array(y, object)
        if labels.ndim not in (1, 2):
            raise ValueError(f"y has shape {labels.shape}; give a label per row, or a column per question")
        columns = labels.reshape(len(labels), -1).T
        classes, targets = zip(*(_coded(column, k) for k, column in enumerate(columns)), strict=True)
        self.fitted_ = self._fit(
            X, np.stack(targets, axis=1).reshape(labels.shape), task="classification", members=self.members
        )
        self.classes_: Any = classes[0] if labels.ndim == 1 else list(classes)
        return self

    def predict_proba(
        self, X: Column
    ) -> Float[np.ndarray, "rows classes"] | list[Float[np.ndarray, "rows classes"]]:
        """The probabilities of the two classes, in the order of `classes_`."""
        check_is_fitted(self)
        yes = predict(self.fitted_.model, self._molecules(X))
        both = np.stack([1 - yes, yes], axis=-1)
        return both if yes.ndim == 1 else list(both.swapaxes(0, 1))

    def predict(self, X: Column) -> np.ndarray:
        """The more probable class of each row; NaN where the row is invalid."""
        probabilities = self.predict_proba(X)
        if isinstance(probabilities, list):
            return np.stack(list(map(_likelier, self.classes_, probabilities)), axis=1)
        return _likelier(self.classes_, probabilities)


class _Features(TransformerMixin):
    """What transformers give: float32, whatever X is, in columns named as in files of fingerprints."""

    length: int

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()  # pyrefly: ignore[missing-attribute]  # as above
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        return np.array([f"fp{entry}" for entry in range(self.length)], object)


@estimator
class NeuralFingerprintTransformer(_Features, _Neural):
    """Neural fingerprints as features: trained end to end on y, or of random weights.

    Trained, they are those below the head that predicts y; the parameters are as of
    `NeuralFingerprintRegressor`, and y as `task` has it: numbers, or 0 and 1 for "classification". Of
    random weights they are close to circular fingerprints if the weights are large (`random_weights` 10 or
    more and a `length` of some thousands), see `random_weights`; then y is not looked at.

    Attributes:
        fingerprint_: the `NeuralFingerprint`, a flax module.
    """

    task: Literal["regression", "mean_variance", "classification"] = "regression"
    random_weights: float | None = None  # `scale` of `init_weights`, activations are tanh; None: trained

    def fit(self, X: Column, y: Any = None) -> NeuralFingerprintTransformer:
        if self.random_weights is not None:
            self._column(X, fitting=True)
            self.fingerprint_ = _Tanh(
                depth=self.depth,
                width=self.width,
                length=self.length,
                variant=self.variant,
                scale=self.random_weights,
                rngs=nnx.Rngs(self._seed()),
            )
        elif y is None:
            raise ValueError("y is None: give targets to train on, or set random_weights=10.0, untrained")
        else:
            model = self._fit(X, _array(y, float), task=self.task).model
            assert isinstance(model, PropertyModel)
            self.fingerprint_ = model.fingerprint
        return self

    def transform(self, X: Column) -> Float[np.ndarray, "rows length"]:
        check_is_fitted(self)
        return predict(self.fingerprint_, self._molecules(X))


@estimator
class CircularFingerprintTransformer(_Features, _OfSmiles):
    """Circular fingerprints as features, see `circular_fingerprints`; nothing is fitted."""

    kind: Kind = "morgan"  # the rule, "circular" being Algorithm 1 of the talk
    radius: int = 2
    length: int = 2048
    counts: bool = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def fit(self, X: Column, y: Any = None) -> CircularFingerprintTransformer:
        self._column(X, fitting=True)
        return self

    def transform(self, X: Column) -> Float[np.ndarray, "rows length"]:
        if self.kind not in RULES:
            raise ValueError(f"kind={self.kind!r} must be one of {tuple(RULES)}")
        molecules = featurize(self._column(X))
        values = circular_fingerprints(
            molecules, rule=RULES[self.kind], radius=self.radius, length=self.length, counts=self.counts
        )
        self._refuse(molecules, np.isnan(values[:, 0]))  # RDKit makes them of some that are no graph
        return values


class _Tanh(NeuralFingerprint):
    """With the activation of the talk's argument that large random weights make a hash."""

    def __call__(self, batch: Batch) -> Float[Array, "molecules length"]:
        return neural_fingerprint(self.weights, batch, activation=jnp.tanh)


def _array(y: Any, dtype: type) -> np.ndarray:
    if y is None:
        raise ValueError("an estimator that learns requires y to be passed, but the target y is None")
    return np.asarray(y, dtype)


def _coded(labels: np.ndarray, column: int) -> tuple[np.ndarray, Float[np.ndarray, " rows"]]:
    """The two labels there are, and the column in 0 and 1, NaN where there is no answer."""
    given = np.array([label is not None and label == label for label in labels], bool)
    classes, codes = np.unique(labels[given], return_inverse=True)
    if len(classes) != 2:
        some = ", ".join(map(repr, classes[:3])) + ", .." * (len(classes) > 3)
        raise ValueError(
            f"Only binary classification is supported, and column {column} of y has {len(classes)} classes: "
            f"{some}; for more than two see sklearn.multiclass.OneVsRestClassifier"
        )
    targets = np.full(len(labels), np.nan)
    targets[given] = codes
    return np.array(classes.tolist()), targets  # with the labels' own type, where that is not object


def _likelier(classes: np.ndarray, probabilities: Float[np.ndarray, "rows classes"]) -> np.ndarray:
    labels = classes[(probabilities[:, 1] > 0.5).astype(int)]
    unknown = np.isnan(probabilities[:, 1])
    if unknown.any():  # NaN fits beside numbers and, as an object, beside anything
        labels = labels.astype(np.float64 if np.issubdtype(classes.dtype, np.number) else object)
        labels[unknown] = np.nan
    return labels
